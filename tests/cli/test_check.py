"""`checkpointd check`: it finds what would stop the daemon, says how to fix it, and changes nothing."""

import asyncio
import json
import re
import socket
import ssl
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from checkpointd.cli import check, database_findings, findings, source_findings
from checkpointd.cli.check import Finding
from checkpointd.cli.database import database
from checkpointd.cli.source_findings import Try
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres import overview, queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store, open_store
from checkpointd.provider import http
from checkpointd.settings import model as settings
from checkpointd.settings.source import Source
from support.documents import Document
from support.harness import read_job_list, sync
from support.logins import as_role, login
from support.provider import JOB, Answer, Provider, body, checkpoint, error, job, page, raw
from support.servers import self_signed
from support.verbs import PROGRAM, Ended, checkpointd, environment, on_terminal

QUERIES = "".join(text for name, text in vars(queries).items() if name.isupper())


@pytest.fixture
async def daemon_login(url: str) -> AsyncIterator[str]:
    """Yield the URL of a login that has only the role that sql/roles.sql creates for the daemon."""
    async with login(url, "in role checkpointd") as login_url:
        yield login_url


def _role(url: str) -> str:
    return str(urlsplit(url).username)


def _lines(ended: Ended) -> dict[str, tuple[str, str]]:
    """Return the printed findings: subject → state and message."""
    assert "" == ended.err
    lines = [line.split(None, 1) for line in ended.out.splitlines()]
    found = {rest.partition(": ")[0]: (state, rest.partition(": ")[2]) for state, rest in lines}
    assert len(found) == len(lines), "two findings have the same subject"
    for subject, (_, message) in found.items():
        _does_not_repeat(subject, message)
    return found


def _does_not_repeat(subject: str, message: str) -> None:
    """Check that the message of a finding does not begin with its subject."""
    assert not re.match(rf"(the key of |the )?{subject}\b", message), message


async def test_all_ok(daemon_login: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """If the daemon can work, each line is ok and the exit code is 0. One request is made, and nothing is changed."""
    provider.jobs = page([job()])
    env = environment(tmp_path, daemon_login, provider.url)
    ended = await checkpointd("check", env=env)
    assert (0, {"ok"}) == (ended.code, {state for state, _ in _lines(ended).values()}), ended.out
    of_database = ["settings", "database", "clock of database", "role", "schema"]
    subjects = [*of_database, "source openai", "clock of source openai"]
    assert subjects == list(_lines(ended))
    assert ["1"] == [request.query["limit"] for request in provider.requests]
    assert 0 == await sql.fetchval("select count(*) from checkpointd.sources")
    printed = json.loads((await checkpointd("check", "--json", env=env)).out)
    assert True is printed["ok"]
    assert subjects == [finding["subject"] for finding in printed["findings"]]


@pytest.mark.parametrize("columns", [40, 200])
async def test_on_a_terminal(daemon_login: str, provider: Provider, tmp_path: Path, columns: int) -> None:
    """On a terminal the state is coloured, further lines are indented, and a provider's text cannot control it."""
    provider.jobs = error(500, "down", "\x1b[2Jevil " + "and long " * 20)
    shown = await on_terminal("check", env=environment(tmp_path, daemon_login, provider.url), columns=columns)
    assert "\x1b[33mwarn\x1b[0m  source openai: HTTP 500 down" in shown
    assert "\x1b[2J" not in shown
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in shown.splitlines()]
    assert columns >= max(map(len, lines))
    assert all(re.match(r"(ok  |warn|    )  \S", line) for line in lines), shown


async def test_the_checked_rights_are_enough(daemon_login: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """The daemon's role has exactly the rights that a check tests, and with them a daemon does all of its work."""
    async with open_store(lambda: connect(daemon_login)) as store:
        assert [] == await overview.find_missing_rights(store)
        provider.jobs = page([job()])
        provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2), {"object": "fine_tuning.job.checkpoint"}])
        await sync(store, provider, JOB, "ftjob-missing")
        await read_job_list(store, provider, discover=True)
        provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.5)])
        provider.jobs = page([job(status="succeeded")])
        for _ in range(2):
            await sync(store, provider, JOB, "ftjob-missing")
        await read_job_list(store, provider)
        assert await store.pause_source((await store.register_sources({"test": "openai"}))["test"], 3600, "a pause")
        await evaluate_findings(store)
        await store.resync(await store.find_jobs([JOB]))
        await store.untrack(await store.find_jobs([JOB]))
        assert 2 == len(await overview.list_jobs(store))
        assert 1 == len(await overview.list_freshness(store))
    kinds = {row[0] for row in await sql.fetch("select kind from fine_tuning.changes")}
    assert {"new", "changed", "missing", "status", "fired"} == kinds


