"""PostgreSQL as it is met outside: failover, poolers, TLS, and the ways in which it refuses to do its part."""

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from checkpointd.postgres.connection import connect
from checkpointd.postgres.errors import DatabaseUnavailableError, explain
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from support.harness import polling_one, tick, track
from support.logins import as_role, login
from support.provider import JOB, Provider, checkpoint, page, paged
from support.servers import Server, binaries_with_tls, free_port, give_away, program, serving, unprivileged
from support.verbs import checkpointd, environment, running, wait_for_line

# Several hosts


@pytest.mark.slow
async def test_promotion_is_followed(provider: Provider, tmp_path: Path) -> None:
    """With both hosts in the address, the daemon follows a failover to the promoted standby, without a restart."""
    with serving(tmp_path / "first") as first:
        second = first.standby(tmp_path / "second")
        second.start()
        try:
            url = f"postgresql://postgres@127.0.0.1:{second.port},127.0.0.1:{first.port}/postgres"
            env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1",
                              CHECKPOINTD_MAX_POLL_SECONDS="0.1", CHECKPOINTD_LEASE_SECONDS="2")  # fmt: skip
            assert 0 == (await checkpointd("migrate", env=env)).code
            provider.checkpoints[JOB] = page([checkpoint(1)])
            await checkpointd("track", JOB, env=env)
            async with running("run", env=env) as daemon:
                await wait_for_line(daemon, "poll.changed")
                first.stop()
                await wait_for_line(daemon, "database.unavailable")
                provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
                promoted = await asyncpg.connect(second.url)
                assert await promoted.fetchval("select pg_promote()")
                await wait_for_line(daemon, "poll.changed")
                steps = await promoted.fetch("select step_number from fine_tuning.checkpoints order by 1")
                assert [1, 2] == [row["step_number"] for row in steps]
                await promoted.close()
        finally:
            second.stop()


async def test_of_several_hosts_the_primary(tmp_path: Path) -> None:
    """Dead and silent hosts hold up nobody: the one that is a primary is found at once; with none, each is told of."""
    with serving(tmp_path / "server") as server, socket.create_server(("127.0.0.1", 0)) as silent:
        mute, closed = silent.getsockname()[1], free_port()
        others = f"127.0.0.1:{closed},localhost:{mute}"
        for left in (2, 1, 0):  # once at least of three times
            began = time.monotonic()
            connection = await connect(f"postgresql://postgres@{others},127.0.0.1:{server.port}/postgres")
            if time.monotonic() - began < 2:
                break
            assert left, "who is silent held up the connection"
            await connection.close()
        assert server.port == await connection.fetchval("select inet_server_port()")
        await connection.close()
        (server.folder / "data" / "standby.signal").touch()
        server.stop()
        server.configure(hot_standby="on", primary_conninfo="")
        server.start()
        with pytest.raises(ConnectionError) as caught:
            await connect(f"postgresql://postgres@127.0.0.1:{closed},127.0.0.1:{server.port}/postgres")
        assert "no host is primary" in str(caught.value)
        assert "nothing listens there" in str(caught.value)
        assert "a standby" in str(caught.value)


# A pooler


@contextmanager
def _pgbouncer(folder: Path, server: Server) -> Iterator[str]:
    """Run a pgbouncer in transaction mode with two connections before a server; yields the URL through it."""
    pgbouncer = program("pgbouncer", "pgbouncer")
    folder.mkdir()
    (folder / "users").write_text('"postgres" ""\n"checkpointd" ""\n"other" ""\n')
    port = free_port()
    (folder / "ini").write_text(
        f"""[databases]
postgres = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = 2
auth_type = trust
auth_file = {folder}/users
"""
    )
    give_away(folder)
    log = (folder / "log").open("wb")
    process = subprocess.Popen([*unprivileged(), pgbouncer, "-q", folder / "ini"], stderr=log, stdout=log)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(60)
        log.close()


@pytest.mark.slow
async def test_pgbouncer_in_transaction_mode(provider: Provider, tmp_path: Path) -> None:
    """Through a pooler that lends a server's connection for one transaction, everything works, at three times at once.

    And without the setting, what fails says which setting it is.
    """
    with serving(tmp_path / "server") as server, _pgbouncer(tmp_path / "pgbouncer", server) as url:
        jobs = [f"ftjob-{n}" for n in range(60)]
        for job in jobs:
            provider.checkpoints[job] = paged([checkpoint(n, job) for n in range(1, 30)])
        env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
        told = (await checkpointd("migrate", env=env)).err
        assert "CHECKPOINTD_DATABASE_POOLER=true" in told
        env["CHECKPOINTD_DATABASE_POOLER"] = "true"
        assert (0, "") == (await checkpointd("migrate", env=env))[::2]
        assert (0, "") == (await checkpointd("track", "-", env=env, stdin="\n".join(jobs)))[::2]
        async with running("run", env=env) as one, running("run", env=env) as other:
            for daemon in (one, other):
                await wait_for_line(daemon, "daemon.ready")
            done = await checkpointd("sync", env=env)
            assert (0, "") == done[::2]
            sql = await asyncpg.connect(server.url)
            assert 60 * 29 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
            assert 0 == await sql.fetchval("select count(*) from fine_tuning.freshness where consecutive_failures > 0")
            await sql.close()
            for daemon in (one, other):
                daemon.terminate()
                out, err = await daemon.communicate()
                assert (0, b"") == (daemon.returncode, out)
                assert [] == [
                    line for line in err.splitlines() if b"unavailable" in line and b"no answer in time" not in line
                ]


