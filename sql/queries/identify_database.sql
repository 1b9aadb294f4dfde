-- Read what differs if the database is restored, whichever way: the start of its server, and the numbers (oid) of the
-- database and of a table. The start also differs if the server was only restarted.
select pg_postmaster_start_time()::text as started_at, pg_database.oid::bigint as database,
  'checkpointd.sources'::regclass::oid::bigint as table
from pg_database
where datname = current_database()
