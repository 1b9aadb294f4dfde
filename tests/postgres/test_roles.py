"""The roles: how they are created, and that each may do its work and nothing else."""

import asyncio
import os
import re
from asyncio.subprocess import PIPE
from pathlib import Path

import asyncpg
import pytest

from checkpointd.domain.job import is_job_id
from checkpointd.postgres import migrations, queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store
from support.documents import Document
from support.logins import as_role, connected, login, run_roles
from support.provider import JOB, Provider, checkpoint, job, page
from support.verbs import checkpointd, environment, running, wait_for_line
from support.waiting import eventually

OPERATING = Document("sql/OPERATING.md")
OBJECTS = """
    select pg_get_userbyid(nspowner) as owner from pg_namespace where nspname in ('checkpointd', 'fine_tuning')
    union select pg_get_userbyid(relowner) from pg_class where relkind in ('r', 'v', 'S') and relnamespace in
      ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)
    union select pg_get_userbyid(proowner) from pg_proc where pronamespace in
      ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)"""


async def _owners(sql: asyncpg.Connection) -> set[str]:
    return {row["owner"] for row in await sql.fetch(OBJECTS)}


async def _database_of(bare: str, owner: str) -> str:
    """Create the login `app` with these options, and a database that it owns. Returns the login's URL."""
    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute(f"create role app login {owner}")
    await admin.execute("create database app owner app")
    await admin.close()
    return as_role(bare.format("app"), "app")


