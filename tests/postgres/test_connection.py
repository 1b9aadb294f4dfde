"""Connections to real servers: several hosts and failover, a pooler, TLS, and the errors of a database."""

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

from checkpointd.postgres.connection import STATEMENT_SECONDS, connect
from checkpointd.postgres.errors import DatabaseUnavailableError, explain
from checkpointd.postgres.store import Store, open_store
from checkpointd.telemetry.health import Health
from service.faults.proxy import Proxy
from support.harness import polling_one, tick, track
from support.logins import as_role, login
from support.provider import JOB, Provider, checkpoint, page, paged
from support.servers import Server, binaries_with_tls, free_port, give_away, program, serving, unprivileged
from support.verbs import checkpointd, environment, running, wait_for_line

# Several hosts


@pytest.mark.slow
async def test_promotion_is_followed(provider: Provider, tmp_path: Path) -> None:
    """With both hosts in the URL, the daemon goes on with the promoted standby after a failover, without a restart."""
    with serving(tmp_path / "first") as first:
        second = first.standby(tmp_path / "second")
        second.start()
        try:
            url = f"postgresql://postgres@127.0.0.1:{second.port},127.0.0.1:{first.port}/postgres"
            often = {"CHECKPOINTD_MIN_POLL_SECONDS": "0.1", "CHECKPOINTD_MAX_POLL_SECONDS": "0.1"}
            env = environment(tmp_path, url, provider.url, CHECKPOINTD_LEASE_SECONDS="2", **often)
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


async def test_the_primary_of_several_hosts(tmp_path: Path) -> None:
    """The primary is found at once, although other hosts are dead or silent. Without one, the error names each host."""
    with serving(tmp_path / "server") as server, socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port, closed_port = silent.getsockname()[1], free_port()
        others = f"127.0.0.1:{closed_port},localhost:{silent_port}"
        for attempts_left in (2, 1, 0):  # another program may slow down one attempt, but not three
            began = time.monotonic()
            connection = await connect(f"postgresql://postgres@{others},127.0.0.1:{server.port}/postgres")
            if time.monotonic() - began < 2:
                break
            assert attempts_left, "the silent host delayed the connection"
            await connection.close()
        assert server.port == await connection.fetchval("select inet_server_port()")
        await connection.close()
        (server.folder / "data" / "standby.signal").touch()
        server.stop()
        server.configure(hot_standby="on", primary_conninfo="")
        server.start()
        with pytest.raises(ConnectionError) as caught:
            await connect(f"postgresql://postgres@127.0.0.1:{closed_port},127.0.0.1:{server.port}/postgres")
        assert "no host is primary" in str(caught.value)
        assert "connection refused" in str(caught.value)
        assert "a standby" in str(caught.value)


# A pooler


@contextmanager
def _pgbouncer(folder: Path, server: Server) -> Iterator[str]:
    """Run a pgbouncer in transaction mode, with two connections to the server. Yields the URL of the pgbouncer."""
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
    """Two daemons and a sync work through a pooler that lends a connection for one transaction only.

    Without the setting for poolers, the error names that setting.
    """
    with serving(tmp_path / "server") as server, _pgbouncer(tmp_path / "pgbouncer", server) as url:
        jobs = [f"ftjob-{n}" for n in range(60)]
        for job in jobs:
            provider.checkpoints[job] = paged([checkpoint(n, job) for n in range(1, 30)])
        env = environment(tmp_path, url, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
        assert "CHECKPOINTD_DATABASE_POOLER=true" in (await checkpointd("migrate", env=env)).err
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
                    line for line in err.splitlines() if b"unavailable" in line and b"no response in time" not in line
                ]


