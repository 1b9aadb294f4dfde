-- Whether anything was ever migrated here.
select to_regclass('checkpointd.schema_migrations') is not null as present
