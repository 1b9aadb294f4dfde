-- Return whether the embedded server has its database.
select exists (select from pg_catalog.pg_database where datname = 'checkpointd') as present
