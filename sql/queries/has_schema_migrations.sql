-- Return whether the table of applied migrations exists.
select to_regclass('checkpointd.schema_migrations') is not null as present
