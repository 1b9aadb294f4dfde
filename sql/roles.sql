-- The roles and what each may do. `checkpointd migrate` runs this where its own role may; elsewhere an administrator does,
-- at any time, and again after each upgrade: psql -d DATABASE -f roles.sql
--
--   checkpointd_owner     owns both schemas and all in them; who migrates is a member of it
--   checkpointd           the daemon and its commands: reads, inserts, updates; deletes nothing, defines nothing
--   checkpointd_operator  calls fine_tuning.track, untrack and resync
--   checkpointd_reader    reads the views, and calls the functions that only read
--
-- None of them can log in: give a login to them (create role grafana login password '…' in role checkpointd_reader), or
-- make one a login (alter role checkpointd login password '…'). PostgreSQL hands privileges on to members, but not the
-- settings below: those hold for who logs in as the role itself.
--
-- What is so already is left alone, a setting that somebody chose above all, so that a rerun needs no rights on roles.

do $$
declare
  wanted record;
begin
  for wanted in
    select * from (values
      ('checkpointd_owner', ''), ('checkpointd', ''), ('checkpointd_operator', ''),
      ('checkpointd_reader', 'connection limit 20')) as w (role, options)
    where to_regrole(w.role) is null
  loop
    begin
      execute format('create role %I %s', wanted.role, wanted.options);
    exception when duplicate_object or unique_violation then
      null;  -- roles belong to the cluster: another of its databases was migrated at the same time
    end;
    if wanted.role = 'checkpointd_owner' and not pg_has_role('checkpointd_owner', 'usage') then
      execute format('grant checkpointd_owner to %I', current_user);
    end if;
  end loop;
end $$;

do $$
declare
  setting record;
begin
  for setting in
    select * from (values
      ('checkpointd', 'statement_timeout', '15s'),
      ('checkpointd', 'lock_timeout', '3s'),
      -- a client that froze inside a transaction must not hold its locks
      ('checkpointd', 'idle_in_transaction_session_timeout', '3s'),
      ('checkpointd', 'search_path', 'pg_catalog'),
      ('checkpointd', 'client_connection_check_interval', '5s'),
      ('checkpointd', 'transaction_timeout', '12s'),  -- of PostgreSQL 17 or newer
      ('checkpointd', 'tcp_keepalives_idle', '15s'),
      ('checkpointd', 'tcp_keepalives_interval', '5s'),
      ('checkpointd', 'tcp_keepalives_count', '3'),
      ('checkpointd_operator', 'statement_timeout', '15s'),
      ('checkpointd_operator', 'lock_timeout', '3s'),
      ('checkpointd_operator', 'idle_in_transaction_session_timeout', '3s'),
      ('checkpointd_reader', 'statement_timeout', '60s'),
      ('checkpointd_reader', 'idle_in_transaction_session_timeout', '60s'),
      ('checkpointd_reader', 'tcp_keepalives_idle', '30s')) as s (role, name, value)
    where not exists (
      select from pg_db_role_setting d cross join unnest(d.setconfig) as c (entry)
      where d.setrole = s.role::regrole and split_part(c.entry, '=', 1) = s.name)
  loop
    begin
      execute format('alter role %I set %I = %L', setting.role, setting.name, setting.value);
    exception when undefined_object or invalid_parameter_value or insufficient_privilege then
      null;  -- a server that is too old, or on a system that cannot do it; a role that somebody else made, who gives it what it needs
    end;
  end loop;
end $$;

do $$
declare
  item record;
  holder name;
