-- The files that this database has.
select name, checksum from checkpointd.schema_migrations order by name