@pytest.mark.slow
async def test_what_check_says_of_a_pooler(provider: Provider, tmp_path: Path) -> None:
    """Through a pooler `check` finds what a role does not bring; once its statements ran, all is well."""
    provider.jobs = page([])
    with serving(tmp_path / "server") as server:
        await checkpointd("migrate", env=environment(tmp_path, server.url))
        sql = await asyncpg.connect(server.url)
        await sql.execute("alter role checkpointd login; create role other login in role checkpointd")
        settings = 4 + (sql.get_server_version().major >= 17)  # which brought transaction_timeout
        for role, state, left in (("checkpointd", "ok", 0), ("other", "warn", settings), ("other", "ok", 0)):
            with _pgbouncer(tmp_path / f"pgbouncer-{role}-{state}", server) as url:
                env = environment(tmp_path, as_role(url, role), provider.url, CHECKPOINTD_DATABASE_POOLER="true")
                ended = await checkpointd("check", "--json", env=env)
            assert (0, "") == (ended.code, ended.err)
            findings = {finding["subject"]: finding for finding in json.loads(ended.out)["findings"]}
            assert {state} == {f["state"] for subject, f in findings.items() if subject == "pooler"}
            assert {"ok"} == {f["state"] for subject, f in findings.items() if subject != "pooler"}
            assert left == findings["pooler"]["message"].count("alter role ")
            if left:
                await sql.execute(findings["pooler"]["message"].partition("reconnect the pooler: ")[2])
        await sql.close()


# TLS

