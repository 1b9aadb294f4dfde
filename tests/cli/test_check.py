"""`checkpointd check`: it finds what would stop the daemon, says how to mend it, and changes nothing."""

import asyncio
import json
import re
import socket
import ssl
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from checkpointd.cli import check, findings
from checkpointd.cli.check import Finding
from checkpointd.cli.database import database
from checkpointd.cli.findings import Try
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres import queries
from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import open_store
from checkpointd.provider import http
from checkpointd.settings import model as settings
from support.documents import Document
from support.harness import read_job_list, sync
from support.logins import as_role, login
from support.provider import JOB, Answer, Provider, body, checkpoint, error, job, page, raw
from support.servers import self_signed
from support.verbs import PROGRAM, Ended, checkpointd, environment, on_terminal

QUERIES = "".join(text for name, text in vars(queries).items() if name.isupper())


@pytest.fixture
async def modest(url: str) -> AsyncIterator[str]:
    """Yield the URL of a login with the role that sql/roles.sql makes for the daemon, and nothing else."""
    async with login(url, "in role checkpointd") as theirs:
        yield theirs


def _role(url: str) -> str:
    return str(urlsplit(url).username)


def _lines(ended: Ended) -> dict[str, tuple[str, str]]:
    """Return what was found: subject → state and message."""
    assert "" == ended.err
    lines = [line.split(None, 1) for line in ended.out.splitlines()]
    found = {rest.partition(": ")[0]: (state, rest.partition(": ")[2]) for state, rest in lines}
    assert len(found) == len(lines), "a subject is told of twice"
    for subject, (_, message) in found.items():
        _stumbles_not(subject, message)
    return found


def _stumbles_not(subject: str, message: str) -> None:
    """Check that a finding does not say once more of what it is."""
    assert not re.match(rf"(the key of |the )?{subject}\b", message), message