async def test_each_missing_right_is_named(daemon_login: str, sql: asyncpg.Connection) -> None:
    """Each right that is revoked from the daemon's role is reported as missing, and no other."""
    granted = await sql.fetch(
        """select c.oid::regclass::text as name, lower(a.privilege_type) as privilege
        from pg_class c, aclexplode(c.relacl) a where a.grantee = 'checkpointd'::regrole and c.relkind in ('r', 'v')"""
    )
    of_others = {f"fine_tuning.{view}" for view in ("checkpoint_metrics", "earlier_steps", "operations", "polls")}
    needed = [tuple(row) for row in granted if row["name"] not in of_others]
    assert not any(re.search(rf"\b{view}\b", QUERIES) for view in of_others)
    assert len(needed) > 30
    async with open_store(lambda: connect(daemon_login)) as store:

        async def missing() -> list[tuple[str, str]]:
            return await overview.find_missing_rights(store)

        for name, privilege in needed:
            await sql.execute(f"revoke {privilege} on {name} from checkpointd")
            assert [(name, privilege)] == await missing()
            await sql.execute(f"grant {privilege} on {name} to checkpointd")
        for name in ("function checkpointd.summarise", "procedure checkpointd.save_polls"):
            await sql.execute(f"revoke execute on {name} from checkpointd")
            assert [(name, "execute")] == await missing()
            await sql.execute(f"grant execute on {name} to checkpointd")
        await sql.execute("revoke usage on schema checkpointd from checkpointd")
        assert ("schema checkpointd", "usage") in await missing()


