"""PostgreSQL as people run it: URLs of hosting providers, names with several addresses, odd encodings and defaults."""

import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import Store
from support.harness import read_job_list, sync, until_true
from support.logins import login
from support.provider import JOB, Provider, checkpoint, job, page
from support.servers import Server, binaries, give_away, serving
from support.verbs import checkpointd, environment, running, wait_for_line

# Database URLs


@contextmanager
def _with_password(folder: Path) -> Iterator[tuple[Server, Path]]:
    """Run a server that asks for passwords (SCRAM), also at a socket in a folder as those of Cloud SQL are named."""
    sockets = Path(tempfile.mkdtemp(prefix="cloudsql-")) / "project:europe-west1:instance"
    sockets.mkdir()
    sockets.parent.chmod(0o755)
    give_away(sockets)
    server = Server(folder, binaries())
    server.initdb()
    server.configure(unix_socket_directories=str(sockets), password_encryption="scram-sha-256")
    (folder / "data" / "pg_hba.conf").write_text(
        "host all postgres all trust\nlocal all all scram-sha-256\nhost all all all scram-sha-256\n"
    )
    try:
        server.start()
        yield server, sockets
    finally:
        server.stop()
        shutil.rmtree(sockets.parent)


async def _works(url: str, provider: Provider, home: Path) -> None:
    """Check that migrate, check and sync work with this URL, and that what they store can be read."""
    provider.jobs = page([job()])
    provider.checkpoints[JOB] = page([checkpoint(1)])
    env = environment(home, url, provider.url)
    migrated = await checkpointd("migrate", env=env)
    assert 0 == migrated.code, migrated.err
    assert 0 == (await checkpointd("track", JOB, env=env)).code
    for command in ("check", "sync"):
        ended = await checkpointd(command, env=env)
        assert (0, "") == (ended.code, ended.err), ended
    assert "fail" not in (await checkpointd("check", env=env)).out


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("form", ["parameter", "escaped", "channel binding", "address"])
async def test_urls_of_hosting_providers(form: str, provider: Provider, tmp_path: Path) -> None:
    """A socket's folder with colons, a limit for connecting, channel binding and hostaddr work, with a password.

    The role is none of a superuser: it owns the database and may create roles, as the first user of RDS.
    """
    with _with_password(tmp_path / "server") as (server, sockets):
        admin = await asyncpg.connect(server.url)
        await admin.execute("create role app login createrole createdb password 'p@ss'")
        await admin.execute("create database app owner app")
        await admin.close()
        escaped = str(sockets).replace("/", "%2F").replace(":", "%3A")
        url = {
            "parameter": f"postgresql://app:p%40ss@/app?host={sockets}&port={server.port}&connect_timeout=10",
            "escaped": f"postgresql://app:p%40ss@{escaped}:{server.port}/app?application_name=x&keepalives_idle=30",
            "channel binding": f"postgresql://app:p%40ss@127.0.0.1:{server.port}/app?channel_binding=require",
            "address": f"postgresql://app:p%40ss@db.invalid:{server.port}/app?hostaddr=127.0.0.1&sslmode=prefer",
        }[form]
        await _works(url, provider, tmp_path)


UNKNOWN = {
    "nosuch=canary": "nosuch",
    "pgbouncer=true": "CHECKPOINTD_DATABASE_POOLER=true",
    "aplication_name=canary": "did you mean application_name?",
    "search_path=canary": "options=-c%20search_path%3D",
    "require_auth=scram-sha-256": "require_auth",
    "gssencmode=require": "gssencmode",
    "connect_timeout=canary": "connect_timeout",
}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("parameter", UNKNOWN)
async def test_a_parameter_that_is_not_obeyed(parameter: str, provider: Provider, tmp_path: Path) -> None:
    """An unknown parameter, and one that cannot be obeyed, ends each command at once, in one line with its name."""
    env = environment(tmp_path, f"postgresql://u:canary@127.0.0.1:1/db?{parameter}", provider.url)
    for command in ("run", "migrate", "check", "sync"):
        ended = await checkpointd(command, env=env)
        assert 2 == ended.code
        assert UNKNOWN[parameter] in ended.err
        assert 1 == len(ended.err.splitlines())
        assert "canary" not in ended.err


# Names with several addresses

