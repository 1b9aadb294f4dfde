-- List the statements that rename views, functions and procedures, so that new ones can take their names.
-- $1 schemas: text[], whose views and routines are renamed
--
-- A function keeps its name if an index, a column, a constraint or a trigger uses it.
select format(
    'alter routine %s rename to %I',
    pg_proc.oid::regprocedure, format('outdated %s %s', pg_current_xact_id(), pg_proc.proname)
  ) as statement
from pg_proc
where pg_proc.pronamespace::regnamespace::text = any ($1)
  and pg_proc.prokind in ('f', 'p')
  and pg_proc.proname not like 'outdated %'
  and not exists (
    select from pg_depend
    where pg_depend.refclassid = 'pg_proc'::regclass
      and pg_depend.refobjid = pg_proc.oid
      and pg_depend.classid not in ('pg_rewrite'::regclass, 'pg_proc'::regclass)
  )
union all
select format(
  'alter view %s rename to %I',
  pg_class.oid::regclass, format('outdated %s %s', pg_current_xact_id(), pg_class.relname)
)
from pg_class
where pg_class.relnamespace::regnamespace::text = any ($1)
  and pg_class.relkind = 'v'
  and pg_class.relname not like 'outdated %'
