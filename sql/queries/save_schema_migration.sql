-- Note a file as applied. $1 name, $2 checksum.
insert into checkpointd.schema_migrations (name, checksum) values ($1, $2)
on conflict (name) do update set checksum = excluded.checksum, applied_at = clock_timestamp()