RESOLVER = """import os, socket
real, addresses = socket.getaddrinfo, os.environ["TEST_ADDRESSES"].split()
def getaddrinfo(host, port, family=0, type=0, *more, **named):
    if host != "db.test":
        return real(host, port, family, type, *more, **named)
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    ends = [(0, 0) if ":" in address else () for address in addresses]
    return [(f, socket.SOCK_STREAM, 6, "", (a, port or 0, *e)) for f, a, e in zip(families, addresses, ends)]
socket.getaddrinfo = getaddrinfo
"""


def _resolving(env: dict[str, str], home: Path, *addresses: str) -> dict[str, str]:
    """Return the environment of a process for which the name db.test has these addresses."""
    (home / "sitecustomize.py").write_text(RESOLVER)
    return {**env, "PYTHONPATH": f"{home}:{env['PYTHONPATH']}", "TEST_ADDRESSES": " ".join(addresses)}


@contextmanager
def _silent(address: str, port: int) -> Iterator[None]:
    """Accept connections at this address, and never answer."""
    with socket.create_server((address, port)):
        yield


ADDRESSES = {
    "the first is silent": ("127.0.0.2", "127.0.0.1"),
    "two are silent": ("127.0.0.2", "127.0.0.3", "127.0.0.1"),
    "nothing listens at the first, which is an IPv6 address": ("::1", "127.0.0.1"),
    "there is no route to the first": ("2001:db8::1", "127.0.0.1"),
    "the last is silent": ("127.0.0.1", "127.0.0.2"),
}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("case", ADDRESSES)
async def test_each_address_of_a_name_is_tried(case: str, provider: Provider, tmp_path: Path) -> None:
    """A host whose name has an address that does not answer is reached by another one, before the limit of 4 s."""
    with serving(tmp_path / "server") as server, _silent("127.0.0.2", server.port), _silent("127.0.0.3", server.port):
        url = f"postgresql://postgres@db.test:{server.port}/postgres?sslmode=disable"
        env = _resolving(environment(tmp_path, url, provider.url), tmp_path, *ADDRESSES[case])
        assert 0 == (await checkpointd("migrate", env=env)).code
        ended = await checkpointd("status", env=env)
        assert (0, "") == (ended.code, ended.err)