async def _reads_and_works(url: str, provider: Provider, tmp_path: Path) -> None:
    """Check that a login of the daemon can poll in this database, and that a reader can read."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with login(url, "in role checkpointd") as daemon:
        env = environment(tmp_path, daemon, provider.url)
        assert 0 == (await checkpointd("track", JOB, env=env)).code
        assert 0 == (await checkpointd("sync", env=env)).code
    async with connected(url, "in role checkpointd_reader") as reader:
        assert 1 == await reader.fetchval("select count(*) from fine_tuning.checkpoints")


@pytest.mark.slow
async def test_superuser(bare: str, provider: Provider, tmp_path: Path) -> None:
    """A migration by a superuser creates the roles, which own everything. The next one keeps changed settings."""
    url = bare.format("postgres")
    env = environment(tmp_path, url)
    first = await checkpointd("migrate", env=env)
    assert (0, "") == (first.code, first.err)
    sql = await asyncpg.connect(url)
    assert {"checkpointd_owner"} == await _owners(sql)
    await sql.execute("alter role checkpointd_reader set statement_timeout = '5min'")
    assert (0, "the schema is up to date\n", "") == await checkpointd("migrate", env=env)
    chosen = "select setconfig::text from pg_db_role_setting where setrole = 'checkpointd_reader'::regrole"
    assert "statement_timeout=5min" in await sql.fetchval(chosen)
    await sql.close()
    await _reads_and_works(url, provider, tmp_path)


@pytest.mark.slow
async def test_owner_who_makes_roles(bare: str, provider: Provider, tmp_path: Path) -> None:
    """An owner of the database with CREATEROLE, who is no superuser, creates the roles, and can migrate again."""
    url = await _database_of(bare, "createrole")
    ended = await checkpointd("migrate", env=environment(tmp_path, url))
    assert (0, "") == (ended.code, ended.err)
    sql = await asyncpg.connect(bare.format("app"))
    assert {"checkpointd_owner"} == await _owners(sql)
    await sql.execute("update checkpointd.schema_migrations set checksum = 'x' where name like 'views%'")
    assert (0, f"applied views {migrations.VIEWS_VERSION}\n", "") == await checkpointd(
        "migrate", env=environment(tmp_path, url)
    )
    await sql.close()
    await _reads_and_works(bare.format("app"), provider, tmp_path)


async def test_hardened_defaults(empty_url: str) -> None:
    """The views can be read even if nobody may execute new functions by default."""
    admin = await asyncpg.connect(empty_url)
    await admin.execute("alter default privileges revoke execute on functions from public")
    await migrations.migrate(admin)
    views = await admin.fetch("select viewname as name from pg_views where schemaname = 'fine_tuning'")
    for role in ("checkpointd_reader", "checkpointd"):
        async with connected(empty_url, f"in role {role}") as reader:
            for view in views:
                await reader.fetch(f"select * from fine_tuning.{view['name']}")
            await reader.fetch("select * from fine_tuning.metrics_as_of('ftjob-1', now())")
    await admin.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_locks_of_readers(empty_url: str, alone: bool) -> None:
    """What takes many locks is forbidden if the database has nothing else; otherwise other programs may need it."""
    admin = await asyncpg.connect(empty_url)
    if not alone:
        await admin.execute("create schema other; create table other.things ()")
    await migrations.migrate(admin)
    async with connected(empty_url, "in role checkpointd_reader") as reader:
        for statement in (
            "select pg_advisory_lock(1)",
            "select pg_try_advisory_xact_lock_shared(1, 2)",
            "create temporary table mine ()",
            "select lo_create(0)",
            "select lo_creat(-1)",
            "select lo_from_bytea(0, '')",
        ):
            if alone:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await reader.execute(statement)
            else:
                await reader.execute(statement)
    await admin.close()


@pytest.mark.slow
async def test_open_rights_are_reported(bare: str, provider: Provider, tmp_path: Path) -> None:
    """`check` reports what a login of a reader may do to the whole server. Its statements revoke just that."""
    url = await _database_of(bare, "createrole")
    await checkpointd("migrate", env=environment(tmp_path, url))
    admin = await asyncpg.connect(bare.format("app"))
    env = environment(tmp_path, url, provider.url)

    async def warning() -> str | None:
        lines = (await checkpointd("check", env=env)).out.splitlines()
        return next((line for line in lines if "readers" in line), None)

    assert await warning() is None  # nobody logs in as a reader
    async with connected(bare.format("app"), "in role checkpointd_reader") as reader:
        found = await warning()
        assert found is not None
        for what in ("database postgres", "database template1", "advisory locks", "large objects"):
            assert what in found
        assert "temporary" not in found  # the owner of the database has revoked it
        (documented,) = OPERATING.blocks("sql", "What readers can do to the daemon")
        await admin.execute(documented)
        found = await warning()
        assert found is not None
        assert "database postgres" not in found
        await admin.execute(found.split("`")[1])
        assert await warning() is None
        await admin.execute(f"grant temporary on database app to {await reader.fetchval('select current_user')}")
        assert await warning() is None, "granted on purpose, and no revocation from everybody would change it"
        assert 0 == await reader.fetchval("select count(*) from fine_tuning.jobs")
    await admin.close()


@pytest.mark.slow
async def test_login_that_was_there_before(bare: str, tmp_path: Path) -> None:
    """A role checkpointd that an administrator created before gets its rights from the owner's migration."""
    url = await _database_of(bare, "createrole")
    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute("create role checkpointd login")
    await admin.close()
    ended = await checkpointd("migrate", env=environment(tmp_path, url))
    assert (0, "") == (ended.code, ended.err)
    daemon = await asyncpg.connect(as_role(bare.format("app"), "checkpointd"))
    assert [] == await daemon.fetch(queries.FIND_MISSING_RIGHTS)
    await daemon.close()


