-- List the statements that give each new view or routine the owner and the grants of the one that it replaces.
--
-- The replaced ones are those that this transaction has renamed. One that nothing replaces gets its name back.
with objects as (
  select 'table' as kind, pg_class.oid, pg_class.oid::regclass::text as identity, pg_class.relnamespace as namespace,
    pg_class.relname as name, pg_class.relowner as owner, pg_class.relacl as acl
  from pg_class
  where pg_class.relkind = 'v'
  union all
  select 'routine', pg_proc.oid, pg_proc.oid::regprocedure::text, pg_proc.pronamespace, pg_proc.proname,
    pg_proc.proowner, pg_proc.proacl
  from pg_proc
),

replaced as (
  select objects.*, substr(objects.name, length(format('outdated %s ', pg_current_xact_id())) + 1) as old_name
  from objects
  where objects.name like format('outdated %s %%', pg_current_xact_id())
),

pairs as (
  select replaced.*, successor.identity as successor
  from replaced
  left join objects as successor
    on successor.kind = replaced.kind
    and successor.namespace = replaced.namespace
    and successor.name = replaced.old_name
),

grants as (
  select pairs.kind, pairs.owner, pairs.successor, '' as columns, granted.*
  from pairs
  cross join lateral aclexplode(pairs.acl) as granted
  union all
  select pairs.kind, pairs.owner, pairs.successor, format(' (%I)', pg_attribute.attname), granted.*
  from pairs
  join pg_attribute on pg_attribute.attrelid = pairs.oid
  cross join lateral aclexplode(pg_attribute.attacl) as granted
  where pairs.kind = 'table'
    and exists (
      select from pg_attribute as present
      where present.attrelid = to_regclass(pairs.successor)
        and present.attname = pg_attribute.attname
    )
)

select 1 as place, format('alter %s %s rename to %I', kind, identity, old_name) as statement
from pairs
where successor is null
union all
select 2, format('alter %s %s owner to %I', kind, successor, pg_get_userbyid(owner))
from pairs
where successor is not null
union all
select 3, format('revoke all on %s %s from public', kind, successor)
from pairs
where successor is not null
  and acl is not null
union all
select 4, format(
  'grant %s%s on %s %s to %s%s',
  privilege_type, columns, kind, successor,
  case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end,
  case when is_grantable then ' with grant option' else '' end
)
from grants
where successor is not null
  and grantee <> owner
order by place