@pytest.mark.slow
async def test_no_address_answers(provider: Provider, tmp_path: Path) -> None:
    """If no address answers, one line has the host and the reason, before the limit of connect_timeout."""
    with socket.create_server(("127.0.0.2", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://postgres@db.test:{port}/postgres?sslmode=disable&connect_timeout=1"
        env = _resolving(environment(tmp_path, url, provider.url), tmp_path, "127.0.0.3", "127.0.0.2")
        ended = await checkpointd("migrate", env=env)
    assert (1, 1) == (ended.code, len(ended.err.splitlines())), ended.err
    assert f"db.test:{port}: " in ended.err
    assert "connection refused" in ended.err
    assert "no response in time" in ended.err


@pytest.mark.slow
async def test_the_primary_is_one_of_the_addresses(provider: Provider, tmp_path: Path) -> None:
    """Of the addresses of one name, the primary is used if the URL asks for it, whatever their order."""
    with serving(tmp_path / "first") as first:
        second = first.standby(tmp_path / "second")
        second.port = first.port
        second.configure(listen_addresses="127.0.0.2")
        second.start(address="127.0.0.2")
        try:
            url = f"postgresql://postgres@db.test:{first.port}/postgres?sslmode=disable&target_session_attrs=primary"
            env = _resolving(environment(tmp_path, url, provider.url), tmp_path, "127.0.0.2", "127.0.0.1")
            ended = await checkpointd("migrate", env=env)
            assert (0, "") == (ended.code, ended.err)
        finally:
            second.stop()


# Encodings


@asynccontextmanager
async def _database(postgres: str, options: str) -> AsyncIterator[str]:
    """Create a database with these options. Yields its URL."""
    admin = await asyncpg.connect(postgres.format("postgres"))
    await admin.execute(f"create database odd template template0 {options}")
    try:
        yield postgres.format("odd")
    finally:
        await admin.execute("drop database odd with (force)")
        await admin.close()


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"])
async def test_only_utf8_is_accepted(encoding: str, postgres: str, provider: Provider, tmp_path: Path) -> None:
    """A database with another encoding is refused by each command in one line with the remedy. The daemon waits."""
    async with _database(postgres, f"encoding '{encoding}' locale 'C'") as url:
        env = environment(tmp_path, url, provider.url)
        ended = await checkpointd("migrate", env=env)
        assert (1, 1) == (ended.code, len(ended.err.splitlines()))
        assert f"the encoding {encoding}" in ended.err
        assert "--encoding=UTF8" in ended.err
        findings = await _findings(env)
        assert "fail" == findings["database"]["state"]
        assert f"the encoding {encoding}" in findings["database"]["message"]
        async with running("run", env=env) as daemon:
            assert f"the encoding {encoding}" in await wait_for_line(daemon, "daemon.waiting")
        sql = await asyncpg.connect(url)
        assert not await sql.fetchval("select to_regnamespace('checkpointd')")
        await sql.close()


async def _findings(env: dict[str, str]) -> dict[str, dict[str, Any]]:
    ended = await checkpointd("check", "--json", env=env)
    return {finding["subject"]: finding for finding in json.loads(ended.out)["findings"]}


# Columns for every tool

RECORD = {"hyperparameters": {"n_epochs": 3, "batch_size": 1}, "metadata": {"team": "a"}, "error": {"code": "x"}}
COLUMNS = ("hyperparameters", "metadata", "error")


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("column", COLUMNS)
async def test_json_can_be_grouped(column: str, store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The hyperparameters, metadata and errors of jobs can be grouped, compared, and made distinct."""
    swapped = {name: dict(reversed(list(value.items()))) for name, value in RECORD.items()}
    provider.jobs = page([job("ftjob-1", **RECORD), job("ftjob-2", **swapped), job("ftjob-3", **{column: None})])
    await read_job_list(store, provider, discover=True)
    distinct = await sql.fetch(f"select distinct {column}_jsonb as value from fine_tuning.jobs")
    assert {json.dumps(RECORD[column], sort_keys=True), None} == {
        row["value"] and json.dumps(json.loads(row["value"]), sort_keys=True) for row in distinct
    }
    grouped = await sql.fetch(f"select {column}_jsonb, count(*) from fine_tuning.jobs group by 1 order by 2")
    assert [1, 2] == [row["count"] for row in grouped]
    assert 2 == await sql.fetchval(f"select count(*) from fine_tuning.jobs where {column}_jsonb = $1",
                                   json.dumps(RECORD[column]))  # fmt: skip


@pytest.mark.parametrize("value", [r'{"a":"\u0000"}', r'{"a":"\ud83d"}', '{"a":1e999999}', '{"\\ude00":1}'])
async def test_json_that_jsonb_cannot_store(
    value: str, url: str, store: Store, provider: Provider, sql: asyncpg.Connection
) -> None:
    """What jsonb cannot store is null in the companion, and spoils neither its neighbours nor the query."""
    await sync(store, provider, "ftjob-1", "ftjob-2")
    await sql.execute("update checkpointd.jobs set metadata = $1 where id = 'ftjob-1'", value)
    await sql.execute("""update checkpointd.jobs set metadata = '{"a":1}' where id = 'ftjob-2'""")
    async with login(url, "in role checkpointd_reader") as reader_url:
        reader = await asyncpg.connect(reader_url)
        rows = await reader.fetch("select metadata, metadata_jsonb from fine_tuning.jobs order by id")
        await reader.close()
    assert [(value, None), ('{"a":1}', '{"a": 1}')] == [tuple(row) for row in rows]


async def test_the_lag_in_seconds(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The lag can be read as a number; a sealed job has none, as it has no lag."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await sync(store, provider, JOB, "ftjob-2")
    await sql.execute("update checkpointd.polling set last_complete_at = now() - interval '90 s'")
    await sql.execute(
        "update checkpointd.polling set sealed_at = now() where job = (select max(job) from checkpointd.polling)"
    )
    rows = await sql.fetch(
        "select lag_seconds, extract(epoch from lag)::float8 as lag from fine_tuning.freshness order by lag_seconds"
    )
    assert [True, None] == [row["lag_seconds"] and 90 <= row["lag_seconds"] < 150 for row in rows]
    assert all(row["lag"] == row["lag_seconds"] for row in rows)


# Row-level security, and what else hides or changes rows

HIDING = {
    "polling": "alter table checkpointd.polling enable row level security",
    "jobs": "alter table checkpointd.jobs enable row level security",
    "checkpoints": "alter table checkpointd.checkpoints enable row level security",
    "sources": "alter table checkpointd.sources enable row level security, force row level security",
    "schema_migrations": "alter table checkpointd.schema_migrations enable row level security",
    "changes": (
        "alter table checkpointd.changes enable row level security;"
        " create policy own on checkpointd.changes to checkpointd using (kind <> 'missing')"
    ),
}
"""Tables, and a statement with which PostgreSQL hides some or all of their rows from the daemon."""


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("table", HIDING)
async def test_row_level_security(
    table: str, url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Row-level security on a table is reported by check and migrate, and named by each command that it disturbs."""
    provider.jobs = page([])
    provider.checkpoints[JOB] = page([checkpoint(1)])
    async with login(url, "in role checkpointd") as daemon_url:
        env = environment(tmp_path, daemon_url, provider.url)
        await checkpointd("track", JOB, env=env)
        await sql.execute(HIDING[table])
        finding = (await _findings(env))["tables"]
        assert "fail" == finding["state"]
        assert f"alter table checkpointd.{table} disable row level security" in finding["message"]
        ended = await checkpointd("sync", env=env)
        assert (1, True) == (ended.code, "row-level security" in ended.err), ended
        assert "another daemon" not in ended.err + ended.out
        migrated = await checkpointd("migrate", env=environment(tmp_path, url))
        assert (0, True) == (migrated.code, f"row-level security on checkpointd.{table}" in migrated.err), migrated
        async with running("run", env=env) as daemon:
            assert "row-level security" in await wait_for_line(daemon, "daemon.waiting")
        await sql.execute(finding["message"].partition("`")[2].partition("`")[0])
        assert "tables" not in await _findings(env)
        assert 0 == (await checkpointd("sync", env=env)).code


@pytest.mark.slow
async def test_row_level_security_that_binds_the_owner(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Row-level security without an effect is no problem; forced on the owner, it stops a migration with the remedy."""
    await sql.execute("alter table checkpointd.jobs enable row level security")
    async with login(url, "in role checkpointd_owner") as owner_url:
        env = environment(tmp_path, owner_url, provider.url)
        assert "tables" in await _findings(env), "the role checkpointd is affected"
        await sql.execute("alter role checkpointd bypassrls")
        try:
            assert "tables" not in await _findings(env)
            await sql.execute("alter table checkpointd.jobs force row level security")
            assert "fail" == (await _findings(env))["tables"]["state"]
            await sql.execute("update checkpointd.schema_migrations set checksum = 'x' where name like 'views%'")
            ended = await checkpointd("migrate", env=env)
            assert (1, 1) == (ended.code, len(ended.err.splitlines())), ended
            assert "alter table checkpointd.jobs disable row level security" in ended.err
        finally:
            await sql.execute("alter role checkpointd nobypassrls")


ADDED = {
    "create rule quiet as on insert to checkpointd.changes do instead nothing":
        ("fail", "drop rule quiet on checkpointd.changes"),
    "create function f() returns trigger language plpgsql as 'begin return null; end';"
    " create trigger audit before insert on checkpointd.polls for each row execute function f()":
        ("warn", "drop trigger audit on checkpointd.polls"),
    "alter table checkpointd.rejects set unlogged": ("warn", "alter table checkpointd.rejects set logged"),
}  # fmt: skip


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("statement", ADDED)
async def test_additions_to_tables(
    statement: str, url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A rule, a trigger or a table that is not logged, which can lose rows, is reported with the remedy."""
    provider.jobs = page([])
    state, remedy = ADDED[statement]
    async with login(url, "in role checkpointd") as daemon_url:
        env = environment(tmp_path, daemon_url, provider.url)
        await sql.execute(statement)
        finding = (await _findings(env))["tables"]
        assert (state, True) == (finding["state"], f"run `{remedy}`" in finding["message"])
        assert remedy in (await checkpointd("migrate", env=environment(tmp_path, url))).err
        await sql.execute(remedy)
        assert "tables" not in await _findings(env)


# Defaults of a database or role

ISOLATION = "default_transaction_isolation"


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_another_isolation_level(
    level: str, url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Whatever isolation level a database has, two daemons that share the work report no failure of the database."""
    await sql.execute(f"alter database {await _name(sql)} set {ISOLATION} = '{level}'")
    jobs = [f"ftjob-{n}" for n in range(20)]
    often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.1"}
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_JOB_LIST_SECONDS="0.2", **often)
    await checkpointd("track", "-", env=env, stdin="\n".join(jobs))
    async with running("run", env=env) as one, running("run", env=env) as other:
        for daemon in (one, other):
            await wait_for_line(daemon, "daemon.ready")
        for steps in range(1, 8):
            status = "running" if steps % 2 else "paused"
            provider.jobs = page([job(name, status) for name in jobs])
            for name in jobs:
                provider.checkpoints[name] = page([checkpoint(n, name) for n in range(steps, 0, -1)])
            await until_true(sql, "select count(*) = $1 from checkpointd.checkpoints", steps * len(jobs))
        for daemon in (one, other):
            daemon.terminate()
            _, err = await daemon.communicate()
            assert b"database.unavailable" not in err
    assert "read committed" == await _isolation_level(url)


async def _name(sql: asyncpg.Connection) -> str:
    return str(await sql.fetchval("select current_database()"))


async def _isolation_level(url: str) -> str:
    connection = await connect(url)
    level = await connection.fetchval("select current_setting('transaction_isolation')")
    await connection.close()
    return str(level)


@pytest.mark.slow
async def test_odd_defaults(empty_url: str, provider: Provider, tmp_path: Path) -> None:
    """Defaults that change how PostgreSQL reads and writes values change nothing of what is stored and shown."""
    sql = await asyncpg.connect(empty_url)
    for setting in (
        "standard_conforming_strings = off",
        "extra_float_digits = -15",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "search_path = 'nowhere'",
        f"{ISOLATION} = 'serializable'",
        "timezone = 'Asia/Kathmandu'",
    ):
        try:
            await sql.execute(f"alter database {await _name(sql)} set {setting}")
        except asyncpg.PostgresError:
            assert "standard_conforming_strings" in setting, "newer versions of PostgreSQL cannot turn it off"
    await sql.close()
    env = environment(tmp_path, empty_url, provider.url)
    assert 0 == (await checkpointd("migrate", env=env)).code
    loss = 0.12345678901234568
    provider.jobs = page([job(hyperparameters={"n_epochs": "2.0"})])
    provider.checkpoints[JOB] = page([checkpoint(n, valid_loss=loss) for n in (20, 10)])
    await checkpointd("track", JOB, env=env)
    assert 0 == (await checkpointd("sync", env=env)).code
    sql = await asyncpg.connect(empty_url)
    epochs = "select step_number, epoch from fine_tuning.checkpoints order by 1"
    assert [(10, 1), (20, 2)] == [tuple(row) for row in await sql.fetch(epochs)]
    assert loss == await sql.fetchval("select max(valid_loss) from fine_tuning.checkpoints")
    await sql.close()


@pytest.mark.slow
async def test_read_only_on_purpose(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A default of read-only, which somebody set on purpose, stays in force and is reported as what it is."""
    await sql.execute(f"alter database {await _name(sql)} set default_transaction_read_only = on")
    env = environment(tmp_path, url, provider.url)
    finding = (await _findings(env))["database"]
    assert ("fail", True) == (finding["state"], "default_transaction_read_only is on" in finding["message"])


@pytest.mark.slow
async def test_isolation_behind_a_pooler(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Behind a pooler, where a session cannot set its isolation level, check prints the statement for the role."""
    await sql.execute(f"alter database {await _name(sql)} set {ISOLATION} = 'serializable'")
    async with login(url, "in role checkpointd") as daemon_url:
        env = environment(tmp_path, daemon_url, provider.url, CHECKPOINTD_DATABASE_POOLER="true")
        finding = (await _findings(env))["pooler"]
        assert f"set {ISOLATION} = 'read committed'" in finding["message"]
        await sql.execute(finding["message"].partition("reconnect the pooler: ")[2])
        assert "ok" == (await _findings(env))["pooler"]["state"]
