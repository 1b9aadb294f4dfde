-- What the daemon needs of its own schemas, if they are there, and this role lacks: names and privileges.
with needed as (
  select 'checkpointd' as schema, t.name, p.privilege
  from (values ('sources', 'siu'), ('jobs', 'siu'), ('polling', 'siu'), ('checkpoints', 'siu'), ('polls', 'siu'),
    ('rejects', 'siu'), ('summaries', 'siu'), ('changes', 'si'), ('feed_gate', 'su'), ('schema_migrations', 's')) as t (name, letters)
  join (values ('s', 'select'), ('i', 'insert'), ('u', 'update')) as p (letter, privilege) on strpos(t.letters, p.letter) > 0
  union all
  select 'fine_tuning', v.name, 'select' from (values ('jobs'), ('freshness'), ('sources'), ('checkpoints'), ('best_checkpoints'),
    ('changes'), ('rejects')) as v (name))
select 'schema ' || s.nspname as name, 'usage' as privilege
from pg_namespace s where s.nspname in ('checkpointd', 'fine_tuning') and not has_schema_privilege(s.oid, 'usage')
union all
select format('%s.%s', n.schema, n.name), n.privilege
from needed n join pg_class c on c.relname = n.name and c.relnamespace = to_regnamespace(n.schema)
where not has_table_privilege(c.oid, n.privilege)
union all
select format('function %s.%s', f.pronamespace::regnamespace, f.proname), 'execute'
from pg_proc f where f.pronamespace = to_regnamespace('checkpointd') and not has_function_privilege(f.oid, 'execute')
order by 1, 2
