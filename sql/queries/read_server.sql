-- What the server and this session are: version, role, whether it can be written to, its clock, and the session's timeouts.
select current_setting('server_version_num')::int as version, current_setting('server_version') as version_name,
  current_user as role, coalesce(inet_server_addr()::text, 'a socket of this machine') as server,
  (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
  pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool as is_read_only,
  extract(epoch from clock_timestamp())::float8 as now,
  array(select name from pg_settings where setting = '0'
    and name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')) as endless
