-- The first thing in an empty database.
create schema if not exists checkpointd