begin
  perform set_config('lock_timeout', '250ms', true);  -- who waits for a table stops everybody behind
  if pg_has_role('checkpointd_owner', 'usage') then
    -- Who owned it so far migrated it, and perhaps runs the daemon: that goes on.
    select r.rolname into holder from pg_namespace n join pg_roles r on r.oid = n.nspowner
    where n.nspname = 'checkpointd' and r.rolname <> 'checkpointd' and not pg_has_role(r.oid, 'checkpointd_owner', 'usage');
    if found then
      execute format('grant checkpointd_owner to %I', holder);
    end if;
    for item in
      select 1 as rank, format('schema %I', n.nspname) as name from pg_namespace n
      where n.nspname in ('checkpointd', 'fine_tuning') and n.nspowner <> 'checkpointd_owner'::regrole
      union all
      select 2, format('%s %s', case c.relkind when 'v' then 'view' else 'table' end, c.oid::regclass) from pg_class c
      where c.relnamespace in (to_regnamespace('checkpointd'), to_regnamespace('fine_tuning')) and c.relkind in ('r', 'v')
        and c.relowner <> 'checkpointd_owner'::regrole
      union all
      select 3, format('function %s', p.oid::regprocedure) from pg_proc p
      where p.pronamespace in (to_regnamespace('checkpointd'), to_regnamespace('fine_tuning'))
        and p.proowner <> 'checkpointd_owner'::regrole
      order by rank
    loop
      execute format('alter %s owner to checkpointd_owner', item.name);
    end loop;
  end if;
  select n.nspowner::regrole into holder from pg_namespace n
  where n.nspname = 'checkpointd' and n.nspowner::regrole::text in ('checkpointd', 'checkpointd_operator', 'checkpointd_reader');
  if found then  -- what follows would take from an owner what it needs
    raise exception 'the schema belongs to %, who is no member of checkpointd_owner', holder using errcode = 'insufficient_privilege';
  end if;
end $$;

do $$
declare
  callable record;
begin
  if to_regclass('checkpointd.schema_migrations') is null or to_regnamespace('fine_tuning') is null then
    return;  -- not migrated yet
  end if;
  revoke all on schema checkpointd, fine_tuning from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all tables in schema checkpointd, fine_tuning from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all sequences in schema checkpointd, fine_tuning from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all functions in schema checkpointd, fine_tuning from checkpointd, checkpointd_operator, checkpointd_reader;
  revoke all on all functions in schema fine_tuning from public;

  grant usage on schema checkpointd to checkpointd;
  grant select, insert, update on all tables in schema checkpointd to checkpointd;
  revoke update on checkpointd.changes from checkpointd;  -- history
  revoke insert on checkpointd.feed_gate from checkpointd;  -- its one row
  revoke insert, update on checkpointd.schema_migrations from checkpointd;

  grant usage on schema fine_tuning to checkpointd, checkpointd_operator, checkpointd_reader;
  grant select on all tables in schema fine_tuning to checkpointd, checkpointd_reader;
  for callable in
    select p.oid::regprocedure as name, p.prosecdef, p.pronamespace = 'checkpointd'::regnamespace as is_private, p.provolatile
    from pg_proc p where p.pronamespace in ('fine_tuning'::regnamespace, 'checkpointd'::regnamespace)
  loop
    if callable.is_private and callable.provolatile <> 'v' then  -- they stand in views: their readers call them
      execute format('grant execute on function %s to checkpointd, checkpointd_reader', callable.name);
    elsif callable.is_private then
      execute format('revoke all on function %s from public', callable.name);
      execute format('grant execute on function %s to checkpointd', callable.name);
    elsif callable.prosecdef then
      execute format('grant execute on function %s to checkpointd_operator', callable.name);
    else
      execute format('grant execute on function %s to checkpointd, checkpointd_reader', callable.name);
    end if;
  end loop;
end $$;

-- Advisory locks share one table of a fixed size with all other locks: whoever takes some thousand of them stops everybody, and
-- no timeout ends it. Where nobody else lives in the database nobody else needs them; a superuser alone can take them away.
do $$
declare
  callable regprocedure;
begin
  if exists (
    select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname not in ('checkpointd', 'fine_tuning', 'information_schema') and n.nspname !~ '^pg_'
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'))
  then
    return;
  end if;
  for callable in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.proname ~ '^pg_(try_)?advisory_(xact_)?lock'
      and has_function_privilege('public', p.oid, 'execute') and pg_has_role(p.proowner, 'usage')
  loop
    execute format('revoke execute on function %s from public', callable);
  end loop;
end $$;
