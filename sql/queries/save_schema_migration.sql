-- Record that a file was applied to this database.
-- $1 name: text, of the migration, or of the views with their version
-- $2 checksum: text, sha256 of the file in hexadecimal
insert into checkpointd.schema_migrations (name, checksum)
values ($1, $2)
on conflict (name) do update
set checksum = excluded.checksum, applied_at = clock_timestamp()
