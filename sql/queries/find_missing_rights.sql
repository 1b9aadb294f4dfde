-- List the privileges that the daemon needs in its schemas and that the current role lacks.
with needed as (
  select 'checkpointd' as schema, needs.name, letters.privilege
  from (
    values
      ('sources', 'siu'),
      ('jobs', 'siu'),
      ('polling', 'siu'),
      ('checkpoints', 'siu'),
      ('polls', 'siu'),
      ('rejects', 'siu'),
      ('source_arrivals', 'siu'),
      ('objectives', 'siu'),
      ('steps', 'siu'),
      ('event_lists', 'siu'),
      ('summaries', 'siu'),
      ('findings', 'siu'),
      ('webhooks', 'siu'),
      ('models', 'siu'),
      ('finding_cursor', 'su'),
      ('changes', 'si'),
      ('operations', 'si'),
      ('events', 'si'),
      ('earlier_steps', 'si'),
      ('feed_gate', 'su'),
      ('schema_migrations', 's'),
      ('given_objectives', 's')
  ) as needs (name, letters)
  join (values ('s', 'select'), ('i', 'insert'), ('u', 'update')) as letters (letter, privilege)
    on strpos(needs.letters, letters.letter) > 0
  union all
  select 'fine_tuning', views.name, 'select'
  from (
    values
      ('jobs'), ('freshness'), ('sources'), ('checkpoints'), ('best_checkpoints'), ('changes'), ('rejects'),
      ('findings'), ('webhooks'), ('comparison'), ('event_lists'), ('events'), ('steps'),
      ('best_steps'), ('archive')
  ) as views (name)
)

select 'schema ' || schemas.nspname as name, 'usage' as privilege
from pg_namespace as schemas
where schemas.nspname in ('checkpointd', 'fine_tuning')
  and not has_schema_privilege(schemas.oid, 'usage')
union all
select format('%s.%s', needed.schema, needed.name), needed.privilege
from needed
join pg_class as relations
  on relations.relname = needed.name and relations.relnamespace = to_regnamespace(needed.schema)
where not has_table_privilege(relations.oid, needed.privilege)
union all
select format(
    '%s %s.%s',
    case prokind when 'p' then 'procedure' else 'function' end, pronamespace::regnamespace, proname
  ), 'execute'
from pg_proc
where pronamespace = to_regnamespace('checkpointd')
  and not has_function_privilege(oid, 'execute')
order by 1, 2
