"""`checkpointd check`: it finds what would stop the daemon, says how to mend it, and changes nothing."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from checkpointd import check, queries, settings
from checkpointd.check import Finding
from checkpointd.failures import ErrorClass, Failure
from checkpointd.store import connect, open_store
from harness import read_job_list, sync
from logins import as_role, login
from provider import JOB, Answer, Provider, body, checkpoint, error, job, page
from verbs import Ended, checkpointd, environment

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
    return {rest.partition(": ")[0]: (state, rest.partition(": ")[2]) for state, rest in lines}


async def test_all_is_well(modest: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Where the daemon can work, each line is ok and the exit code 0; one request is made, and nothing is changed."""
    provider.jobs = page([job()])
    env = environment(tmp_path, modest, provider.url)
    ended = await checkpointd("check", env=env)
    assert (0, {"ok"}) == (ended.code, {state for state, _ in _lines(ended).values()}), ended.out
    wanted = ["settings", "database", "role", "clock of database", "schema", "source openai", "clock of source openai"]
    assert wanted == list(_lines(ended))
    assert ["1"] == [request.query["limit"] for request in provider.requests]
    assert 0 == await sql.fetchval("select count(*) from checkpointd.sources")
    told = json.loads((await checkpointd("check", "--json", env=env)).out)
    assert True is told["ok"]
    assert wanted == [finding["subject"] for finding in told["findings"]]


async def test_what_is_checked_is_enough(modest: str, provider: Provider, sql: asyncpg.Connection) -> None:
    """With just the rights that a check asks for, all of which the daemon's role has, a daemon does all of its work."""
    async with open_store(lambda: connect(modest)) as store:
        assert [] == await store.fetch(queries.FIND_MISSING_RIGHTS)
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
    """Whichever right is taken from the daemon's role, it is the one that is missing; views that it does not read aside."""
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
            return [(row["name"], row["privilege"]) for row in await store.fetch(queries.FIND_MISSING_RIGHTS)]

        for name, privilege in needed:
            await sql.execute(f"revoke {privilege} on {name} from checkpointd")
            assert [(name, privilege)] == await missing()
            await sql.execute(f"grant {privilege} on {name} to checkpointd")
        await sql.execute("revoke execute on function checkpointd.summarise from checkpointd")
        assert [("function checkpointd.summarise", "execute")] == await missing()
        await sql.execute("grant execute on function checkpointd.summarise to checkpointd")
        await sql.execute("revoke usage on schema checkpointd from checkpointd")
        assert ("schema checkpointd", "usage") in await missing()


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
    found = {finding.subject: finding for finding in await _check(modest, provider, monkeypatch)}
    assert "fail" == found[subject].state
    assert words.format(role=_role(modest)) in found[subject].message
    assert "ok" == found["source a"].state


async def _check(
    url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, *, database_pooler: bool = False
) -> list[Finding]:
    monkeypatch.setenv("THE_KEY", "any-key")
    source = settings.Source(name="a", api_key="THE_KEY", base_url=provider.url)
    async with open_store(lambda: connect(url, pooler=database_pooler)) as store:
        chosen = settings.FixedSettings(database_url=url, database_pooler=database_pooler, sources=(source,))
        return [f async for f in check.check(chosen, store)]


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
    assert "No such file" in found["source keyless"][1]
    assert ("warn", "1 tracked jobs, but it is not configured: nobody polls them") == found["source left"]
    assert "sk-ab" not in ended.out


async def test_wrong_settings(tmp_path: Path) -> None:
    """Settings that cannot be read are an error of their own: exit code 2."""
    ended = await checkpointd("check", env=environment(tmp_path, "mysql://h", "http://127.0.0.1:1"))
    assert (2, "") == (ended.code, ended.out)
    assert "CHECKPOINTD_DATABASE_URL" in ended.err


ANSWERS: list[tuple[Answer, str, str]] = [
    (page([]), "ok", "accepted"),
    (error(401, "invalid_api_key"), "fail", "wrong or revoked"),
    (error(403, None, "You have insufficient permissions. Missing scopes: api.fine_tuning.jobs.read"), "fail", "right"),
    (error(403, "denied"), "warn", "without statuses"),
    (error(404, "unknown_url"), "warn", "base_url"),
    (error(429, "rate_limit_exceeded"), "warn", "requests_per_minute"),
    (error(429, "insufficient_quota"), "warn", "quota"),
    (error(503), "warn", "not well"),
    (error(302, Location="https://h.example"), "fail", "base_url"),
    (body("<html>", "text/html"), "fail", "base_url"),
    (body("{}"), "fail", "base_url"),
]


@pytest.mark.parametrize(("answer", "state", "words"), ANSWERS)
async def test_what_an_answer_means(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, answer: Answer, state: str, words: str
) -> None:
    """Each answer of a provider is told apart, by one request."""
    provider.jobs = answer
    findings = await _check("postgresql://127.0.0.1:1/nowhere", provider, monkeypatch)
    assert "nothing listens there" in next(f.message for f in findings if f.subject == "database")
    judged = next(f for f in findings if f.subject == "source a")
    assert state == judged.state
    assert words in judged.message
    assert 1 == len(provider.requests)


@pytest.mark.parametrize("kind", ErrorClass)
def test_every_failure_has_a_meaning(kind: ErrorClass) -> None:
    """Whatever a request brings, the finding says what it was and what to do."""
    finding = check.judge_source("source a", Failure(kind, "what it was"))
    assert finding.state in {"warn", "fail"}
    assert "what it was (" in finding.message


@pytest.mark.parametrize(
    ("theirs", "state"), [(100, "ok"), (104, "ok"), (96, "ok"), (110, "warn"), (90, "warn"), (1e9, "warn")]
)
def test_clocks(theirs: float, state: str) -> None:
    """A clock that differs by seconds is worth a word; how long the answer took does not count against it."""
    assert state == check.judge_clock("x", theirs, 99, 101).state
    assert "ok" == check.judge_clock("x", 200, 100, 300).state


def test_too_old() -> None:
    """A PostgreSQL before 15 will not do."""
    finding = check.judge_server({"version": 140012, "version_name": "14.12", "is_read_only": False, "server": "s"})
    assert Finding("fail", "database", "PostgreSQL 14.12 is too old: 15 or newer is needed") == finding


async def test_what_a_role_brings_through_a_pooler(
    url: str, modest: str, provider: Provider, monkeypatch: pytest.MonkeyPatch, sql: asyncpg.Connection
) -> None:
    """Behind a pooler the role has to bring its settings: a check prints the statements, and once they ran it is ok.

    The role that `migrate` makes has them.
    """
    await sql.execute('alter role checkpointd login; create role "Our daemon" login in role checkpointd')
    try:
        for role, wanted in ((_role(modest), 4), ("Our%20daemon", 4), ("checkpointd", 0)):
            for left in (wanted, 0):
                findings = await _check(as_role(url, role), provider, monkeypatch, database_pooler=True)
                finding = next(finding for finding in findings if finding.subject == "pooler")
                assert ("warn" if left else "ok") == finding.state
                assert left == finding.message.count("alter role ")
                if left:
                    await sql.execute(finding.message.partition("anew: ")[2])
    finally:
        await sql.execute('alter role checkpointd nologin; drop role "Our daemon"')
