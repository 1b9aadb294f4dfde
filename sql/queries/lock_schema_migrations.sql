-- One migrator at a time. A lock that no reader can take, unlike an advisory one.
lock table checkpointd.schema_migrations in share row exclusive mode
