-- Create the table of the files in sql/ that were applied to this database: each migration, and all views as one.
create table if not exists checkpointd.schema_migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp()
)
