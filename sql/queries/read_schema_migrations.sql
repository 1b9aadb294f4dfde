-- List the files that were applied to this database.
select name, checksum
from checkpointd.schema_migrations
order by name
