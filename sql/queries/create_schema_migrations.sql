-- Which files of sql/ this database has: each migration, and the views as one.
create table if not exists checkpointd.schema_migrations (
  name text primary key,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp()
)
