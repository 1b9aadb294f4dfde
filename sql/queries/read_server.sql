-- Read the version and state of the server, the current role, and the membership and settings that the role lacks.
--
-- `membership` is the statement that makes the role a member of checkpointd, or null if it is one. `unset` has a
-- statement for each setting of sql/roles.sql that this session lacks.
select current_setting('server_version_num')::int as version, current_setting('server_version') as version_name,
  current_user as role,
  coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a socket of this machine') as server,
  (select rolsuper from pg_roles where rolname = current_user) as is_superuser,
  (
    select format('grant %I to %I', rolname, current_user)
    from pg_roles
    where rolname = 'checkpointd'
      and not pg_has_role(oid, 'usage')
  ) as membership,
  pg_is_in_recovery() as is_standby, current_setting('default_transaction_read_only')::bool as is_read_only,
  extract(epoch from clock_timestamp())::float8 as now,
  array(
    select format('alter role %I set %I = %L', current_user, wanted.name, wanted.value)
    from (
      values
        ('statement_timeout', '15s'),
        ('lock_timeout', '3s'),
        ('idle_in_transaction_session_timeout', '3s'),
        ('transaction_timeout', '20s'),
        ('default_transaction_isolation', 'read committed'),
        ('search_path', 'pg_catalog')
    ) as wanted (name, value)
    join pg_settings on pg_settings.name = wanted.name
    where case wanted.name
      when 'search_path' then not current_schemas(false) <@ '{pg_catalog}'
      when 'default_transaction_isolation' then pg_settings.setting <> wanted.value
      when 'transaction_timeout' then pg_settings.setting in ('0', '12000')  -- 0.1.0 set 12 s, which is too short
      else pg_settings.setting = '0'
    end
    order by wanted.name
  ) as unset