async def test_all_is_well(modest: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Where the daemon can work, each line is ok and the exit code 0; one request is made, and nothing is changed."""
    provider.jobs = page([job()])
    env = environment(tmp_path, modest, provider.url)
    ended = await checkpointd("check", env=env)
    assert (0, {"ok"}) == (ended.code, {state for state, _ in _lines(ended).values()}), ended.out
    wanted = ["settings", "database", "clock of database", "role", "schema", "source openai", "clock of source openai"]
    assert wanted == list(_lines(ended))
    assert ["1"] == [request.query["limit"] for request in provider.requests]
    assert 0 == await sql.fetchval("select count(*) from checkpointd.sources")
    told = json.loads((await checkpointd("check", "--json", env=env)).out)
    assert True is told["ok"]
    assert wanted == [finding["subject"] for finding in told["findings"]]


@pytest.mark.parametrize("columns", [40, 200])
async def test_on_a_terminal(modest: str, provider: Provider, tmp_path: Path, columns: int) -> None:
    """On a terminal the state has a colour, further lines are indented, and what a provider says cannot steer it."""
    provider.jobs = error(500, "down", "\x1b[2Jevil " + "and long " * 20)
    shown = await on_terminal("check", env=environment(tmp_path, modest, provider.url), columns=columns)
    assert "\x1b[33mwarn\x1b[0m  source openai: HTTP 500 down" in shown
    assert "\x1b[2J" not in shown
    lines = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in shown.splitlines()]
    assert columns >= max(map(len, lines))
    assert all(re.match(r"(ok  |warn|    )  \S", line) for line in lines), shown


async def test_what_is_checked_is_enough(modest: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """With just the rights that a check asks for, all of which the daemon's role has, a daemon does all of its work."""
    async with open_store(lambda: connect(modest)) as store:
        assert [] == await store.find_missing_rights()
        provider.jobs = page([job()])
        provider.checkpoints[JOB] = page([checkpoint(1), checkpoint(2), {"object": "fine_tuning.job.checkpoint"}])
        await sync(store, provider, JOB, "ftjob-missing")
        await read_job_list(store, provider, discover=True)
        provider.checkpoints[JOB] = page([checkpoint(1, valid_loss=0.5)])
        provider.jobs = page([job(status="succeeded")])
        for _ in range(2):
            await sync(store, provider, JOB, "ftjob-missing")
        await read_job_list(store, provider)
        await store.pause_source(1, 1, "a pause")
        await store.resync(await store.find_jobs([JOB]))
        await store.untrack(await store.find_jobs([JOB]))
        assert 2 == len(await store.list_jobs())
        assert 1 == len(await store.list_freshness())
    kinds = {row[0] for row in await sql.fetch("select kind from fine_tuning.changes")}
    assert {"new", "changed", "missing", "status"} == kinds


async def test_each_missing_right_is_named(modest: str, sql: asyncpg.Connection) -> None:
    """Whichever right is taken from the daemon's role, it is the one that is missing."""
    granted = await sql.fetch(
        """select c.oid::regclass::text as name, lower(a.privilege_type) as privilege
        from pg_class c, aclexplode(c.relacl) a where a.grantee = 'checkpointd'::regrole and c.relkind in ('r', 'v')"""
    )
    of_others = {"fine_tuning.checkpoint_metrics", "fine_tuning.polls"}
    needed = [tuple(row) for row in granted if row["name"] not in of_others]
    assert not any(re.search(rf"\b{view}\b", QUERIES) for view in of_others)
    assert len(needed) > 30
    async with open_store(lambda: connect(modest)) as store:

        async def missing() -> list[tuple[str, str]]:
            return await store.find_missing_rights()

        for name, privilege in needed:
            await sql.execute(f"revoke {privilege} on {name} from checkpointd")
            assert [(name, privilege)] == await missing()
            await sql.execute(f"grant {privilege} on {name} to checkpointd")
        await sql.execute("revoke execute on function checkpointd.summarise from checkpointd")
        assert [("function checkpointd.summarise", "execute")] == await missing()
        await sql.execute("grant execute on function checkpointd.summarise to checkpointd")
        await sql.execute("revoke usage on schema checkpointd from checkpointd")
        assert ("schema checkpointd", "usage") in await missing()


async def test_who_is_no_member_is_told_to_become_one(
    url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """A login without the daemon's role gets the statement that gives it; once that ran, all is well."""
    provider.jobs = page([])
    async with login(url, "") as theirs:
        found = await _check(theirs, provider, monkeypatch)
        assert ("fail", None) == (found["role"].state, found.get("schema"))
        await sql.execute(found["role"].message.split("`")[1])
        assert {"ok"} == {finding.state for finding in (await _check(theirs, provider, monkeypatch)).values()}


@pytest.mark.parametrize(
    ("statement", "subject", "words"),
    [
        ("revoke insert on checkpointd.changes from checkpointd", "role", "{role} lacks insert on checkpointd.changes"),
        ("alter role {role} set default_transaction_read_only = on", "database", "it is read-only"),
        ("alter role {role} connection limit 0", "database", "raise max_connections"),
        ("delete from checkpointd.schema_migrations where name like 'views%'", "schema", "run `checkpointd migrate`"),
        ("insert into checkpointd.schema_migrations values ('9999_x.sql', 'x')", "schema", "upgrade checkpointd"),
    ],
)
async def test_what_would_stop_the_daemon(
    modest: str, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch,
    statement: str, subject: str, words: str,
) -> None:  # fmt: skip
    """What would stop the daemon fails the check, which says how to mend it; the rest is told all the same."""
    provider.jobs = page([])
    await sql.execute(statement.format(role=_role(modest)))
    found = await _check(modest, provider, monkeypatch)
    assert "fail" == found[subject].state
    assert words.format(role=_role(modest)) in found[subject].message
    assert "ok" == found["source a"].state
    assert "complete, with the source a" == found["settings"].message


async def _check(
    url: str | None, provider: Provider | str, monkeypatch: pytest.MonkeyPatch, *, kind: Any = "openai", **chosen: Any
) -> dict[str, Finding]:
    """Check a source named `a`, and a database unless there is none; what is found by its subject."""
    monkeypatch.setenv("THE_KEY", "any-key")
    base_url = provider if isinstance(provider, str) else provider.url
    source = settings.Source(name="a", kind=kind, api_key="THE_KEY", base_url=base_url)
    fixed = settings.FixedSettings(database_url=url or "postgresql://127.0.0.1:1/nowhere", sources=(source,), **chosen)
    findings = [finding async for finding in check.check(fixed, database(fixed))]
    found = {finding.subject: finding for finding in findings}
    assert len(found) == len(findings), "a subject is told of twice"
    for finding in findings:
        _stumbles_not(finding.subject, finding.message)
    return found


async def test_subjects_are_documented(modest: str, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subject of a finding is documented, and no other."""
    provider.jobs = page([])
    found = await _check(modest, provider, monkeypatch, database_pooler=True)
    found |= await _check("postgresql://127.1:1/nowhere?sslmode=require", provider, monkeypatch)
    subjects = Document("daemon/README.md").first_words("check", "subject")
    assert set(found) == {subject.replace("NAME", "a") for subject in subjects}


async def test_several_sources(modest: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Each source has its line: a key that is not there, one that is refused, one that is good, one that is left."""
    await sql.execute("insert into checkpointd.sources (name, kind) values ('left', 'openai')")
    await sql.execute("insert into checkpointd.jobs (source, id, tracked_by) values (1, 'ftjob-1', 'operator')")
    provider.jobs = [page([]), error(401, "invalid_api_key", "Incorrect API key provided: sk-ab***yz")]
    (tmp_path / "key").write_text("a-good-key")
    config = tmp_path / "config.toml"
    keys = {"good": tmp_path / "key", "refused": tmp_path / "key", "keyless": tmp_path / "gone"}
    config.write_text("".join(
        f"[[sources]]\nname = '{name}'\nbase_url = '{provider.url}'\napi_key = '{key}'\n" for name, key in keys.items()
    ))  # fmt: skip
    env = environment(tmp_path, modest, CHECKPOINTD_CONFIG=str(config))
    ended = await checkpointd("check", env=env)
    found = _lines(ended)
    assert 1 == ended.code
    assert ["fail", "ok"] == sorted(found[f"source {name}"][0] for name in ("good", "refused"))
    assert ("fail", f"its key: {tmp_path}/gone: No such file or directory") == found["source keyless"]
    assert ("ok", "complete, with the sources good, refused, keyless") == found["settings"]
    assert (
        "warn",
        "not configured, so that nobody polls its 1 tracked job: add it to the settings, or untrack what it has",
    ) == found["source left"]
    assert "sk-ab" not in ended.out


async def test_wrong_settings(tmp_path: Path) -> None:
    """Settings that cannot be read are an error of their own, exit code 2; as JSON it is a finding all the same."""
    env = environment(tmp_path, "mysql://h", "http://127.0.0.1:1")
    ended = await checkpointd("check", env=env)
    assert (2, "") == (ended.code, ended.out)
    assert "CHECKPOINTD_DATABASE_URL: " in ended.err
    told = await checkpointd("check", "--json", env=env)
    assert (2, "") == (told.code, told.err)
    message = ended.err.removeprefix("checkpointd: ").rstrip()
    assert {"ok": False, "findings": [{"state": "fail", "subject": "settings", "message": message}]} == json.loads(
        told.out
    )


async def test_a_service_without_a_database(tmp_path: Path) -> None:
    """To a service an embedded database is a wrong setting, too."""
    shell = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
    env = environment(tmp_path, api="http://127.0.0.1:1")
    process = await asyncio.create_subprocess_exec(*shell, *PROGRAM, "check", "--json", env=env, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    (finding,) = json.loads(out)["findings"]
    assert (2, "fail", "settings") == (process.returncode, finding["state"], finding["subject"])
    assert "CHECKPOINTD_DATABASE_URL: a service needs one" in finding["message"]


async def test_an_embedded_database_that_cannot_be(provider: Provider, tmp_path: Path) -> None:
    """An embedded database that cannot start is a finding; the sources are checked all the same."""
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
    """The embedded database is made, started and migrated, and all is well with it."""
    provider.jobs = page([])
    ended = await checkpointd("check", env=environment(tmp_path, None, provider.url))
    assert (0, 7) == (ended.code, ended.out.count("ok  ")), ended.out
    assert "using the embedded PostgreSQL" in ended.err


ANSWERS: list[tuple[Answer, str, str]] = [
    (page([]), "ok", "accepted"),
    (error(401, "invalid_api_key"), "fail", "wrong or revoked"),
    (error(403, None, "You have insufficient permissions. Missing scopes: api.fine_tuning.jobs.read"), "fail", "right"),
    (
        error(403, "x", "Missing scopes: api.fine_tuning.jobs.read"),
        "fail",
        "x Missing scopes: api.fine_tuning.jobs.read (",
    ),
    (error(403, "denied"), "warn", "without statuses"),
    (error(404, "unknown_url"), "fail", "base_url"),
    (error(400, "missing_version"), "fail", "api-version"),
    (error(429, "rate_limit_exceeded"), "warn", "requests_per_minute"),
    (error(429, "insufficient_quota"), "fail", "until somebody adds some"),
    (error(503), "warn", "not well"),
    (error(302, Location="https://h.example"), "fail", "Redirects are not followed"),
    (body("<html>", "text/html"), "fail", "base_url"),
    (body("{}"), "fail", "base_url"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"), "fail", "was lost"),
]


@pytest.mark.parametrize(("answer", "state", "words"), ANSWERS)
async def test_what_an_answer_means(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, answer: Answer, state: str, words: str
) -> None:
    """Each answer of a provider is told apart, by one request: what a person has to mend fails the check."""
    provider.jobs = answer
    findings = await _check("postgresql://127.0.0.1:1/nowhere", provider, monkeypatch)
    assert "nothing listens there" in findings["database"].message
    assert state == findings["source a"].state
    assert words in findings["source a"].message
    assert 1 == len(provider.requests)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/x", "127.0.0.1:1: nothing listens there: is it up, and is"),
        ("postgresql://me:hunter2@nowhere.invalid/x", "nowhere.invalid: its name is unknown: is its address right?"),
        ("postgresql:///x?host=/nowhere&port=1", "/nowhere:1: there is no such socket: is it up, and is"),
        (
            "postgresql://me:hunter2@127.0.0.1:1,[::1]:1/x",
            "no host is primary: 127.0.0.1:1: nothing listens there: is it up, and is its address right?; [::1]:1: ",
        ),
    ],
)  # fmt: skip
async def test_where_a_database_is_not(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    """A database that cannot be reached is named, without user and password."""
    database = (await _check(url, provider.url, monkeypatch))["database"]
    assert words in database.message
    assert "hunter2" not in database.message


async def test_who_cannot_be_reached_and_who_is_slow(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused, swallowed or broken off fails; a provider that is slow is worth a warning."""
    provider.jobs = raw(b"", reset=True)
    with socket.create_server(("127.0.0.1", 0)) as slow, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        slow_url, full_url = (f"http://127.0.0.1:{server.getsockname()[1]}/v1" for server in (slow, full))
        with socket.create_connection(full.getsockname()):  # of a full queue, the kernel drops who comes next
            for base_url, connecting, request, state, words in (
                ("http://127.0.0.1:1/v1", 20, 20, "fail", "no connection: "),
                (provider.url, 20, 20, "fail", "the connection was lost: "),
                (full_url, 0.5, 20, "fail", "no connection within 0.5 s"),
                (slow_url, 20, 0.5, "warn", "no complete answer within 0.5 s"),
            ):
                monkeypatch.setattr(http, "CONNECT_SECONDS", connecting)
                found = await _check(None, base_url, monkeypatch, request_timeout_seconds=request)
                assert (base_url, state) == (base_url, found["source a"].state)
                assert words in found["source a"].message


async def test_a_certificate_that_nobody_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider whose certificate an authority of one's own signed: the finding says where that is named."""
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
        ("openai", DENIED, ABSENT, 2, "warn", "without statuses"),
        ("openai", ABSENT, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
        ("openai", DENIED, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
        ("openai", SCOPE, SCOPE, 2, "fail", "give it that right"),
        ("openai", ABSENT, DOWN, 2, "warn", "not well"),
        ("openai", DOWN, OK, 1, "warn", "not well"),
        ("compatible", ABSENT, None, 1, "warn", "could not be tried: track a job"),
        ("compatible", OK, OK, 1, "ok", "checkpoints can be listed"),
        ("compatible", OK, error(401), 1, "fail", "wrong or revoked"),
        ("compatible", OK, ABSENT, 2, "ok", "jobs can be listed"),
        ("compatible", error(401), ABSENT, 2, "fail", "wrong or revoked"),
        ("compatible", ABSENT, ABSENT, 2, "warn", f"neither {JOB} nor a list of jobs is there"),
        ("compatible", ABSENT, DENIED, 2, "fail", f"may not list the checkpoints of {JOB}"),
    ],
)
async def test_a_key_is_tried_by_what_is_there(
    modest: str, sql: asyncpg.Connection, provider: Provider, monkeypatch: pytest.MonkeyPatch, kind: str,
    listed: Answer, polled: Answer | None, requests: int, state: str, words: str,
) -> None:  # fmt: skip
    """Where the list of jobs is not there, or not for this key, the checkpoints of a tracked job tell of the key.

    A compatible provider has no such list, as a rule: it is asked for checkpoints at once.
    """
    await sql.execute("insert into checkpointd.sources (name, kind) values ('other', 'openai'), ('a', 'openai')")
    ids = {"ftjob-other": 1} if polled is None else {"ftjob-never": 2, JOB: 2, "ftjob-before": 2, "ftjob-other": 1}
    for job_id, source in ids.items():
        await sql.execute(
            """with j as (
              insert into checkpointd.jobs (source, id, tracked_by) values ($1, $2, 'operator') returning key)
            insert into checkpointd.polling (job, source) select key, $1 from j""", source, job_id,
        )  # fmt: skip
    await sql.execute(
        """update checkpointd.polling p set last_complete_at = now() - case j.id when $1 then interval '1 h'
        else interval '1 day' end from checkpointd.jobs j where j.key = p.job and j.id <> 'ftjob-never'""", JOB,
    )  # fmt: skip
    provider.jobs = listed
    if polled is not None:
        provider.checkpoints[JOB] = polled
    found = await _check(modest, provider, monkeypatch, kind=kind)
    assert state == found["source a"].state
    assert words in found["source a"].message
    assert requests == len(provider.requests)
    assert {"1"} == {request.query["limit"] for request in provider.requests}


@pytest.mark.parametrize("kind", ErrorClass)
def test_every_failure_has_a_meaning(kind: ErrorClass) -> None:
    """Whatever a request brings, the finding says what it was and what to do."""
    source = settings.Source(name="a", api_key="THE_KEY")
    finding = findings.assess_source(source, [Try(None, Failure(kind, "what it was"))])
    assert finding.state in {"warn", "fail"}
    assert "what it was (" in finding.message


@pytest.mark.parametrize(
    ("theirs", "state"), [(100, "ok"), (104, "ok"), (96, "ok"), (110, "warn"), (90, "warn"), (1e9, "warn")]
)
def test_clocks(theirs: float, state: str) -> None:
    """A clock that differs by seconds is worth a word; how long the answer took does not count against it."""
    assert state == findings.assess_clock("x", theirs, 99, 101).state
    assert "ok" == findings.assess_clock("x", 200, 100, 300).state


def test_too_old() -> None:
    """A PostgreSQL before 15 will not do."""
    finding = findings.assess_server({"version": 140012, "version_name": "14.12", "is_read_only": False, "server": "s"})
    assert Finding("fail", "database", "PostgreSQL 14.12 is too old: 15 or newer is needed") == finding


async def test_what_a_role_brings_through_a_pooler(
    url: str, modest: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """Behind a pooler the role has to bring its settings: a check prints the statements, and once they ran it is ok.

    The role that `migrate` makes has them.
    """
    await sql.execute('alter role checkpointd login; create role "Our daemon" login in role checkpointd')
    try:
        settings = 4 + (sql.get_server_version().major >= 17)  # which brought transaction_timeout
        for role, wanted in ((_role(modest), settings), ("Our%20daemon", settings), ("checkpointd", 0)):
            for left in (wanted, 0):
                found = await _check(as_role(url, role), provider, monkeypatch, database_pooler=True)
                finding = found["pooler"]
                assert ("warn" if left else "ok") == finding.state
                assert left == finding.message.count("alter role ")
                if left:
                    await sql.execute(finding.message.partition("anew: ")[2])
    finally:
        await sql.execute('alter role checkpointd nologin; drop role "Our daemon"')