@pytest.mark.slow
async def test_check_of_a_pooler(provider: Provider, tmp_path: Path) -> None:
    """Through a pooler, `check` reports the settings that the role lacks. After its statements it reports none."""
    provider.jobs = page([])
    with serving(tmp_path / "server") as server:
        await checkpointd("migrate", env=environment(tmp_path, server.url))
        sql = await asyncpg.connect(server.url)
        await sql.execute("alter role checkpointd login; create role other login in role checkpointd")
        settings = 4 + (sql.get_server_version().major >= 17)  # 17 has transaction_timeout, too
        for role, state, missing in (("checkpointd", "ok", 0), ("other", "warn", settings), ("other", "ok", 0)):
            with _pgbouncer(tmp_path / f"pgbouncer-{role}-{state}", server) as url:
                env = environment(tmp_path, as_role(url, role), provider.url, CHECKPOINTD_DATABASE_POOLER="true")
                ended = await checkpointd("check", "--json", env=env)
            assert (0, "") == (ended.code, ended.err)
            findings = {finding["subject"]: finding for finding in json.loads(ended.out)["findings"]}
            assert {state} == {f["state"] for subject, f in findings.items() if subject == "pooler"}
            assert {"ok"} == {f["state"] for subject, f in findings.items() if subject != "pooler"}
            assert missing == findings["pooler"]["message"].count("alter role ")
            if missing:
                await sql.execute(findings["pooler"]["message"].partition("reconnect the pooler: ")[2])
        await sql.close()


# TLS

