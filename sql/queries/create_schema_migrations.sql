-- Create the table that lists which files of sql/ were applied to this database: each migration, and all views as one.
create table if not exists checkpointd.schema_migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp()
)