REMOTE = "127.1"
"""This machine, in a spelling that nobody takes for it."""


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run([program("openssl", "openssl"), *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Yield a server with TLS, whose certificate names REMOTE, and the certificate of the authority that signed it."""
    bin_, folder = binaries_with_tls(), tmp_path_factory.mktemp("tls")
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    # With all that Python 3.13 wants of an authority of the system's.
    may = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl(folder, "req", "-x509", *ec, *may, "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt")
    _openssl(folder, "req", *ec[:-2], "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text(f"subjectAltName=DNS:{REMOTE}\nauthorityKeyIdentifier=keyid\n")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    _openssl(folder, "x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    (folder / "server.key").chmod(0o600)
    give_away(folder, folder / "server.key", folder / "server.crt")
    files = {"ssl_cert_file": f"{folder}/server.crt", "ssl_key_file": f"{folder}/server.key"}
    with serving(folder / "server", bin_, ssl="on", **files) as server:
        yield server, folder / "ca.crt"


async def _is_encrypted(url: str) -> bool:
    connection = await connect(url)
    encrypted = await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    await connection.close()
    assert isinstance(encrypted, bool)
    return encrypted


async def test_certificates_are_verified(certified: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody chose less, a server elsewhere must show a certificate for its name, of an authority we trust."""
    server, authority = certified
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(variable, raising=False)
    remote = server.url.replace("127.0.0.1", REMOTE)
    other = server.url.replace("127.0.0.1", "127.0.1")
    for url, mend in (
        (remote, "sslrootcert=FILE in the URL"),
        (remote + "?sslmode=verify-full", "sslrootcert=FILE in the URL"),
        (f"{other}?sslrootcert={authority}", "the URL has to name the host as its certificate does"),
    ):
        with pytest.raises(OSError, match="verify failed") as caught:
            await connect(url)
        assert mend in explain(caught.value)
    assert await _is_encrypted(f"{remote}?sslrootcert={authority}")
    assert await _is_encrypted(f"{remote}?sslrootcert={authority}&sslmode=verify-full")
    assert await _is_encrypted(f"{remote}?sslmode=require")
    assert not await _is_encrypted(f"{remote}?sslmode=disable")
    assert await _is_encrypted(server.url), "to this machine itself TLS is taken where it is offered"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert await _is_encrypted(remote), "the system's authorities are trusted"
    assert await _is_encrypted(f"{remote}?sslrootcert=system")


async def test_no_password_without_tls() -> None:
    """A server elsewhere that says it has no TLS learns neither the role nor the password."""
    heard = []
    gone = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.write(b"N")
        heard.append(await reader.read(1000))
        writer.close()
        gone.set()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError) as caught:
            await connect(f"postgresql://canary:canary@{REMOTE}:{port}/db")
        await asyncio.wait_for(gone.wait(), 10)
    assert "sslmode=disable" in explain(caught.value)
    assert [8, 0] == [len(words) for words in heard]


async def test_less_than_verified_is_said(provider: Provider, certified: tuple[Server, Path], tmp_path: Path) -> None:
    """A weaker sslmode that somebody chose is obeyed, with one line that warns of it."""
    server, _ = certified
    url = server.url.replace("127.0.0.1", REMOTE) + "?sslmode=require"
    async with running("run", env=environment(tmp_path, url, provider.url)) as daemon:
        line = await wait_for_line(daemon, "database.unverified")
        assert REMOTE in line
        await wait_for_line(daemon, "daemon.waiting")


# What it refuses

REFUSALS: dict[str, tuple[str, str, str]] = {
    "a right is missing": ("revoke all on checkpointd.polling from checkpointd", "permission denied for table polling",
                           "checkpointd migrate"),
    "read-only": ("alter role {role} set default_transaction_read_only = on", "read-only transaction", "the primary"),
    "the disk is full": ("create trigger full_disk before insert on checkpointd.jobs execute function full_disk()",
                         "No space left on device", "make room"),
    "too many connections": ("alter role {role} connection limit 0", "too many connections", "raise max_connections"),
    "no such role": ("alter role {role} nologin", "not permitted to log in", "pg_hba.conf"),
    "no such table": ("alter table checkpointd.polling rename to other", "does not exist", "checkpointd migrate"),
}  # fmt: skip


FULL_DISK = """create function full_disk() returns trigger language plpgsql as $$ begin
  raise 'could not extend file "base/1": No space left on device' using errcode = '53100'; end $$"""


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_the_database_refuses(url: str, sql: asyncpg.Connection, case: str) -> None:
    """What PostgreSQL refuses is told in one line: its own words, and how to mend it."""
    statement, words, mend = REFUSALS[case]
    await sql.execute(FULL_DISK)
    async with login(url, "in role checkpointd") as theirs:
        await sql.execute(statement.format(role=urlsplit(theirs).username))
        async with open_store(lambda: connect(theirs)) as store:
            with pytest.raises(DatabaseUnavailableError) as caught:
                await track(store)
    told = str(caught.value)
    assert words in told
    assert mend in told
    assert 1 == len(told.splitlines())


async def test_no_row_is_quoted(sql: asyncpg.Connection) -> None:
    """What PostgreSQL says of a row, which may hold anything, is not repeated; its hint is."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute("do $$ begin raise 'no' using detail = 'a' || chr(10) || 'canary', hint = 'do this'; end $$")
    assert "canary" in str(caught.value)
    assert "RaiseError: no HINT: do this" == explain(caught.value)


async def test_read_only_for_a_while(store: Store, sql: asyncpg.Connection) -> None:
    """After a server was read-only, as a demoted primary is, the next use gets connections that can write again."""
    await track(store)
    database = await sql.fetchval("select current_database()")
    await sql.execute(f"alter database {database} set default_transaction_read_only = on")
    await store._pool.expire_connections()
    with pytest.raises(DatabaseUnavailableError, match="read-only"):
        await track(store, "ftjob-2")
    await sql.execute(f"alter database {database} reset default_transaction_read_only")
    await track(store, "ftjob-2")


async def test_a_full_disk_passes(store: Store, provider: Provider, sql: asyncpg.Connection, health: Health) -> None:
    """A save for which the disk has no room leaves nothing half-written, and the next poll stores it all."""
    await sql.execute(
        f"{FULL_DISK}; create trigger full_disk before insert on checkpointd.changes execute function full_disk()"
    )
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await track(store)
    async with polling_one(store, provider, lease=2, health=health) as (poller, _, _):
        assert 1 == await tick(poller)
    (problem,) = health.problems()
    assert problem.startswith("database: save failed: DiskFullError: ")
    assert 0 == await sql.fetchval("select count(*) from checkpointd.checkpoints")
    await sql.execute("drop trigger full_disk on checkpointd.changes")
    await sql.execute("update checkpointd.polling set next_poll_at = now(), lease_expires_at = null")
    async with polling_one(store, provider, health=health) as (poller, _, _):
        assert 1 == await tick(poller)
    assert [] == health.problems()
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.checkpoints")
    assert 1 == await sql.fetchval("select count(*) from fine_tuning.changes where kind = 'new'")