REMOTE = "127.1"
"""This machine, written in a way that does not count as local."""


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run([program("openssl", "openssl"), *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Yield a server with TLS, whose certificate names REMOTE, and the certificate of the authority that signed it."""
    bin_, folder = binaries_with_tls(), tmp_path_factory.mktemp("tls")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # Python 3.13 requires it of the system's authorities
    authority = ["-subj", "/CN=tests", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt"]
    _openssl(folder, "req", "-x509", *new_key, *usage, *authority)
    _openssl(folder, "req", *new_key, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text(f"subjectAltName=DNS:{REMOTE}\nauthorityKeyIdentifier=keyid\n")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    _openssl(folder, "x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    (folder / "server.key").chmod(0o600)
    give_away(folder, folder / "server.key", folder / "server.crt")
    files = {"ssl_cert_file": f"{folder}/server.crt", "ssl_key_file": f"{folder}/server.key"}
    with serving(folder / "server", bin_, ssl="on", **files) as server:
        yield server, folder / "ca.crt"


async def _tls_version(url: str) -> str | None:
    connection = await connect(url)
    version = await connection.fetchval("select version from pg_stat_ssl where pid = pg_backend_pid()")
    await connection.close()
    return None if version is None else str(version)


async def _is_encrypted(url: str) -> bool:
    return await _tls_version(url) is not None


async def test_certificates_are_verified(certified: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote server must have a certificate for its name, of a trusted authority, unless sslmode demands less."""
    server, authority = certified
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(variable, raising=False)
    remote = server.url.replace("127.0.0.1", REMOTE)
    other = server.url.replace("127.0.0.1", "127.0.1")
    for url, advice in (
        (remote, "sslrootcert=FILE in the URL"),
        (remote + "?sslmode=verify-full", "sslrootcert=FILE in the URL"),
        (f"{other}?sslrootcert={authority}", "the URL must name the host as its certificate does"),
    ):
        with pytest.raises(OSError, match="verify failed") as caught:
            await connect(url)
        assert advice in explain(caught.value)
    assert await _is_encrypted(f"{remote}?sslrootcert={authority}")
    assert await _is_encrypted(f"{remote}?sslrootcert={authority}&sslmode=verify-full")
    assert await _is_encrypted(f"{remote}?sslmode=require")
    assert not await _is_encrypted(f"{remote}?sslmode=disable")
    assert await _is_encrypted(server.url), "on this machine, TLS is used if the server offers it"
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert await _is_encrypted(remote), "the system's authorities are trusted"
    assert await _is_encrypted(f"{remote}?sslrootcert=system")


async def test_the_certificate_names_the_host_not_the_address(
    certified: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate must name the host of the URL, whichever address of it is connected to."""
    server, authority = certified
    for variable in ("PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(variable, raising=False)
    trusted = f"hostaddr=127.0.0.1&sslrootcert={authority}"
    assert await _is_encrypted(server.url.replace("127.0.0.1", REMOTE) + f"?{trusted}")
    with pytest.raises(OSError, match="mismatch"):
        await connect(server.url.replace("127.0.0.1", "db.example.org") + f"?{trusted}")


async def test_channel_binding(certified: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a remote host, channel_binding=require demands a verified certificate, whatever sslmode says."""
    server, authority = certified
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "PGSSLROOTCERT", "PGSSLMODE"):
        monkeypatch.delenv(variable, raising=False)
    remote = server.url.replace("127.0.0.1", REMOTE)
    demanded = "sslmode=require&channel_binding=require"
    with pytest.raises(OSError, match="verify failed") as caught:
        await connect(f"{remote}?{demanded}")
    assert "sslrootcert=FILE in the URL" in explain(caught.value)
    assert await _is_encrypted(f"{remote}?{demanded}&sslrootcert={authority}")
    assert await _is_encrypted(f"{remote}?sslmode=require&channel_binding=prefer")
    assert await _is_encrypted(f"{server.url}?{demanded}"), "nobody is between this machine and itself"
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    with pytest.raises(OSError, match="verify failed"):
        await connect(f"{remote}?sslmode=require")


@pytest.mark.parametrize("mode", ["sslmode=require&", ""])
async def test_versions_of_tls(mode: str, certified: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest and the newest version of TLS can be set, whether the certificate is verified or not."""
    server, authority = certified
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    remote = server.url.replace("127.0.0.1", REMOTE) + f"?{mode}"
    assert "TLSv1.3" == await _tls_version(f"{remote}ssl_min_protocol_version=TLSv1.3")
    assert "TLSv1.2" == await _tls_version(f"{remote}ssl_max_protocol_version=tlsv1.2")
    monkeypatch.setenv("PGSSLMAXPROTOCOLVERSION", "TLSv1.2")
    assert "TLSv1.2" == await _tls_version(remote)


async def test_no_password_without_tls() -> None:
    """A remote server without TLS receives neither the role nor the password."""
    received = []
    closed = asyncio.Event()

    async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1000))
        writer.write(b"N")
        received.append(await reader.read(1000))
        writer.close()
        closed.set()

    async with await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError) as caught:
            await connect(f"postgresql://canary:canary@{REMOTE}:{port}/db")
        await asyncio.wait_for(closed.wait(), 10)
    explained = explain(caught.value)
    assert "refuses TLS: turn TLS on there" in explained
    assert "disable" not in explained
    assert [8, 0] == [len(data) for data in received]  # the request for TLS, and the end


async def test_unverified_is_reported(provider: Provider, certified: tuple[Server, Path], tmp_path: Path) -> None:
    """A weaker sslmode in the URL is used, and the daemon logs one warning."""
    server, _ = certified
    url = server.url.replace("127.0.0.1", REMOTE) + "?sslmode=require"
    async with running("run", env=environment(tmp_path, url, provider.url)) as daemon:
        line = await wait_for_line(daemon, "database.unverified")
        assert REMOTE in line
        await wait_for_line(daemon, "daemon.waiting")


# Errors

REFUSALS: dict[str, tuple[str, str, str]] = {
    "a right is missing": (
        "revoke all on checkpointd.polling from checkpointd",
        "permission denied for table polling",
        "checkpointd migrate",
    ),
    "read-only": (
        "alter role {role} set default_transaction_read_only = on",
        "read-only transaction",
        "default_transaction_read_only is on: name the primary",
    ),
    "the disk is full": (
        "create trigger full_disk before insert on checkpointd.jobs execute function full_disk()",
        "No space left on device",
        "free space on the server's disk",
    ),
    "too many connections": (
        "alter role {role} connection limit 0",
        "too many connections",
        "raise max_connections",
    ),
    "no such role": ("alter role {role} nologin", "not permitted to log in", "pg_hba.conf"),
    "no such table": (
        "alter table checkpointd.polling rename to other",
        "does not exist",
        "checkpointd migrate",
    ),
    "no such function": (
        "alter function checkpointd.track_jobs rename to other",
        "does not exist",
        "run `checkpointd migrate`",
    ),
    "no such column": (
        "alter table checkpointd.sources rename kind to other",
        "does not exist",
        "run `checkpointd migrate`",
    ),
}
"""What causes an error, PostgreSQL's words for it, and the advice."""

FULL_DISK = """create function full_disk() returns trigger language plpgsql as $$ begin
  raise 'could not extend file "base/1": No space left on device' using errcode = '53100'; end $$"""


@pytest.mark.parametrize("case", REFUSALS)
async def test_errors_have_advice(url: str, sql: asyncpg.Connection, case: str) -> None:
    """An error of PostgreSQL becomes one line, with PostgreSQL's own words and with advice."""
    statement, words, advice = REFUSALS[case]
    await sql.execute(FULL_DISK)
    async with login(url, "in role checkpointd") as daemon_url:
        await sql.execute(statement.format(role=urlsplit(daemon_url).username))
        async with open_store(lambda: connect(daemon_url)) as store:
            with pytest.raises(DatabaseUnavailableError) as caught:
                await track(store)
    message = str(caught.value)
    assert words in message
    assert advice in message
    assert 1 == len(message.splitlines())


async def test_no_row_is_quoted(sql: asyncpg.Connection) -> None:
    """The DETAIL of an error, which may contain values of a row, is left out; the HINT is kept."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute("do $$ begin raise 'no' using detail = 'a' || chr(10) || 'canary', hint = 'do this'; end $$")
    assert "canary" in str(caught.value)
    assert "RaiseError: no HINT: do this" == explain(caught.value)


async def test_read_only_for_a_while(url: str, sql: asyncpg.Connection) -> None:
    """After a server was read-only, as a demoted primary is, the store connects anew and can write again."""
    database = await sql.fetchval("select current_database()")
    await sql.execute(f"alter database {database} set default_transaction_read_only = on")
    async with open_store(lambda: connect(url)) as store:
        with pytest.raises(DatabaseUnavailableError, match="read-only"):
            await track(store)
        await sql.execute(f"alter database {database} reset default_transaction_read_only")
        await track(store)


async def test_a_silent_server_delays_no_end(url: str) -> None:
    """Work that is cancelled ends at once if the server falls silent while a new connection is prepared."""
    async with Proxy(url) as proxy:
        is_silent = asyncio.Event()

        async def connect_and_silence() -> asyncpg.Connection:
            connection = await connect(proxy.url)
            proxy.is_black_hole = True
            is_silent.set()
            return connection

        async with open_store(connect_and_silence) as store:
            reading = asyncio.create_task(store.read_clock())
            await is_silent.wait()
            reading.cancel()
            done, _ = await asyncio.wait([reading], timeout=STATEMENT_SECONDS / 2)
            assert {reading} == done


async def test_full_disk_for_a_while(store: Store, provider: Provider, sql: asyncpg.Connection, health: Health) -> None:
    """A save that fails because the disk is full writes nothing, and the next poll saves everything."""
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


async def test_a_held_lock_is_explained(url: str, sql: asyncpg.Connection) -> None:
    """If another session holds a lock for too long, the message says what to do."""
    other = await connect(url)
    async with other.transaction():
        await other.execute("lock table checkpointd.sources")
        await sql.execute("set lock_timeout = '1ms'")
        with pytest.raises(asyncpg.LockNotAvailableError) as caught:
            await sql.execute("table checkpointd.sources")
        assert "try again when its transaction has ended" in explain(caught.value)
    await other.close()
