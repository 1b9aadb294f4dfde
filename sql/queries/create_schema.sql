-- Create the private schema, before the first migration.
create schema if not exists checkpointd
