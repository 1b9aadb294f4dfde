-- List what somebody added to the tables of checkpointd that hides, changes or loses rows.
--
-- The views of others are listed, too, if they use what an upgrade had to set aside.
--
-- `is_certain` is false if the current role is not affected, or if the effect is not known. Row-level security is
-- listed if it applies to the current role or to the role checkpointd.
select obstacles.what, obstacles.effect, obstacles.remedy, obstacles.is_certain
from pg_class as tables
cross join lateral (
  select 'row-level security on ' || tables.oid::regclass as what,
    'it hides rows from ' || case when row_security_active(tables.oid) then current_user else 'checkpointd' end
      as effect,
    format('alter table %s disable row level security', tables.oid::regclass) as remedy,
    row_security_active(tables.oid) as is_certain
  where tables.relrowsecurity
    and (
      row_security_active(tables.oid)
      or exists (
        select from pg_roles
        where pg_roles.rolname = 'checkpointd'
          and not pg_roles.rolbypassrls
          and not pg_roles.rolsuper
          and not pg_has_role(pg_roles.oid, tables.relowner, 'usage')
      )
    )
  union all
  select format('rule %I on %s', pg_rewrite.rulename, tables.oid::regclass),
    'it replaces what the daemon writes',
    format('drop rule %I on %s', pg_rewrite.rulename, tables.oid::regclass),
    true
  from pg_rewrite
  where pg_rewrite.ev_class = tables.oid
    and pg_rewrite.ev_enabled <> 'D'
  union all
  select format('trigger %I on %s', pg_trigger.tgname, tables.oid::regclass),
    'it can change or refuse what the daemon writes',
    format('drop trigger %I on %s', pg_trigger.tgname, tables.oid::regclass),
    false
  from pg_trigger
  where pg_trigger.tgrelid = tables.oid
    and not pg_trigger.tgisinternal
    and pg_trigger.tgenabled <> 'D'
  union all
  select 'unlogged table ' || tables.oid::regclass,
    'it is empty after a crash',
    format('alter table %s set logged', tables.oid::regclass),
    false
  where tables.relpersistence = 'u'
) as obstacles
where tables.relnamespace = to_regnamespace('checkpointd')
  and tables.relkind in ('r', 'p')
union all
select users.name, format('it uses %s, and does not show what changes', outdated.name), 'drop ' || users.name, false
from (
  select 'pg_class'::regclass as class, pg_class.oid, pg_describe_object('pg_class'::regclass, pg_class.oid, 0) as name
  from pg_class
  where pg_class.relnamespace = to_regnamespace('fine_tuning')
    and pg_class.relname like 'outdated %'
  union all
  select 'pg_proc'::regclass, pg_proc.oid, pg_describe_object('pg_proc'::regclass, pg_proc.oid, 0)
  from pg_proc
  where pg_proc.pronamespace in (to_regnamespace('checkpointd'), to_regnamespace('fine_tuning'))
    and pg_proc.proname like 'outdated %'
) as outdated
join pg_depend
  on pg_depend.refclassid = outdated.class
  and pg_depend.refobjid = outdated.oid
  and pg_depend.classid = 'pg_rewrite'::regclass
join pg_rewrite on pg_rewrite.oid = pg_depend.objid
join pg_class on pg_class.oid = pg_rewrite.ev_class
cross join lateral (
  select case pg_class.relkind when 'm' then 'materialized view ' else 'view ' end || pg_class.oid::regclass as name
) as users
where pg_class.oid <> outdated.oid
  and pg_class.relname not like 'outdated %'
group by users.name, outdated.name
order by is_certain desc, what
