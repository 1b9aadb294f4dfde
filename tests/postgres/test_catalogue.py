"""The contract: views, functions, privileges and migrations are compared with their copies in tests/data.

`make catalogue` updates the copies, but refuses if the contract lost something.
"""

from hashlib import sha256
from pathlib import Path

import asyncpg

from checkpointd.domain import listing
from checkpointd.postgres import migrations, queries
from support.paths import DATA

CATALOGUE, PRIVILEGES, MIGRATIONS = DATA / "catalogue.txt", DATA / "privileges.txt", DATA / "migrations.txt"
VERSIONS = DATA / "versions.txt"
ROLES = ("public", "checkpointd_reader", "checkpointd_operator", "checkpointd", "checkpointd_owner")


def _blocks(text: str) -> dict[str, list[str]]:
    """Split a catalogue into its views and functions. Returns the lines below each heading."""
    blocks: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith(" "):
            blocks[next(reversed(blocks))].append(line)
        else:
            blocks[line] = []
    return blocks


def _lost(kept: str, found: str) -> list[str]:
    """Return what a catalogue lost since the kept one. Columns may only be appended, so a moved one is lost, too."""
    now = _blocks(found)
    lost = [heading for heading in _blocks(kept) if heading not in now]
    for heading, columns in _blocks(kept).items():
        places = now.get(heading, columns)[: len(columns)]
        lost += [f"{heading}: {column.strip()}" for column in columns if column not in places]
        if heading in now and sorted(places) == sorted(columns) and places != columns:
            lost.append(f"{heading}: the order of its columns")
    return lost


def _compare(path: Path, found: str, *, update: bool) -> None:
    if update:
        path.write_text(found)
    assert path.read_text() == found, f"{path.name} is old: make catalogue"


async def _catalogue(sql: asyncpg.Connection) -> str:
    rows = await sql.fetch("""
        select format('view %s', c.relname) as heading, string_agg(
          format(e'  %s %s\\n', a.attname, format_type(a.atttypid, a.atttypmod)), '' order by a.attnum) as body
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'fine_tuning'::regnamespace group by c.relname
        union all
        select format('function %s(%s) returns %s', proname, pg_get_function_arguments(oid),
          pg_get_function_result(oid)), ''
        from pg_proc where pronamespace = 'fine_tuning'::regnamespace order by 1""")
    return "".join(f"{row['heading']}\n{row['body']}" for row in rows)


async def test_the_contract_only_grows(sql: asyncpg.Connection, update: bool) -> None:
    """No view, column or function of schema fine_tuning was removed, renamed, moved, or given another type.

    New ones must be in the copy.
    """
    found = await _catalogue(sql)
    assert [] == _lost(CATALOGUE.read_text(), found)
    _compare(CATALOGUE, found, update=update)


async def test_losses_are_found(sql: asyncpg.Connection) -> None:
    """A view, column or function that is removed, renamed, moved or of another type is a loss. A new one is not."""
    kept = await _catalogue(sql)

    async def lost_by(change: str) -> list[str]:
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute(change)
        lost = _lost(kept, await _catalogue(sql))
        await transaction.rollback()
        return lost

    def rejects(columns: str) -> str:
        return f"""drop view fine_tuning.rejects; create view fine_tuning.rejects as select {columns}
            from checkpointd.rejects r join checkpointd.jobs j on j.key = r.job
            join checkpointd.sources s on s.key = j.source"""

    columns = """s.name as source, j.id as fine_tuning_job_id, r.reason, r.first_seen_at, r.last_seen_at, r.count,
        r.raw, r.is_stored, r.count as seen_count, checkpointd.as_text(r.raw) as raw_text"""
    moved = columns.replace("r.first_seen_at, r.last_seen_at", "r.last_seen_at, r.first_seen_at")
    shorter = columns.replace("r.raw,", "")
    resync = "function resync(job text, source text DEFAULT NULL::text) returns void"
    assert [] == await lost_by(rejects(columns))
    assert [] == await lost_by(rejects(f"{columns}, 1 as more"))
    assert [] == await lost_by("create view fine_tuning.more as select 1 as one")
    assert ["view rejects: raw bytea"] == await lost_by(rejects(shorter))
    assert ["view rejects: count bigint"] == await lost_by(rejects(columns.replace("r.count,", "r.count::int,")))
    assert ["view rejects: the order of its columns"] == await lost_by(rejects(moved))
    assert ["view sources: kind text"] == await lost_by("alter view fine_tuning.sources rename column kind to type")
    assert ["view rejects"] == await lost_by("alter view fine_tuning.rejects rename to refused")
    assert [resync] == await lost_by("drop function fine_tuning.resync")


async def test_privileges(sql: asyncpg.Connection, update: bool) -> None:
    """The attributes of the roles, and their privileges on each object, are those of the kept table."""
    found = await _roles(sql) + await _matrix(sql)
    if sql.get_server_version().major < 17:  # 17 was the first with this setting
        assert PRIVILEGES.read_text().replace(", transaction_timeout=20s", "") == found
    else:
        _compare(PRIVILEGES, found, update=update)