async def test_a_login_without_the_daemons_role(
    url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """For a login without the daemon's role, the message has the statement that grants it; afterwards all is ok."""
    provider.jobs = page([])
    async with login(url, "") as login_url:
        found = await _check(login_url, provider, monkeypatch)
        assert ("fail", None) == (found["role"].state, found.get("schema"))
        await sql.execute(found["role"].message.split("`")[1])
        assert {"ok"} == {finding.state for finding in (await _check(login_url, provider, monkeypatch)).values()}


@pytest.mark.parametrize(
    ("statement", "subject", "words"),
    [
        ("revoke insert on checkpointd.changes from checkpointd", "role", "{role} lacks insert on checkpointd.changes"),
        ("alter role {role} set default_transaction_read_only = on", "database", "read-only"),
        ("alter role {role} connection limit 0", "database", "raise max_connections"),
        ("delete from checkpointd.schema_migrations where name like 'views%'", "schema", "run `checkpointd migrate`"),
        ("insert into checkpointd.schema_migrations values ('9999_x.sql', 'x')", "schema", "upgrade checkpointd"),
    ],
)
async def test_what_would_stop_the_daemon(
    daemon_login: str,
    provider: Provider,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    subject: str,
    words: str,
) -> None:
    """A problem of the database that would stop the daemon is a failure with a remedy; sources are still checked."""
    provider.jobs = page([])
    await sql.execute(statement.format(role=_role(daemon_login)))
    found = await _check(daemon_login, provider, monkeypatch)
    assert "fail" == found[subject].state
    assert words.format(role=_role(daemon_login)) in found[subject].message
    assert "ok" == found["source a"].state
    assert "complete, with the source a" == found["settings"].message


async def _check(
    url: str | None,
    provider: Provider | str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    kind: Any = "openai",
    keys: Mapping[str, Any] = MappingProxyType({}),
    **chosen: Any,
) -> dict[str, Finding]:
    """Check a source named `a` and a database, or an unreachable one. Return the findings by subject."""
    monkeypatch.setenv("THE_KEY", "any-key")
    base_url = provider if isinstance(provider, str) else provider.url
    source = Source(name="a", kind=kind, api_key="THE_KEY", base_url=base_url, **keys)
    fixed = settings.FixedSettings(database_url=url or "postgresql://127.0.0.1:1/nowhere", sources=(source,), **chosen)
    checked = [finding async for finding in check.check(fixed, database(fixed))]
    found = {finding.subject: finding for finding in checked}
    assert len(found) == len(checked), "two findings have the same subject"
    for finding in checked:
        _does_not_repeat(finding.subject, finding.message)
    return found


KEYS_WITH_WARNINGS = {
    "allow_http": True,
    "proxy": "http://127.0.0.1:1",
    "headers": {"x-api-key": "a-key-in-the-settings"},
}


async def test_subjects_are_documented(
    daemon_login: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """Each subject of a finding is documented, and no other."""
    provider.jobs = page([])
    await sql.execute("alter table checkpointd.rejects set unlogged")
    await sql.execute(
        """with source as (insert into checkpointd.sources (name, kind, state, resume_at, paused_at,
          jobs_left_out_at) values ('a', 'openai', 'paused', now() + interval '1 h', now(), now()) returning key),
        job as (insert into checkpointd.jobs (source, id, tracked_by) select key, 'ftjob-1', 'operator' from source
          returning key, source)
        insert into checkpointd.polling (job, source, unstable_since) select key, source, now() from job"""
    )
    await sql.execute(
        """insert into checkpointd.changes (at, job, kind) select now() - interval '6 minutes', key, 'new'
        from checkpointd.jobs;
        insert into checkpointd.webhooks (name, cursor, failures, failing_since, last_answer)
        values ('a', 1, 2, '2026-11-01 12:00Z', 'HTTP 503'), ('b', 0, 0, null, null), ('fine', 1, 0, null, null),
          ('removed', 0, 1, null, null)"""
    )
    webhooks = [{"name": name, "url": "http://[::1]", "format": "slack"} for name in ("a", "b", "fine")]
    found = await _check(daemon_login, provider, monkeypatch, database_pooler=True, webhooks=webhooks)
    assert "2 failed attempts since 2026-11-01 12:00:00 UTC: HTTP 503" == found["deliveries of a"].message
    assert found.pop("deliveries of b").message.startswith("changes have waited for 6 min")
    assert {"ok"} == {found.pop(f"webhook {name}").state for name in ("b", "fine")}
    webhook = {"name": "a", "url": "https://hooks.example.org", "secret": "NONE"}
    found |= await _check(None, provider, monkeypatch, keys=KEYS_WITH_WARNINGS, webhooks=[webhook])
    assert "fail" == found["webhook a"].state
    assert found["webhook a"].message.startswith("the secret: NONE is missing or empty: ")
    webhook = {"name": "a", "url": "https://hooks.example.org", "format": "slack"}
    assert "warn" == (await _check(None, provider, monkeypatch, webhooks=[webhook]))["webhook a"].state
    found |= await _check("postgresql://127.1:1/nowhere?sslmode=require", provider, monkeypatch)
    subjects = Document("daemon/README.md").first_words("check", "subject")
    assert set(found) == {subject.replace("NAME", "a") for subject in subjects}


async def test_several_sources(daemon_login: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Each source has a line: with a missing, a refused or an accepted key, or in the database alone."""
    await sql.execute("insert into checkpointd.sources (key, name, kind) values (1, 'left', 'openai')")
    await sql.execute("insert into checkpointd.jobs (source, id, tracked_by) values (1, 'ftjob-1', 'operator')")
    provider.jobs = [page([]), error(401, "invalid_api_key", "Incorrect API key provided: sk-ab***yz")]
    (tmp_path / "key").write_text("a-good-key")
    config = tmp_path / "config.toml"
    keys = {"good": tmp_path / "key", "refused": tmp_path / "key", "keyless": tmp_path / "gone"}
    source = "[[sources]]\nname = '{}'\nbase_url = '{}'\napi_key = '{}'\n"
    config.write_text("".join(source.format(name, provider.url, key) for name, key in keys.items()))
    env = environment(tmp_path, daemon_login, CHECKPOINTD_CONFIG=str(config))
    ended = await checkpointd("check", env=env)
    found = _lines(ended)
    assert 1 == ended.code
    assert ["fail", "ok"] == sorted(found[f"source {name}"][0] for name in ("good", "refused"))
    assert ("fail", f"its key: {tmp_path}/gone: No such file or directory") == found["source keyless"]
    assert ("ok", "complete, with the sources good, refused, keyless") == found["settings"]
    message = "not configured, so nothing polls its 1 tracked job: add it to the settings, rename it by"
    assert ("warn", f"{message} `checkpointd rename`, or untrack its jobs") == found["source left"]
    assert "sk-ab" not in ended.out


async def test_wrong_settings(tmp_path: Path) -> None:
    """Wrong settings are an error with exit code 2, and with --json a finding."""
    env = environment(tmp_path, "mysql://h", "http://127.0.0.1:1")
    ended = await checkpointd("check", env=env)
    assert (2, "") == (ended.code, ended.out)
    assert "CHECKPOINTD_DATABASE_URL: " in ended.err
    as_json = await checkpointd("check", "--json", env=env)
    assert (2, "") == (as_json.code, as_json.err)
    finding = {"state": "fail", "subject": "settings", "message": ended.err.removeprefix("checkpointd: ").rstrip()}
    assert {"ok": False, "findings": [finding]} == json.loads(as_json.out)


async def test_a_service_without_a_database(tmp_path: Path) -> None:
    """In a service, a missing database URL is a settings error, because a service uses no embedded database."""
    shell = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
    env = environment(tmp_path, api="http://127.0.0.1:1")
    process = await asyncio.create_subprocess_exec(*shell, *PROGRAM, "check", "--json", env=env, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    (finding,) = json.loads(out)["findings"]
    assert (2, "fail", "settings") == (process.returncode, finding["state"], finding["subject"])
    assert "CHECKPOINTD_DATABASE_URL: required for a service" in finding["message"]


async def test_an_embedded_database_that_cannot_start(provider: Provider, tmp_path: Path) -> None:
    """An embedded database that cannot start is a failure; the sources are still checked."""
    provider.jobs = page([])
    (tmp_path / "state").write_text("a file where a folder should be")
    env = environment(tmp_path, None, provider.url, XDG_STATE_HOME=str(tmp_path / "state"))
    ended = await checkpointd("check", "--json", env=env)
    assert 1 == ended.code
    found = {finding["subject"]: finding for finding in json.loads(ended.out)["findings"]}
    assert "fail" == found["database"]["state"]
    assert "Not a directory" in found["database"]["message"]
    assert "ok" == found["source openai"]["state"]


async def test_the_embedded_database(provider: Provider, tmp_path: Path) -> None:
    """The embedded database is created, started and migrated, and then all is ok."""
    provider.jobs = page([])
    ended = await checkpointd("check", env=environment(tmp_path, None, provider.url))
    assert (0, 7) == (ended.code, ended.out.count("ok  ")), ended.out
    assert "using the embedded PostgreSQL" in ended.err


ANSWERS: list[tuple[Answer, str, str]] = [
    (page([]), "ok", "accepted"),
    (error(401, "invalid_api_key"), "fail", "wrong or revoked"),
    (
        error(403, None, "You have insufficient permissions. Missing scopes: api.fine_tuning.jobs.read"),
        "fail",
        "give it that right",
    ),
    (
        error(403, "x", "Missing scopes: api.fine_tuning.jobs.read"),
        "fail",
        "x Missing scopes: api.fine_tuning.jobs.read (",
    ),
    (error(403, "denied"), "warn", "statuses are not updated"),
    (error(404, "unknown_url"), "fail", "base_url"),
    (
        error(400, "missing_version", "api-version is required"),
        "fail",
        "HTTP 400 missing_version api-version is required",
    ),
    (body("{}", status=400), "fail", "not the API itself answered"),
    (error(402, "402", "Insufficient credits"), "fail", "Insufficient credits (the account is out of quota"),
    (error(429, "rate_limit_exceeded"), "warn", "requests_per_minute"),
    (error(429, "insufficient_quota"), "fail", "until it has quota again"),
    (error(503), "warn", "the provider has a problem"),
    (error(302, Location="https://h.example"), "fail", "redirects are not followed"),
    (body("<html>", "text/html"), "fail", "base_url"),
    (body("{}"), "fail", "base_url"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"), "fail", "was lost"),
]


@pytest.mark.parametrize(("answer", "state", "words"), ANSWERS)
async def test_what_an_answer_means(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, answer: Answer, state: str, words: str
) -> None:
    """One request is enough to recognize each answer; what a person has to fix is a failure."""
    provider.jobs = answer
    findings = await _check("postgresql://127.0.0.1:1/nowhere", provider, monkeypatch)
    assert "connection refused" in findings["database"].message
    assert state == findings["source a"].state
    assert words in findings["source a"].message
    assert 1 == len(provider.requests)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/x", "127.0.0.1:1: connection refused: check that"),
        ("postgresql://me:hunter2@nowhere.invalid/x", "nowhere.invalid: unknown host name: check the address"),
        ("postgresql:///x?host=/nowhere&port=1", "/nowhere:1: no such socket: check that"),
        (
            "postgresql://me:hunter2@127.0.0.1:1,[::1]:1/x",
            (
                "no host is primary: 127.0.0.1:1: connection refused: check that the server runs and its address is "
                "right; [::1]:1: "
            ),
        ),
    ],
)
async def test_an_unreachable_database(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    """The message about an unreachable database has its address, without user and password."""
    database = (await _check(url, provider.url, monkeypatch))["database"]
    assert words in database.message
    assert "hunter2" not in database.message


async def test_unreachable_and_slow_providers(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused, unanswered or reset is a failure; a slow provider is a warning."""
    provider.jobs = raw(b"", reset=True)
    with socket.create_server(("127.0.0.1", 0)) as slow, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        slow_url, full_url = (f"http://127.0.0.1:{server.getsockname()[1]}/v1" for server in (slow, full))
        with socket.create_connection(full.getsockname()):  # the queue is full now: the kernel drops further ones
            for base_url, connecting, request, state, words in (
                ("http://127.0.0.1:1/v1", 20, 20, "fail", "no connection: "),
                (provider.url, 20, 20, "fail", "the connection was lost: "),
                (full_url, 0.5, 20, "fail", "no connection within 0.5 s"),
                (slow_url, 20, 0.5, "warn", "no complete response within 0.5 s"),
            ):
                monkeypatch.setattr(http, "CONNECT_SECONDS", connecting)
                found = await _check(None, base_url, monkeypatch, request_timeout_seconds=request)
                assert (base_url, state) == (base_url, found["source a"].state)
                assert words in found["source a"].message


async def test_an_untrusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a certificate of an unknown authority, the message says where to name the authority."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*self_signed(tmp_path, "provider"))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=tls) as server:
        base_url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        found = await _check(None, base_url, monkeypatch)
    assert "fail" == found["source a"].state
    assert "SSL_CERT_FILE" in found["source a"].message


OK, ABSENT, DENIED, DOWN = page([]), error(404, "unknown_url"), error(403, "denied"), error(503)
SCOPE = error(403, None, "Missing scopes: api.fine_tuning.jobs.read")


@pytest.mark.parametrize(
    ("kind", "listed", "polled", "requests", "state", "words"),
    [
        ("openai", OK, OK, 1, "ok", "jobs can be listed"),
        ("openai", ABSENT, OK, 2, "warn", "polling works"),
        ("openai", DENIED, OK, 2, "warn", "polling works"),
        ("openai", SCOPE, OK, 2, "warn", "polling works"),
        ("openai", ABSENT, error(401), 2, "fail", "wrong or revoked"),
        ("openai", ABSENT, ABSENT, 2, "fail", "base_url"),
        ("openai", DENIED, ABSENT, 2, "warn", "statuses are not updated"),
        ("openai", ABSENT, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
        ("openai", DENIED, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
        ("openai", SCOPE, SCOPE, 2, "fail", "give it that right"),
        ("openai", ABSENT, DOWN, 2, "warn", "the provider has a problem"),
        ("openai", DOWN, OK, 1, "warn", "the provider has a problem"),
        (
            "compatible",
            ABSENT,
            None,
            1,
            "warn",
            "no job list was found, so the key could not be tested: track a job",
        ),
        ("compatible", OK, OK, 1, "ok", "checkpoints can be listed"),
        ("compatible", OK, error(401), 1, "fail", "wrong or revoked"),
        ("compatible", OK, ABSENT, 2, "ok", "jobs can be listed"),
        ("compatible", error(401), ABSENT, 2, "fail", "wrong or revoked"),
        ("compatible", ABSENT, ABSENT, 2, "warn", f"neither {JOB} nor a job list was found"),
        ("compatible", ABSENT, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
    ],
)
async def test_a_key_is_tested_with_what_exists(
    daemon_login: str,
    sql: asyncpg.Connection,
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    listed: Answer,
    polled: Answer | None,
    requests: int,
    state: str,
    words: str,
) -> None:
    """If the job list is missing or forbidden, the key is tested with the checkpoints of a tracked job.

    Most compatible providers have no job list, so the checkpoints are requested first there.
    """
    await sql.execute(
        "insert into checkpointd.sources (key, name, kind) values (1, 'other', 'openai'), (2, 'a', 'openai')"
    )
    ids = {"ftjob-other": 1} if polled is None else {"ftjob-never": 2, JOB: 2, "ftjob-before": 2, "ftjob-other": 1}
    for job_id, source in ids.items():
        await sql.execute(
            """with j as (
              insert into checkpointd.jobs (source, id, tracked_by) values ($1, $2, 'operator') returning key)
            insert into checkpointd.polling (job, source) select key, $1 from j""",
            source,
            job_id,
        )
    await sql.execute(
        """update checkpointd.polling p set last_complete_at = now() - case j.id when $1 then interval '1 h'
        else interval '1 day' end from checkpointd.jobs j where j.key = p.job and j.id <> 'ftjob-never'""",
        JOB,
    )
    provider.jobs = listed
    if polled is not None:
        provider.checkpoints[JOB] = polled
    found = await _check(daemon_login, provider, monkeypatch, kind=kind)
    assert state == found["source a"].state
    assert words in found["source a"].message
    assert requests == len(provider.requests)
    assert {"1"} == {request.query["limit"] for request in provider.requests}


async def test_a_renamed_source_is_tested_with_its_job(
    daemon_login: str, store: Store, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that has a former name in the settings is tested with a job of it, too."""
    await store.track((await store.register_sources({"a": "compatible"}))["a"], [JOB])
    await store.rename_source("a", "b")
    provider.jobs, provider.checkpoints[JOB] = ABSENT, OK
    found = await _check(daemon_login, provider, monkeypatch, kind="compatible")
    assert "the key is accepted, and checkpoints can be listed" == found["source a"].message
    assert "was renamed, and the settings still name it a: change that" == found["source b"].message


@pytest.mark.parametrize("kind", ErrorClass)
def test_every_failure_has_a_meaning(kind: ErrorClass) -> None:
    """The finding about each class of failures has the failure's own message and says what to do."""
    source = Source(name="a", api_key="THE_KEY")
    finding = source_findings.assess_source(source, [Try(None, Failure(kind, "what it was"))])
    assert finding.state in {"warn", "fail"}
    assert "what it was (" in finding.message


@pytest.mark.parametrize(
    ("theirs", "state"), [(100, "ok"), (104, "ok"), (96, "ok"), (110, "warn"), (90, "warn"), (1e9, "warn")]
)
def test_clocks(theirs: float, state: str) -> None:
    """A clock that differs by more than five seconds is a warning; the time until the answer does not count."""
    assert state == findings.assess_clock("x", theirs, 99, 101).state
    assert "ok" == findings.assess_clock("x", 200, 100, 300).state


def test_a_version_that_is_too_old() -> None:
    """A PostgreSQL before 15 is a failure."""
    finding = database_findings.assess_server(
        {"version": 140012, "version_name": "14.12", "is_standby": False, "is_read_only": False, "server": "s"}
    )
    assert Finding("fail", "database", "PostgreSQL 14.12 is too old: 15 or newer is required") == finding


async def test_settings_of_a_role_behind_a_pooler(
    url: str, daemon_login: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """Behind a pooler the role needs settings of its own: a check prints the statements, and afterwards it is ok.

    The role that `migrate` creates has the settings.
    """
    await sql.execute('alter role checkpointd login; create role "Our daemon" login in role checkpointd')
    try:
        settings = 4 + (sql.get_server_version().major >= 17)  # with transaction_timeout
        for role, lacking in ((_role(daemon_login), settings), ("Our%20daemon", settings), ("checkpointd", 0)):
            for left in (lacking, 0):
                found = await _check(as_role(url, role), provider, monkeypatch, database_pooler=True)
                finding = found["pooler"]
                assert ("warn" if left else "ok") == finding.state
                assert left == finding.message.count("alter role ")
                if left:
                    await sql.execute(finding.message.partition("reconnect the pooler: ")[2])
    finally:
        await sql.execute('alter role checkpointd nologin; drop role "Our daemon"')
