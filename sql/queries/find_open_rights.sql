-- Find what everybody may do that fills the server's lock table or breaks a backup, if readers or operators log in.
--
-- `remedy` is the statement that revokes the right. What is granted to a single login is granted on purpose.
with login as materialized (
  select
  from pg_roles
  where pg_roles.rolcanlogin
    and not pg_roles.rolsuper
    and (
      pg_has_role(pg_roles.oid, to_regrole('checkpointd_reader'), 'usage')
      or pg_has_role(pg_roles.oid, to_regrole('checkpointd_operator'), 'usage')
    )
  limit 1
)

select format('connect to database %I', pg_database.datname) as may,
  format('revoke connect on database %I from public', pg_database.datname) as remedy
from login
cross join pg_database
where pg_database.datallowconn
  and pg_database.datname <> current_database()
  and has_database_privilege('public', pg_database.oid, 'connect')
union all
select 'create temporary tables', format('revoke temporary on database %I from public', current_database())
from login
where has_database_privilege('public', current_database(), 'temporary')
union all
select kinds.may,
  format('revoke execute on function %s from public', string_agg(pg_proc.oid::regprocedure::text, ', ' order by oid))
from login
cross join (
  values
    ('take advisory locks', '^pg_(try_)?advisory_(xact_)?lock'),
    ('create large objects', '^lo_(creat|from_bytea|import)')
) as kinds (may, names)
join pg_proc on pg_proc.proname ~ kinds.names
where pg_proc.pronamespace = 'pg_catalog'::regnamespace
  and has_function_privilege('public', pg_proc.oid, 'execute')
group by kinds.may
order by may
