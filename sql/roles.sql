-- Creates the roles and grants each its rights. `checkpointd migrate` runs this file if its own role may. If not,
-- an administrator runs it, at any time and again after each upgrade: psql -d DATABASE -f roles.sql
--
--   checkpointd_owner     owns both schemas and everything in them; the role that migrates is a member of it
--   checkpointd           the daemon and its commands: selects, inserts and updates; deletes and creates nothing
--   checkpointd_operator  calls fine_tuning.track, untrack, resync and set_objective
--   checkpointd_reader    reads the views, and calls the functions that only read
--
-- None of them can log in. Either create a login that is a member (create role grafana login password '…' in role
-- checkpointd_reader), or let the role itself log in (alter role checkpointd login password '…'). Members inherit
-- privileges, but not the settings below: these apply only if the role itself logs in.
--
-- Whatever exists already is left as it is, in particular settings that an administrator has changed. So running this
-- file again does not require the right to create roles.

-- Find PostgreSQL's own functions and operators only. Otherwise this file, which a superuser runs, would call what the
-- owner of the database has put into schema public.
set search_path = pg_catalog, pg_temp;

do $$
declare
  wanted record;
begin
  for wanted in
    select roles.name, roles.options
    from (
      values
        ('checkpointd_owner', ''),
        ('checkpointd', ''),
        ('checkpointd_operator', ''),
        ('checkpointd_reader', 'connection limit 20')
    ) as roles (name, options)
    where to_regrole(roles.name) is null
  loop
    begin
      execute format('create role %I %s', wanted.name, wanted.options);
    exception when duplicate_object or unique_violation then
      null;  -- Roles belong to the whole server: the migration of another database created it at the same time.
    end;
    if wanted.name = 'checkpointd_owner' and not pg_has_role('checkpointd_owner', 'usage') then
      execute format('grant checkpointd_owner to %I', current_user);
    end if;
  end loop;
end $$;

do $$
declare
  setting record;
begin
  for setting in
    select settings.role, settings.name, settings.value
    from (
      values
        ('checkpointd', 'statement_timeout', '15s'),
        ('checkpointd', 'lock_timeout', '3s'),
        -- A client that freezes inside a transaction must not keep its locks.
        ('checkpointd', 'idle_in_transaction_session_timeout', '3s'),
        ('checkpointd', 'search_path', 'pg_catalog'),
        ('checkpointd', 'client_connection_check_interval', '5s'),
        -- PostgreSQL 17 or newer. It ends the session, so it is longer than statement_timeout, which ends a statement.
        ('checkpointd', 'transaction_timeout', '20s'),
        ('checkpointd', 'tcp_keepalives_idle', '15s'),
        ('checkpointd', 'tcp_keepalives_interval', '5s'),
        ('checkpointd', 'tcp_keepalives_count', '3'),
        ('checkpointd_operator', 'statement_timeout', '15s'),
        ('checkpointd_operator', 'lock_timeout', '3s'),
        ('checkpointd_operator', 'idle_in_transaction_session_timeout', '3s'),
        ('checkpointd_reader', 'statement_timeout', '60s'),
        ('checkpointd_reader', 'idle_in_transaction_session_timeout', '60s'),
        ('checkpointd_reader', 'tcp_keepalives_idle', '30s'),
        ('checkpointd_reader', 'TimeZone', 'UTC')
    ) as settings (role, name, value)
    where not exists (
      select from pg_db_role_setting
      cross join unnest(pg_db_role_setting.setconfig) as configured (entry)
      where pg_db_role_setting.setrole = settings.role::regrole
        and split_part(configured.entry, '=', 1) = settings.name
        and configured.entry <> 'transaction_timeout=12s'  -- set by 0.1.0, and shorter than statement_timeout
    )
  loop
    begin
      execute format('alter role %I set %I = %L', setting.role, setting.name, setting.value);
    exception when undefined_object or invalid_parameter_value or insufficient_privilege then
      -- The server is too old, or its system does not support the setting. Or an administrator created the role, and
      -- has to give it the settings that it needs.
      null;
    end;
  end loop;
end $$;

do $$
declare
  object record;
  holder name;