@pytest.mark.slow
async def test_owner_without_rights(bare: str, provider: Provider, tmp_path: Path, binaries: Path) -> None:
    """Without the right to create roles, one line says what to run. The commands work before that and after it."""
    url = await _database_of(bare, "")
    env = environment(tmp_path, url, provider.url)
    ended = await checkpointd("migrate", env=env)
    assert 0 == ended.code
    assert ended.out.startswith("applied 0001_initial.sql, ")
    assert re.fullmatch(
        r"checkpointd: the roles .*permission denied.*: run .*roles\.sql with psql as an administrator\n", ended.err
    )
    sql = await asyncpg.connect(bare.format("app"))
    assert {"app"} == await _owners(sql)
    provider.checkpoints["ftjob-1"] = page([checkpoint(1, "ftjob-1")])
    assert 0 == (await checkpointd("track", "ftjob-1", env=env)).code
    assert 0 == (await checkpointd("sync", env=env)).code

    await run_roles(binaries, bare.format("app"))
    assert {"checkpointd_owner"} == await _owners(sql)
    assert 0 == (await checkpointd("sync", env=env)).code
    assert (0, "the schema is up to date\n", "") == await checkpointd("migrate", env=env)
    await sql.execute("delete from checkpointd.checkpoints; delete from checkpointd.summaries")
    await sql.close()
    await _reads_and_works(bare.format("app"), provider, tmp_path)


@pytest.mark.slow
async def test_administrator_first(bare: str, provider: Provider, tmp_path: Path, binaries: Path) -> None:
    """If the roles exist, a member of checkpointd_owner without the right to create roles can migrate the database."""
    url = await _database_of(bare, "")
    await run_roles(binaries, bare.format("app"))
    sql = await asyncpg.connect(bare.format("app"))
    await sql.execute("grant checkpointd_owner to app")
    ended = await checkpointd("migrate", env=environment(tmp_path, url))
    assert (0, "") == (ended.code, ended.err)
    assert {"checkpointd_owner"} == await _owners(sql)
    await sql.close()
    await _reads_and_works(bare.format("app"), provider, tmp_path)


@pytest.mark.slow
async def test_documented_without_createrole(bare: str, provider: Provider, tmp_path: Path, binaries: Path) -> None:
    """After the documented statements, an owner without CREATEROLE migrates the database, also in an upgrade."""
    admin = await asyncpg.connect(bare.format("postgres"))
    for statement in OPERATING.blocks("sql", "Without CREATEROLE")[0].splitlines():
        await admin.execute(statement)
    await admin.close()
    (commands,) = OPERATING.blocks("sh", "Without CREATEROLE")
    commands = re.sub(r"-f \S+/roles\.sql", f"-X -q -f {migrations.roles_file()}", commands)
    commands = commands.replace("-d finetuning", f"-d '{bare.format('finetuning')}'")
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "-c", commands), env={"PATH": f"{binaries}:{os.environ['PATH']}"}, stdout=PIPE, stderr=PIPE
    )
    assert (b"GRANT ROLE\n", b"") == await shell.communicate()
    env = environment(tmp_path, as_role(bare.format("finetuning"), "owner"))
    ended = await checkpointd("migrate", env=env)
    assert (0, "") == (ended.code, ended.err)
    sql = await asyncpg.connect(bare.format("finetuning"))
    await sql.execute("delete from checkpointd.schema_migrations where name like 'views%'")
    assert (0, f"applied views {migrations.VIEWS_VERSION}\n", "") == await checkpointd("migrate", env=env)
    assert {"checkpointd_owner"} == await _owners(sql)
    await sql.close()
    await _reads_and_works(bare.format("finetuning"), provider, tmp_path)


@pytest.mark.slow
async def test_owner_of_that_name(bare: str, provider: Provider, tmp_path: Path, binaries: Path) -> None:
    """A role checkpointd that owns its database keeps what it needs, before and after the roles are created."""
    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute("create role checkpointd login")
    await admin.execute("create database app owner checkpointd")
    await admin.close()
    await run_roles(binaries, bare.format("postgres"))
    env = environment(tmp_path, as_role(bare.format("app"), "checkpointd"), provider.url)
    for _ in range(2):
        ended = await checkpointd("migrate", env=env)
        assert 0 == ended.code
        assert "is not a member of checkpointd_owner" in ended.err
    await run_roles(binaries, bare.format("app"))
    provider.checkpoints["ftjob-1"] = page([checkpoint(1, "ftjob-1")])
    assert 0 == (await checkpointd("track", "ftjob-1", env=env)).code
    assert 0 == (await checkpointd("sync", env=env)).code
    sql = await asyncpg.connect(bare.format("app"))
    assert {"checkpointd_owner"} == await _owners(sql)
    await sql.close()


