-- Read what differs once the database was restored.
--
-- These are the start of its server, and the numbers (oid) of the database and of a table: however it is restored, one
-- of them differs. The start also differs if the server was only restarted.
select pg_postmaster_start_time()::text as started_at, pg_database.oid::bigint as database,
  'checkpointd.sources'::regclass::oid::bigint as table
from pg_database
where datname = current_database()