begin
  perform set_config('lock_timeout', '250ms', true);  -- a lock that waits for a table makes all others wait behind it
  if pg_has_role('checkpointd_owner', 'usage') then
    -- The previous owner has migrated the database, and perhaps runs the daemon: it keeps its rights as a member.
    select pg_roles.rolname
    into holder
    from pg_namespace
    join pg_roles on pg_roles.oid = pg_namespace.nspowner
    where pg_namespace.nspname = 'checkpointd'
      and pg_roles.rolname <> 'checkpointd'
      and not pg_has_role(pg_roles.oid, 'checkpointd_owner', 'usage');
    if found then
      execute format('grant checkpointd_owner to %I', holder);
    end if;
    for object in
      select 1 as rank, format('schema %I', nspname) as name
      from pg_namespace
      where nspname in ('checkpointd', 'fine_tuning')
        and nspowner <> 'checkpointd_owner'::regrole
      union all
      select 2, format('%s %s', case relkind when 'v' then 'view' else 'table' end, oid::regclass)
      from pg_class
      where relnamespace in (to_regnamespace('checkpointd'), to_regnamespace('fine_tuning'))
        and relkind in ('r', 'v')
        and relowner <> 'checkpointd_owner'::regrole
      union all
      select 3, format('routine %s', oid::regprocedure)
      from pg_proc
      where pronamespace in (to_regnamespace('checkpointd'), to_regnamespace('fine_tuning'))
        and proowner <> 'checkpointd_owner'::regrole
      order by rank
    loop
      execute format('alter %s owner to checkpointd_owner', object.name);
    end loop;
  end if;
  select nspowner::regrole
  into holder
  from pg_namespace
  where nspname = 'checkpointd'
    and nspowner::regrole::text in ('checkpointd', 'checkpointd_operator', 'checkpointd_reader');
  if found then  -- The next block would revoke rights that an owner needs.
    raise exception 'the owner of schema checkpointd, %, is not a member of checkpointd_owner', holder
      using errcode = 'insufficient_privilege', hint = 'Run roles.sql as a superuser.';
  end if;
end $$;

do $$
declare
  callable record;
begin
  if to_regclass('checkpointd.schema_migrations') is null or to_regnamespace('fine_tuning') is null then
    return;  -- The database is not migrated yet.
  end if;
  revoke all on schema checkpointd, fine_tuning from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all tables in schema checkpointd, fine_tuning
    from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all sequences in schema checkpointd, fine_tuning
    from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all routines in schema checkpointd, fine_tuning
    from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all routines in schema fine_tuning from public;

  grant usage on schema checkpointd to checkpointd;
  grant select, insert, update on all tables in schema checkpointd to checkpointd;
  revoke update on checkpointd.changes, checkpointd.operations, checkpointd.events, checkpointd.earlier_steps
    from checkpointd;  -- They are append-only.
  revoke insert on checkpointd.feed_gate, checkpointd.finding_cursor from checkpointd;  -- Each has exactly one row.
  revoke insert, update on checkpointd.schema_migrations, checkpointd.given_objectives from checkpointd;
  revoke select, insert, update on checkpointd.curves from checkpointd;  -- Only views read it.

  grant usage on schema fine_tuning to checkpointd, checkpointd_operator, checkpointd_reader;
  grant select on all tables in schema fine_tuning to checkpointd, checkpointd_reader;
  for callable in
    select oid::regprocedure as name, prosecdef, provolatile,
      pronamespace = 'checkpointd'::regnamespace as is_private
    from pg_proc
    where pronamespace in ('fine_tuning'::regnamespace, 'checkpointd'::regnamespace)
  loop
    if callable.is_private and callable.provolatile <> 'v' then
      -- Views and queries use these functions. A view calls them with the rights of the role that reads it.
      execute format('grant execute on routine %s to checkpointd, checkpointd_reader', callable.name);
    elsif callable.is_private then
      execute format('revoke all on routine %s from public', callable.name);
      execute format('grant execute on routine %s to checkpointd', callable.name);
    elsif callable.prosecdef then
      execute format('grant execute on routine %s to checkpointd_operator', callable.name);
    else
      execute format('grant execute on routine %s to checkpointd, checkpointd_reader', callable.name);
    end if;
  end loop;
end $$;

-- All locks of a server share one table of fixed size. A login that takes some thousands of them stops everybody, and
-- no timeout ends that, because a login can change its own. Many locks are taken as advisory locks, or by creating
-- temporary tables or large objects; the latter also prevent backups. If the database holds nothing but checkpointd,
-- nothing needs these rights, and they are revoked from everybody: that to create temporary tables by the owner of the
-- database, the others by a superuser.
do $$
declare
  callable regprocedure;
begin
  if exists (
    select from pg_class
    join pg_namespace on pg_namespace.oid = pg_class.relnamespace
    where pg_namespace.nspname not in ('checkpointd', 'fine_tuning', 'information_schema')
      and pg_namespace.nspname !~ '^pg_'
      and not exists (
        select from pg_depend
        where pg_depend.classid = 'pg_class'::regclass
          and pg_depend.objid = pg_class.oid
          and pg_depend.deptype = 'e'
      )
  ) then
    return;
  end if;
  if exists (
    select from pg_database
    where datname = current_database()
      and pg_has_role(datdba, 'usage')
      and has_database_privilege('public', oid, 'temporary')
  ) then
    execute format('revoke temporary on database %I from public', current_database());
  end if;
  for callable in
    select oid::regprocedure
    from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace
      and proname ~ '^(pg_(try_)?advisory_(xact_)?lock|lo_(creat|from_bytea|import))'
      and has_function_privilege('public', oid, 'execute')
      and pg_has_role(proowner, 'usage')
  loop
    execute format('revoke execute on routine %s from public', callable);
  end loop;
end $$;

reset search_path;
