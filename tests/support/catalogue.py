"""What a database has in the schemas of checkpointd."""

SHAPE = """
    with ours as (select to_regnamespace(name) as oid from unnest(array['checkpointd', 'fine_tuning']) name),
    objects as (
      select oid, oid::regclass::text as name, relowner as owner, relacl as acl,
        obj_description(oid, 'pg_class') as comment,
        case relkind when 'v' then pg_get_viewdef(oid) when 'i' then pg_get_indexdef(oid) end as definition
      from pg_class where relnamespace in (table ours)
      union all
      select oid, oid::regprocedure::text, proowner, proacl, obj_description(oid, 'pg_proc'), pg_get_functiondef(oid)
      from pg_proc where pronamespace in (table ours))
    select name, definition, owner::regrole::text as owner,
      (select string_agg(g::text, ', ' order by g::text) from unnest(acl) g) as grants, comment from objects
    union all
    select attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod), attnotnull::text, attacl::text,
      col_description(attrelid, attnum)
    from pg_attribute where attrelid in (select oid from objects) and attnum > 0 and not attisdropped
    union all
    select conname, pg_get_constraintdef(oid), null, null, null from pg_constraint where connamespace in (table ours)
    union all
    select adrelid::regclass || '.' || attname, pg_get_expr(adbin, adrelid), null, null, null
    from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum
    where adrelid in (select oid from objects)
    order by 1, 2"""
"""The tables, views, functions, indexes, columns, defaults and constraints, with owners, grants and comments."""
