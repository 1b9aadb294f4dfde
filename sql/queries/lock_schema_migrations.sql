-- Let only one process migrate at a time: lock the table of applied migrations until the transaction ends.
--
-- A role that only reads cannot take this lock. An advisory lock could be taken by any role.
lock table checkpointd.schema_migrations in share row exclusive mode