@pytest.mark.slow
async def test_the_daemons_role_suffices(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A login with only the role checkpointd can do everything that the daemon and its commands do."""
    unreadable = {**checkpoint(1), "step_number": "one"}
    provider.checkpoints[JOB] = [
        page([checkpoint(1)]),
        page([checkpoint(2), checkpoint(1, valid_loss=1.0)]),
        page([checkpoint(2), unreadable]),
        page([checkpoint(2)]),
    ]
    provider.jobs = [page([job(status="running")]), page([job(status="succeeded"), job("ftjob-found")])]
    provider.checkpoints["ftjob-found"] = page([])
    often = {
        "CHECKPOINTD_MIN_POLL_SECONDS": "0.1",
        "CHECKPOINTD_MAX_POLL_SECONDS": "0.2",
        "CHECKPOINTD_JOB_LIST_SECONDS": "0.2",
        "CHECKPOINTD_DISCOVER": "true",
    }

    async def every_kind_is_stored() -> None:
        assert await sql.fetchval("""
            select count(distinct kind) = 4 from fine_tuning.changes
            where kind in ('new', 'changed', 'status', 'missing')""")

    async with login(url, "in role checkpointd") as daemon:
        env = environment(tmp_path, daemon, provider.url, **often)
        assert (0, "1 job tracked (1 new)\n", "") == await checkpointd("track", JOB, env=env)
        async with running("run", env=env) as process:
            await wait_for_line(process, "daemon.ready")
            await eventually(every_kind_is_stored)
            process.terminate()
            assert 0 == await asyncio.wait_for(process.wait(), 60)
        assert await sql.fetchval("select count(*) > 0 from fine_tuning.rejects")
        for verb in ("sync", "resync", "untrack", "jobs", "status"):
            ended = await checkpointd(verb, *([JOB] if verb in {"sync", "resync", "untrack"} else []), env=env)
            assert (0, "") == (ended.code, ended.err), verb
        ended = await checkpointd("migrate", env=env)
        assert (0, "the schema is up to date\n") == (ended.code, ended.out)


async def test_what_the_daemons_role_may_not_do(url: str) -> None:
    """The daemon's role cannot delete rows, change the history, or create, alter and drop objects."""
    async with connected(url, "in role checkpointd") as daemon:
        for statement in (
            "delete from checkpointd.checkpoints",
            "truncate checkpointd.checkpoints",
            "update checkpointd.changes set new_value = null",
            "delete from checkpointd.changes",
            "insert into checkpointd.schema_migrations values ('9999_x.sql', 'x')",
            "insert into checkpointd.feed_gate default values",
            "create table checkpointd.mine ()",
            "create view fine_tuning.mine as select 1 as one",
            "alter table checkpointd.jobs add column mine int",
            "drop view fine_tuning.jobs",
            "alter sequence checkpointd.changes_seq_seq restart",
            "select setval('checkpointd.changes_seq_seq', 1)",
            "create or replace function fine_tuning.untrack(job text, source text) returns void language sql as ''",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await daemon.execute(statement)


async def test_what_a_reader_may_do(url: str, sql: asyncpg.Connection) -> None:
    """A reader can read every view and call metrics_as_of, but cannot read tables, lock them or call operations."""
    views = await sql.fetch("""
        select oid::regclass::text as name from pg_class
        where relkind = 'v' and relnamespace = 'fine_tuning'::regnamespace""")
    tables = await sql.fetch("""
        select oid::regclass::text as name from pg_class
        where relkind = 'r' and relnamespace = 'checkpointd'::regnamespace""")
    async with connected(url, "in role checkpointd_reader") as reader:
        for view in views:
            await reader.execute(f"table {view['name']}")
        assert [] == await reader.fetch("select * from fine_tuning.metrics_as_of('ftjob-1', now())")
        for table in tables:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"table {table['name']}")
        for operation in ("track", "untrack", "resync", "set_objective"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"select fine_tuning.{operation}('ftjob-1')")
        for statement in (
            "lock table checkpointd.schema_migrations in access share mode",
            "update fine_tuning.sources set state = 'paused'",
            "lock table fine_tuning.jobs in share mode",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"begin; {statement}")
            await reader.execute("rollback")


async def test_an_operators_idle_transaction_is_ended(url: str, sql: asyncpg.Connection, store: Store) -> None:
    """A transaction that called an operator's function and is left open is ended after three seconds."""
    source = (await store.register_sources({"openai": "openai"}))["openai"]
    await store.track(source, ["ftjob-1"])
    async with connected(url, "in role checkpointd_operator") as operator:
        for call in ("resync('ftjob-1')", "untrack('ftjob-1')", "track('ftjob-1')"):
            async with operator.transaction():
                await operator.execute(f"select fine_tuning.{call}")
                assert "3s" == await operator.fetchval("show idle_in_transaction_session_timeout")
            assert "0" == await operator.fetchval("show idle_in_transaction_session_timeout")
        assert 1 == await sql.fetchval("select count(*) from fine_tuning.jobs")


async def test_operations_write_what_the_commands_write(url: str, sql: asyncpg.Connection, store: Store) -> None:
    """An operator's functions write the same rows as the commands, and give the role no other right."""
    rows = """select j.tracked_by, j.untracked_at is not null as untracked, p.next_poll_at = 'infinity' as never,
        p.digest, p.poll_again, p.equal_listings, p.sealed_at
        from checkpointd.jobs j join checkpointd.polling p on p.job = j.key where j.id = $1"""
    claim = """update checkpointd.polling set digest = 'x', equal_listings = 3, sealed_at = now(),
        lease_expires_at = now() + interval '1 minute'"""
    source = (await store.register_sources({"openai": "openai"}))["openai"]
    assert 1 == await store.track(source, ["ftjob-command"])
    jobs = await store.find_jobs(["ftjob-command"])
    async with connected(url, "in role checkpointd_operator") as operator:
        assert await operator.fetchval("select fine_tuning.track('ftjob-function')")
        assert not await operator.fetchval("select fine_tuning.track('ftjob-function', 'openai')")
        for operation, command in (
            ("resync", store.resync(jobs)),
            ("untrack", store.untrack(jobs)),
            ("track", store.track(source, ["ftjob-command"])),
        ):
            await sql.execute(claim)
            assert 1 == await command
            await operator.execute(f"select fine_tuning.{operation}('ftjob-function')")
            assert await sql.fetch(rows, "ftjob-command") == await sql.fetch(rows, "ftjob-function"), operation
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await operator.execute("table checkpointd.jobs")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await operator.execute("select checkpointd.untrack_jobs('{1}')")


async def test_who_chose_a_job_is_recorded(url: str, store: Store, sql: asyncpg.Connection) -> None:
    """Each operation that has an effect is a row with the login that called it. A reader sees it; nobody changes it."""
    source = (await store.register_sources({"openai": "openai"}))["openai"]
    await store.track(source, ["ftjob-2"])
    await sql.fetch("select checkpointd.discover_jobs($1, $2)", source, ["ftjob-3"])
    async with connected(url, "in role checkpointd_operator") as operator:
        for call in ("track", "track", "resync", "untrack", "track"):
            await operator.execute(f"select fine_tuning.{call}('ftjob-1')")
        async with operator.transaction():
            await operator.execute("set role checkpointd_operator; select fine_tuning.resync('ftjob-2')")
        name = await operator.fetchval("select session_user")
    query = "select operation, fine_tuning_job_id, role from fine_tuning.operations where source = 'openai' order by at"
    async with connected(url, "in role checkpointd_reader") as reader:
        found = [tuple(row) for row in await reader.fetch(query)]
    operations = [(call, "ftjob-1", name) for call in ("track", "resync", "untrack", "track")]
    assert [("track", "ftjob-2", "postgres"), *operations, ("resync", "ftjob-2", name)] == found
    async with connected(url, "in role checkpointd") as daemon:
        for statement in ("update checkpointd.operations set role = 'x'", "delete from checkpointd.operations"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await daemon.execute(statement)


async def test_errors_of_operations(url: str, sql: asyncpg.Connection) -> None:
    """An operation that cannot be carried out fails with a message in PostgreSQL's style and a hint."""
    async with connected(url, "in role checkpointd_operator") as operator:

        async def error_of(call: str) -> tuple[str, str]:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await operator.execute(f"select fine_tuning.{call}")
            assert caught.value.sqlstate in {"22023", "P0002"}
            return str(caught.value.args[0]), caught.value.hint or ""

        sources = "A daemon stores the sources of its settings when it starts."
        tracked = "The view fine_tuning.freshness lists the tracked jobs."
        ids = 'The id of a fine-tuning job looks like "ftjob-abc123".'
        choose = "Name one of these sources: one, two."
        assert ("no source exists yet", sources) == await error_of("track('ftjob-1')")
        await sql.execute(
            "insert into checkpointd.sources (name, kind) values ('one', 'openai'), ('two', 'compatible')"
        )
        assert ("more than one source exists", choose) == await error_of("track('ftjob-1')")
        assert ('source "three" does not exist', sources) == await error_of("track('ftjob-1', 'three')")
        assert ("invalid job id: null", ids) == await error_of("track(null, 'one')")
        assert ('invalid job id: "ftckpt_1"', ids) == await error_of("track('ftckpt_1', 'one')")
        assert ('job "ftjob-1" is not tracked', tracked) == await error_of("untrack('ftjob-1')")
        assert ("job null is not tracked", tracked) == await error_of("untrack(null)")
        assert ('job "ftjob-1" of source "two" is not tracked', tracked) == await error_of("resync('ftjob-1', 'two')")
        await operator.execute("select fine_tuning.track('ftjob-1', 'one'), fine_tuning.track('ftjob-1', 'two')")
        assert ('job "ftjob-1" is tracked in more than one source', choose) == await error_of("untrack('ftjob-1')")
        await operator.execute("select fine_tuning.untrack('ftjob-1', 'one')")
        assert ('job "ftjob-1" of source "one" is not tracked', tracked) == await error_of("resync('ftjob-1', 'one')")
        await operator.execute("select fine_tuning.resync('ftjob-1')")


async def test_ids_have_one_rule(url: str, sql: asyncpg.Connection) -> None:
    """An operator's function accepts the same ids as the command."""
    ids = [
        *("ftjob-abc", "ftjob-", "ftjob-a/../b", "ftjob-a b", "ftjob-a\n", "hello", "..", "-x", "x" * 256, "x" * 257),
        *("", "ftjob-ä", "ftjob-a%2f", "FTJOB-a", "9-a_b", "ft.v1:abc", "a~b@c=d+e", "a,b", "sk-abc", "sk_abc", "sky"),
        *("ftckpt_abc", "ftckpt", "a?b", "a#b", "a&b", ".x", "_x", "a\\b"),
    ]
    await sql.execute("insert into checkpointd.sources (name, kind) values ('one', 'openai')")
    async with connected(url, "in role checkpointd_operator") as operator:
        for given in ids:
            try:
                await operator.execute("select fine_tuning.track($1)", given)
            except asyncpg.InvalidParameterValueError:
                accepted = False
            else:
                accepted = True
            assert is_job_id(given) == accepted, given


async def test_security_definer_functions_are_safe(sql: asyncpg.Connection, url: str) -> None:
    """Security definer functions have a fixed search_path, with temporary tables last, and are not granted to all."""
    rows = await sql.fetch("""
        select oid::regprocedure::text as name, proconfig, has_function_privilege('public', oid, 'execute') as open
        from pg_proc where prosecdef and pronamespace in ('checkpointd'::regnamespace, 'fine_tuning'::regnamespace)""")
    assert [
        "checkpointd.rename_source(text,text)",
        "fine_tuning.resync(text,text)",
        "fine_tuning.set_objective(text,text,text,text)",
        "fine_tuning.track(text,text)",
        "fine_tuning.untrack(text,text)",
    ] == sorted(row["name"] for row in rows)
    assert {(("search_path=pg_catalog, pg_temp",), False)} == {(tuple(row["proconfig"]), row["open"]) for row in rows}
    await sql.execute("insert into checkpointd.sources (name, kind) values ('one', 'openai')")
    async with connected(url, "in role checkpointd_operator") as operator:
        await operator.execute("""
            create temporary table jobs (id text); create temporary table sources (key int, name text, kind text);
            create function pg_temp.count() returns bigint language plpgsql as 'begin raise exception ''mine''; end';
            set search_path = pg_temp, checkpointd, pg_catalog""")
        assert await operator.fetchval("select fine_tuning.track('ftjob-1')")


async def test_timeouts_hold_for_the_role_itself(url: str, sql: asyncpg.Connection) -> None:
    """A login as one of the roles itself has the timeouts of the role."""
    connection = await connect(url)
    await migrations.migrate(connection)
    await connection.close()
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    expected = {
        "checkpointd": ("15s", "3s", "3s"),
        "checkpointd_operator": ("15s", "3s", "3s"),
        "checkpointd_reader": ("1min", "0", "1min"),
    }
    for role, timeouts in expected.items():
        await sql.execute(f"alter role {role} login")
        try:
            session = await asyncpg.connect(as_role(url, role))
            found = [await session.fetchval(f"show {name}") for name in names]
            await session.close()
        finally:
            await sql.execute(f"alter role {role} nologin")
        assert timeouts == tuple(found), role


async def test_a_statement_times_out_before_its_session(url: str, sql: asyncpg.Connection) -> None:
    """A migration makes the transaction timeout of 0.1.0, which ended sessions before their statements, longer."""
    if sql.get_server_version().major < 17:
        pytest.skip("PostgreSQL before 17 has no transaction_timeout")
    setting = "select setconfig from pg_db_role_setting where setrole = 'checkpointd'::regrole"
    for present, expected in (("12s", "20s"), ("30s", "30s"), ("20s", "20s")):
        await sql.execute(f"alter role checkpointd set transaction_timeout = '{present}'")
        connection = await connect(url)
        await migrations.migrate(connection)
        await connection.close()
        found = await sql.fetchval(setting)
        assert {"statement_timeout=15s", f"transaction_timeout={expected}"} < set(found)


async def test_documented_logins(url: str, sql: asyncpg.Connection) -> None:
    """The documented statements make a login that reads the views, with its settings, and let two roles log in."""
    for_dashboard, for_daemon = OPERATING.blocks("sql", "Roles")
    (for_grafana,) = Document("config/grafana/README.md").blocks("sql")
    try:
        for statements in (for_dashboard, for_daemon, for_grafana):
            await sql.execute(statements)
        for name in ("grafana", "checkpointd", "checkpointd_reader"):
            login = await asyncpg.connect(as_role(url, name))
            assert 0 == await login.fetchval("select count(*) from fine_tuning.checkpoints")
            assert ("15s" if name == "checkpointd" else "1min") == await login.fetchval("show statement_timeout")
            zone = await login.fetchrow("select source, setting from pg_settings where name = 'TimeZone'")
            assert name == "checkpointd" or ("user", "UTC") == tuple(zone or ())
            await login.close()
    finally:
        await sql.execute("drop role if exists grafana")
        for name in ("checkpointd", "checkpointd_reader"):
            await sql.execute(f"alter role {name} nologin password null")


def test_roles_are_documented() -> None:
    """Each role that is made is documented, and no other."""
    made = set(re.findall(r"^--   (checkpointd\w*) ", migrations.roles_file().read_text(), re.MULTILINE))
    assert 4 == len(made)
    assert made == {words[0] for words in (re.findall(r"`(\w+)`", cells[0]) for cells in OPERATING.rows("Roles"))}