async def _roles(sql: asyncpg.Connection) -> str:
    rows = await sql.fetch("""
        select rolname, concat_ws(', ', case when rolcanlogin then 'logs in' else 'no login' end,
          case when rolsuper then 'superuser' end, case when rolcreaterole then 'makes roles' end,
          case when rolcreatedb then 'makes databases' end, case when rolreplication then 'replicates' end,
          case when rolbypassrls then 'bypasses policies' end, 'connections ' || nullif(rolconnlimit, -1),
          (select 'member of ' || string_agg(m.roleid::regrole::text, ', ') from pg_auth_members m
            where m.member = r.oid),
          (select string_agg(c, ', ' order by c) from pg_db_role_setting d, unnest(d.setconfig) c
            where d.setrole = r.oid))
        from pg_roles r where rolname = any ($1) order by rolname""", ROLES)  # fmt: skip
    return "".join(f"{name}: {attributes}\n" for name, attributes in rows) + "\n"


async def _matrix(sql: asyncpg.Connection) -> str:
    """Return the privileges of each role on each object of checkpointd, and on the database and the schema public."""
    maintain = "MAINTAIN" if sql.get_server_version().major >= 17 else "SELECT"
    rows = await sql.fetch("""
        with ours as (select to_regnamespace(n) as oid from unnest(array['checkpointd', 'fine_tuning']) n),
        objects as (
          select 1 as rank, 'database' as name, datdba as owner, 'database' as kind, oid, 0::smallint as attnum,
            array['CONNECT', 'CREATE', 'TEMPORARY'] as privileges
          from pg_database where datname = current_database()
          union all
          select 2, 'schema ' || nspname, nspowner, 'schema', oid, 0, array['USAGE', 'CREATE']
          from pg_namespace where nspname = 'public' or oid in (table ours)
          union all
          select case relkind when 'r' then 3 when 'S' then 5 else 4 end,
            case relkind when 'r' then 'table ' when 'S' then 'sequence ' when 'v' then 'view ' else '? ' end
              || oid::regclass,
            relowner, case relkind when 'S' then 'sequence' else 'table' end, oid, 0, case relkind
              when 'S' then array['SELECT', 'UPDATE', 'USAGE']
              else array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', $2] end
          from pg_class where relnamespace in (table ours) and relkind not in ('i', 'I', 'c', 't')
          union all
          select 6,
            case prokind when 'p' then format('procedure %s', oid::regproc) else 'function ' || oid::regprocedure end,
            proowner, 'function', oid, 0, array['EXECUTE']
          from pg_proc where pronamespace in (table ours)
          union all
          select 7, 'column ' || c.oid::regclass || '.' || a.attname, c.relowner, 'column', c.oid, a.attnum,
            array['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']
          from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
          where c.relnamespace in (table ours))
        select o.name, r.role, case when pg_get_userbyid(o.owner) = r.role then 'owner' else (
          select string_agg(distinct lower(p), ' ') from unnest(o.privileges) p where case o.kind
            when 'database' then has_database_privilege(r.role, o.oid, p)
            when 'schema' then has_schema_privilege(r.role, o.oid, p)
            when 'table' then has_table_privilege(r.role, o.oid, p)
            when 'sequence' then has_sequence_privilege(r.role, o.oid, p)
            when 'column' then has_column_privilege(r.role, o.oid, o.attnum::smallint, p)
            else has_function_privilege(r.role, o.oid, p) end) end as may
        from objects o cross join unnest($1::text[]) with ordinality as r (role, place)
        order by o.rank, o.name, r.place""", ROLES, maintain)  # fmt: skip
    table: dict[str, list[str]] = {"object": list(ROLES)}
    for row in rows:
        table.setdefault(row["name"], []).append(row["may"] or "-")
    columns = list(zip(*((name, *cells) for name, cells in table.items()), strict=True))
    widths = [max(map(len, column)) for column in columns]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in zip(*columns, strict=True)
    )


def test_migrations_are_only_added(update: bool) -> None:
    """No published file of sql/migrations was changed, because databases have it. New ones must be in the copy."""
    files = sorted((queries.folder() / "migrations").iterdir(), key=lambda file: file.name)
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
    kept = dict(line.split("  ")[::-1] for line in MIGRATIONS.read_text().splitlines())
    assert kept == {name: found.get(name) for name in kept}, "a published migration was changed: write a new one"
    _compare(MIGRATIONS, "".join(f"{digest}  {name}\n" for name, digest in found.items()), update=update)


def test_versions_are_raised(update: bool) -> None:
    """The views, and the code that reads items, do not change without a decision about their versions.

    Without a new version, the old views would stay, and an old reading of an equal listing would count.
    """
    views = b"".join(path.read_bytes() for path in sorted(Path(str(queries.folder()), "views").iterdir()))
    package = Path(str(listing.__file__)).parents[1]
    reader = b"".join(
        (package / f"{name}.py").read_bytes() for name in ("provider/page", "domain/checkpoint", "domain/listing")
    )
    found = {
        f"migrations.VIEWS_VERSION {migrations.VIEWS_VERSION}": views,
        f"listing.READER {listing.READER.decode()}": reader,
    }
    versions = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in found.items())
    assert update or VERSIONS.read_text() == versions, "raise the version if a release has it, then: make catalogue"
    _compare(VERSIONS, versions, update=update)
