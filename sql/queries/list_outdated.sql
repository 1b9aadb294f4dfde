-- List the statements that drop what was renamed because something else replaces it: views, routines and columns.
select format('drop view %s', pg_class.oid::regclass) as statement
from pg_class
where pg_class.relnamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
  and pg_class.relkind = 'v'
  and pg_class.relname like 'outdated %'
union all
select format('drop routine %s', pg_proc.oid::regprocedure)
from pg_proc
where pg_proc.pronamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
  and pg_proc.proname like 'outdated %'
union all
select format('alter table %s drop column %I', pg_class.oid::regclass, pg_attribute.attname)
from pg_class
join pg_attribute on pg_attribute.attrelid = pg_class.oid
where pg_class.relnamespace = 'checkpointd'::regnamespace
  and pg_class.relkind = 'r'
  and pg_attribute.attname like 'outdated %'
