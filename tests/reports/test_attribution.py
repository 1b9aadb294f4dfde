"""Outages of a source, and failures of single jobs: whom they concern, how long they are visible, and how they end."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
from aiohttp import web

from checkpointd.domain.attribution import SourceState
from checkpointd.domain.poll import SavedPoll
from checkpointd.polling.job_list import JobList
from checkpointd.polling.poller import Poller
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import overview
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from support.harness import polling_one, sync, tick, track, until, until_true
from support.provider import Answer, Provider, body, checkpoint, error, job, page
from support.verbs import checkpointd, environment, get, running, wait_for_line

JOBS = [f"ftjob-{n}" for n in range(5)]
DEFAULT_BACKEND = body("default backend - 404", "text/plain", 404)


class Daemon:
    """A daemon in this process, over one provider. Time passes only when pass_time() is called."""

    def __init__(self, store: Store, provider: Provider, poller: Poller, source: ActiveSource, health: Health) -> None:
        self.store = store
        self.provider = provider
        self.poller = poller
        self.source = source
        self.health = health
        self._job_list = JobList(store, source, health, gap=30, lease_seconds=60, max_new_jobs=0)

    async def work(self) -> None:
        """Read the job list, and poll until no job is due."""
        await self._job_list.tick()
        while await tick(self.poller):
            await self.poller.queue.saved()

    async def pass_time(self, sql: asyncpg.Connection, seconds: float) -> None:
        """Let time pass: move all stored times back, and end a silence that is not longer than this."""
        await sql.execute(
            """update checkpointd.polling set next_poll_at = next_poll_at - $1, last_attempt_at = last_attempt_at - $1,
            last_complete_at = last_complete_at - $1, last_change_at = last_change_at - $1,
            failing_since = failing_since - $1, settling_since = settling_since - $1, listed_at = listed_at - $1,
            newest_seen_at = newest_seen_at - $1;
            update checkpointd.jobs set tracked_at = tracked_at - $1;
            update checkpointd.sources set job_list_due_at = job_list_due_at - $1, state_since = state_since - $1,
            job_list_attempt_at = job_list_attempt_at - $1, job_list_complete_at = job_list_complete_at - $1,
            resume_at = resume_at - $1""".replace("$1", f"interval '{seconds} s'")
        )
        if not self.source.attribution.is_silent(asyncio.get_running_loop().time() + seconds):
            self.source.attribution.end_silence()


@asynccontextmanager
async def _daemon(store: Store, provider: Provider) -> AsyncIterator[Daemon]:
    health = Health()
    async with polling_one(store, provider, health=health) as (poller, source, _):
        yield Daemon(store, provider, poller, source, health)


def _answer_all(provider: Provider, jobs: Sequence[str], checkpoints: Answer, job_list: Answer) -> None:
    provider.checkpoints = dict.fromkeys(jobs, checkpoints)
    provider.jobs = job_list


def _work_again(provider: Provider, jobs: Sequence[str] = JOBS) -> None:
    """Let the provider list a checkpoint of each job, and all jobs as running."""
    provider.checkpoints = {name: page([checkpoint(1, name)]) for name in jobs}
    provider.jobs = page([job(name) for name in jobs])


class States(NamedTuple):
    """What the views show of some jobs: each phase, number of failures and class, and how many jobs are stale."""

    phases: set[str]
    failures: set[int]
    classes: set[str | None]
    stale: int


async def _states(sql: asyncpg.Connection, jobs: Sequence[str]) -> States:
    rows = await sql.fetch(
        """select id, phase, is_stale, consecutive_failures, error_class from fine_tuning.jobs
        join fine_tuning.freshness on freshness.fine_tuning_job_id = id where id = any ($1)""",
        list(jobs),
    )
    return States(
        {row["phase"] for row in rows},
        {row["consecutive_failures"] for row in rows},
        {row["error_class"] for row in rows},
        sum(row["is_stale"] for row in rows),
    )


async def _source(sql: asyncpg.Connection) -> tuple[str, str | None]:
    return tuple(await sql.fetchrow("select state, last_error from fine_tuning.sources"))  # type: ignore[return-value]


async def _assert_polled_within_minutes(daemon: Daemon, sql: asyncpg.Connection, jobs: Sequence[str]) -> None:
    """Assert that five minutes and a minute after a recovery each job has been read, and the source is ok."""
    now = await sql.fetchval("select clock_timestamp()")
    await daemon.pass_time(sql, 300)  # the longest silence, and the longest gap of a failing job
    await daemon.work()
    await daemon.pass_time(sql, 60)  # the jobs that failed are due within a minute
    await daemon.work()
    read = """
        select fine_tuning_job_id from fine_tuning.freshness
        where last_complete_at > $1::timestamptz - interval '60 s'"""
    assert set(jobs) <= {row[0] for row in await sql.fetch(read, now)}
    assert "ok" == (await _source(sql))[0]
    assert [] == daemon.health.source_problems()


OUTAGES: dict[str, tuple[Answer, str]] = {
    "default backend": (DEFAULT_BACKEND, "HTTP 404"),
    "empty 404": (body("", "text/plain", 404), "HTTP 404"),
    "web page of a firewall": (body("<html>Access denied", "text/html", 403), "HTTP 403"),
    "web page of a proxy": (body("<html>502 Bad Gateway", "text/html", 502), "HTTP 502"),
    "sign-in page": (body("<html>Sign in", "text/html"), "not JSON"),
    "moved": (error(302, Location="https://example.org/"), "HTTP 302"),
    "error of the API": (error(500, "server_error"), "HTTP 500"),
    "not found, as an API says it": (body('{"detail": "Not Found"}', status=404), "HTTP 404"),
    "forbidden, as an API says it": (error(403, "no_access"), "HTTP 403"),
    "wrong version": (error(400, "bad_version"), "HTTP 400"),
}


async def _assert_keeps_failing(daemon: Daemon, sql: asyncpg.Connection, jobs: Sequence[str], words: str = "") -> None:
    """Check that for more than an hour the source is failing, for a reason with these words, and no job is gone."""
    for _ in range(8):
        await daemon.pass_time(sql, 1000)
        await daemon.work()
        state, last_error = await _source(sql)
        assert ("failing", True) == (state, words in (last_error or ""))
        assert ["source test failing"] == daemon.health.source_problems()
        found = await _states(sql, jobs)
        assert len(jobs) == found.stale
        assert not found.phases & {"gone", "sealed"}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("was_read", [True, False])
async def test_outage_of_a_source(
    store: Store, provider: Provider, sql: asyncpg.Connection, outage: str, was_read: bool
) -> None:
    """Whatever all paths answer for more than an hour, the source is failing all the time, and no job is gone.

    All jobs are stale. After the outage they are polled within minutes.
    """
    answer, words = OUTAGES[outage]
    await track(store, *JOBS)
    async with _daemon(store, provider) as daemon:
        if was_read:
            _work_again(provider)
            await daemon.work()
        _answer_all(provider, JOBS, answer, answer)
        await _assert_keeps_failing(daemon, sql, JOBS, words)
        counted = dict((await overview.count_by_source(store))[0])
        assert ("failing", len(JOBS), 0) == (counted["state"], counted["stale"], counted["gone"])
        assert counted["oldest_lag_seconds"] > 7000
        _work_again(provider)
        await _assert_polled_within_minutes(daemon, sql, JOBS)
        found = await _states(sql, JOBS)
        assert ({0}, {None}) == (found.failures, found.classes)


async def test_few_requests_during_an_outage(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """During an outage a source gets a few requests every five minutes, for jobs that are chosen at random."""
    jobs = [f"ftjob-{n}" for n in range(100)]
    await track(store, *jobs)
    async with _daemon(store, provider) as daemon:
        _answer_all(provider, jobs, DEFAULT_BACKEND, DEFAULT_BACKEND)
        for _ in range(9):
            await daemon.work()
            await daemon.pass_time(sql, 300)
        asked = [request.match_info.get("job") for request in provider.requests]
        assert 8 + 8 * 4 >= len([name for name in asked if name])
        assert 20 < len(set(asked))  # 33 of 100 on average
        assert (await _states(sql, jobs)).failures == {0}


async def test_outage_of_a_source_with_one_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A source with one job is failing, too: by its job list and its job, or if something else answers for the job."""
    await track(store, JOBS[0])
    for answer in (
        DEFAULT_BACKEND,
        body("<html>502", "text/html", 502),
        body('{"detail": "Not Found"}', status=404),
        error(403, "no_access"),
    ):
        async with _daemon(store, provider) as daemon:
            _work_again(provider, JOBS[:1])
            await daemon.pass_time(sql, 300)
            await daemon.work()
            assert "ok" == (await _source(sql))[0]
            _answer_all(provider, JOBS[:1], answer, answer)
            await _assert_keeps_failing(daemon, sql, JOBS[:1])
            _work_again(provider, JOBS[:1])
            await _assert_polled_within_minutes(daemon, sql, JOBS[:1])


async def test_one_job_without_a_job_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If the only job of a source without a job list is not found, nothing shows that it was deleted: it is missing."""
    await track(store, JOBS[0])
    async with _daemon(store, provider) as daemon:
        for _ in range(8):
            await daemon.pass_time(sql, 1000)
            await daemon.work()
        found = await _states(sql, JOBS[:1])
        assert ({"missing"}, 1) == (found.phases, found.stale)
        _work_again(provider, JOBS[:1])
        await _assert_polled_within_minutes(daemon, sql, JOBS[:1])


async def test_restart_during_an_outage(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon that starts during an outage neither ends the state nor makes a job gone."""
    await track(store, *JOBS)
    answer = body('{"detail": "Not Found"}', status=404)
    _answer_all(provider, JOBS, answer, answer)
    for _ in range(8):
        async with _daemon(store, provider) as daemon:
            await daemon.pass_time(sql, 1000)
            await daemon.work()
        assert "failing" == (await _source(sql))[0]
        assert {"missing"} == (await _states(sql, JOBS)).phases


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
async def test_restarts_while_only_the_job_list_works(
    store: Store, provider: Provider, sql: asyncpg.Connection, replicas: int
) -> None:
    """If the job list works but no job is found, restarts do not end the state of the source, and no job is gone."""
    await track(store, *JOBS)
    answer = body('{"detail": "Not Found"}', status=404)
    _answer_all(provider, JOBS, answer, page([job("ftjob-of-another-project")]))
    for _ in range(8):
        async with AsyncExitStack() as stack:
            daemons = [await stack.enter_async_context(_daemon(store, provider)) for _ in range(replicas)]
            for daemon in daemons:
                await daemon.pass_time(sql, 1000)
                await daemon.work()
                assert "failing" == (await _source(sql))[0]
                assert {"missing"} == (await _states(sql, JOBS)).phases
    async with _daemon(store, provider) as daemon:
        _work_again(provider)
        await _assert_polled_within_minutes(daemon, sql, JOBS)


@pytest.mark.slow
async def test_all_jobs_of_another_project(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If no job is found, and the job list works but shows none of them, the source is failing and no job is gone."""
    await track(store, *JOBS)
    answer = body('{"detail": "Not Found"}', status=404)
    _answer_all(provider, JOBS, answer, page([job("ftjob-of-another-project")]))
    async with _daemon(store, provider) as daemon:
        for _ in range(8):
            await daemon.pass_time(sql, 1000)
            await daemon.work()
            assert "failing" == (await _source(sql))[0]
            found = await _states(sql, JOBS)
            assert ({"missing"}, len(JOBS)) == (found.phases, found.stale)
        _work_again(provider)
        await _assert_polled_within_minutes(daemon, sql, JOBS)


# Failures of single jobs


async def test_forbidden_job_as_the_first_answer(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A 403 for one job, as the first answer of all, concerns that job alone: all others are polled."""
    await track(store, *JOBS)
    _work_again(provider)
    provider.checkpoints[JOBS[0]] = body('{"detail": "Not your job"}', status=403)
    async with _daemon(store, provider) as daemon:
        await daemon.poller.poll_named(await store.find_jobs(JOBS[:1]))
        await daemon.poller.queue.saved()
        assert "ok" == (await _source(sql))[0]
        assert {"forbidden"} == (await _states(sql, JOBS[:1])).phases
        await daemon.work()
    assert States({"active"}, {0}, {None}, 0) == await _states(sql, JOBS[1:])


STRANGE: dict[str, Answer] = {
    "404 of a gateway": DEFAULT_BACKEND,
    "403 of a firewall": body("<html>blocked", "text/html", 403),
    "500": error(500),
    "page": body("<html>", "text/html"),
    "redirect": error(302, Location="https://example.org/"),
}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("strange", STRANGE)
async def test_one_strange_job_among_healthy_ones(
    store: Store, provider: Provider, sql: asyncpg.Connection, strange: str
) -> None:
    """One job with a strange answer is blamed itself: its source is ok, and the others are polled on time."""
    await track(store, *JOBS)
    _work_again(provider)
    async with _daemon(store, provider) as daemon:
        await daemon.work()
        provider.checkpoints[JOBS[0]] = STRANGE[strange]
        for count in range(1, 9):
            await daemon.pass_time(sql, 320)
            await daemon.work()
            assert SourceState.OK == daemon.source.attribution.state
            assert {count} == (await _states(sql, JOBS[:1])).failures
            assert States({"active"}, {0}, {None}, 0) == await _states(sql, JOBS[1:])
        assert "ok" == (await _source(sql))[0]
        await _assert_polled_within_minutes(daemon, sql, JOBS[1:])


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("strange", STRANGE)
async def test_strange_job_among_those_that_are_polled_once(store: Store, provider: Provider, strange: str) -> None:
    """If one job of many has a strange answer, `sync` polls all others, even if it is the first one to be answered."""
    jobs = [f"ftjob-{n}" for n in range(30)]
    _work_again(provider, jobs)
    provider.checkpoints[jobs[0]] = STRANGE[strange]
    outcomes = await sync(store, provider, *jobs)
    complete = {
        name for name, outcome in outcomes.items() if isinstance(outcome, SavedPoll) and outcome.result.complete
    }
    assert set(jobs[1:]) == complete


REFUSALS: dict[str, tuple[Answer, float]] = {
    "key": (error(401, "invalid_api_key"), 60),
    "quota": (error(402, None, "Insufficient credits"), 900),
    "rate": (error(429, None, "slow down"), 60),
}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_one_refused_job_among_healthy_ones(
    store: Store, provider: Provider, sql: asyncpg.Connection, refusal: str
) -> None:
    """If one job of many is refused as if the whole source were, the source stops twice. Then it is ok all the time."""
    jobs = [f"ftjob-{n}" for n in range(30)]
    answer, seconds = REFUSALS[refusal]
    await track(store, *jobs)
    async with _daemon(store, provider) as daemon:
        _work_again(provider, jobs)
        await daemon.work()
        provider.checkpoints[jobs[0]] = answer
        for _ in range(5):
            await daemon.pass_time(sql, seconds + 300)
            await daemon.work()
        for count in range(8):
            before = [provider.asked(name) for name in jobs]
            await daemon.pass_time(sql, 320)
            await daemon.work()
            assert [asked + 1 for asked in before] == [provider.asked(name) for name in jobs]
            assert ("ok", SourceState.OK) == ((await _source(sql))[0], daemon.source.attribution.state)
            assert 0 == (await _states(sql, jobs[1:])).stale
            assert min((await _states(sql, jobs[:1])).failures) > count
        for name in jobs:  # now it is the source
            provider.checkpoints[name] = answer
        await daemon.pass_time(sql, 320)
        await daemon.work()
        assert SourceState.OK != daemon.source.attribution.state


@pytest.mark.slow
async def test_throttled_source_blames_no_job(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A source that answers only every fifth request, and throttles the others, is paused, and no job is blamed."""
    jobs = [f"ftjob-{n}" for n in range(30)]
    await track(store, *jobs)
    requests = itertools.count(1)

    async def answer(request: web.Request) -> web.Response:
        is_answered = next(requests) % 5 == 0
        return page([checkpoint(1, request.match_info["job"])]) if is_answered else error(429, None, "slow down")

    provider.checkpoints = dict.fromkeys(jobs, answer)
    async with _daemon(store, provider) as daemon:
        for _ in range(60):
            await daemon.pass_time(sql, 300)
            await tick(daemon.poller)
            await daemon.poller.queue.saved()
            assert {0} == (await _states(sql, jobs)).failures
        read = "select count(*) from fine_tuning.freshness where last_complete_at is not null"
        assert await sql.fetchval(read) > 0


async def test_job_list_without_a_quota(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """If only the job list is refused for want of a quota, polls soon wait for it no more."""
    await track(store, *JOBS)
    async with _daemon(store, provider) as daemon:
        _work_again(provider)
        provider.jobs = error(402, None, "Insufficient credits")
        for _ in range(3):
            await daemon.work()
            await daemon.pass_time(sql, 1000)
            await tick(daemon.poller)  # at the same time as the job list
            await daemon.poller.queue.saved()
        for _ in range(5):
            await daemon.pass_time(sql, 320)
            await daemon.work()
            assert "ok" == (await _source(sql))[0]
            assert 0 == (await _states(sql, JOBS)).stale


async def test_deleted_job_among_healthy_ones(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that is deleted, and that the job list no longer shows, is gone after an hour; the others are polled."""
    await track(store, *JOBS)
    async with _daemon(store, provider) as daemon:
        _work_again(provider)
        await daemon.work()
        _work_again(provider, JOBS[1:])
        for _ in range(14):
            await daemon.pass_time(sql, 320)
            await daemon.work()
            assert "ok" == (await _source(sql))[0]
            assert 0 == (await _states(sql, JOBS[1:])).stale
    assert {"gone"} == (await _states(sql, JOBS[:1])).phases


@pytest.mark.slow
async def test_many_deleted_jobs(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Fifty jobs that are deleted at once delay the other two by nothing, and are gone after more than an hour."""
    deleted, healthy = [f"ftjob-{n}" for n in range(50)], ["ftjob-a", "ftjob-b"]
    await track(store, *deleted, *healthy)
    async with _daemon(store, provider) as daemon:
        _work_again(provider, [*deleted, *healthy])
        await daemon.work()
        _work_again(provider, healthy)
        for _ in range(14):
            await daemon.pass_time(sql, 320)
            before = [provider.asked(name) for name in healthy]
            await daemon.work()
            assert [count + 1 for count in before] == [provider.asked(name) for name in healthy]
            assert 0 == (await _states(sql, healthy)).stale
            assert not daemon.source.attribution.is_silent(0)
        assert "ok" == (await _source(sql))[0]
    assert {"gone"} == (await _states(sql, deleted)).phases


async def test_listed_job_is_not_gone(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that the job list shows is missing, and not gone, even if its checkpoints are not found for days."""
    await track(store, *JOBS[:3])
    async with _daemon(store, provider) as daemon:
        _work_again(provider, JOBS[:3])
        provider.checkpoints[JOBS[0]] = error(404, "fine_tune_not_found")
        for _ in range(30):
            await daemon.pass_time(sql, 7200)
            await daemon.work()
        found = await _states(sql, JOBS[:1])
        assert ({"missing"}, 1) == (found.phases, found.stale)
        assert "ok" == (await _source(sql))[0]
        _work_again(provider, JOBS[:3])
        await _assert_polled_within_minutes(daemon, sql, JOBS[:3])


@pytest.mark.slow
async def test_job_that_leaves_the_list(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that is not found, and that the job list shows for two days and then no more, is gone a day later."""
    await track(store, *JOBS[:3])
    async with _daemon(store, provider) as daemon:
        _work_again(provider, JOBS[:3])
        provider.checkpoints[JOBS[0]] = error(404, "fine_tune_not_found")
        for _ in range(48):
            await daemon.pass_time(sql, 3600)
            await daemon.work()
            assert {"missing"} == (await _states(sql, JOBS[:1])).phases
        provider.jobs = page([job(name) for name in JOBS[1:3]])
        for _ in range(26):
            await daemon.pass_time(sql, 3600)
            await daemon.work()
        assert {"gone"} == (await _states(sql, JOBS[:1])).phases


async def test_gone_job_that_is_listed_again(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job that is gone, as an older version left it, is polled at once when the job list shows it."""
    await track(store, *JOBS)
    await sql.execute(
        """update checkpointd.polling set is_gone = true, error_class = 'missing', failures = 9, equal_failures = 9,
        failing_since = now() - interval '3 h', next_poll_at = now() + interval '1 day'"""
    )
    _work_again(provider)
    async with _daemon(store, provider) as daemon:
        await daemon.work()
    found = await _states(sql, JOBS)
    assert ({"active"}, {0}, 0) == (found.phases, found.failures, found.stale)


# Networks


async def test_no_connection(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A name that cannot be resolved is a failure of the source: no job is blamed, and `status` and /readyz show it."""
    env = environment(tmp_path, url, "https://provider.invalid/v1", CHECKPOINTD_HTTP_PORT="0")
    await checkpointd("track", *JOBS, env=env)
    async with running("run", env=env) as daemon:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
        assert "unreachable" in await wait_for_line(daemon, "source.failing")
        await until_true(sql, "select state = 'failing' from fine_tuning.sources")
        assert (503, "no source can be polled\nsource openai failing\n") == await get(port, "/readyz")
        status = await checkpointd("status", env=env)
        assert "failing" in status.out
        assert "no connection" in status.out
        assert States({"active"}, {0}, {None}, 0) == await _states(sql, JOBS)


async def test_one_replica_without_a_network(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A daemon whose network is broken delays no job: the other daemon goes on, and the source is ok again."""
    await track(store, *JOBS)
    _work_again(provider)
    async with AsyncExitStack() as stack, Provider() as blocked:
        good = await stack.enter_async_context(_daemon(store, provider))
        _answer_all(blocked, JOBS, body("<html>blocked by company policy", "text/html", 403), DEFAULT_BACKEND)
        bad = await stack.enter_async_context(_daemon(store, blocked))
        for _ in range(4):
            await bad.work()
            assert SourceState.FAILING == bad.source.attribution.state
            assert "failing" == (await _source(sql))[0]
            await good.work()
            assert ("ok", SourceState.OK) == ((await _source(sql))[0], good.source.attribution.state)
            assert States({"active"}, {0}, {None}, 0) == await _states(sql, JOBS)
            await good.pass_time(sql, 300)
            await bad.pass_time(sql, 0)
            bad.source.attribution.end_silence()


async def test_first_success_ends_an_outage(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The first success ends an outage, even if it was requested before: jobs that are named once are all polled."""
    jobs = [f"ftjob-{n}" for n in range(10)]  # two more than are polled at once
    await track(store, *jobs)
    go_on = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return page([])

    _answer_all(provider, jobs, slow, page([]))
    provider.checkpoints[jobs[0]] = DEFAULT_BACKEND
    async with _daemon(store, provider) as daemon:
        found = sorted(await store.find_jobs(jobs), key=lambda job: job.id != jobs[0])
        polling = asyncio.ensure_future(daemon.poller.poll_named(found))
        await until_true(sql, "select state = 'failing' from fine_tuning.sources")
        assert SourceState.FAILING == daemon.source.attribution.state
        daemon.poller.wake.set()
        await until(lambda: not daemon.poller.wake.is_set())  # it looked again whether to go on
        go_on.set()
        assert {} == await polling
        await daemon.poller.queue.saved()
        assert ("ok", SourceState.OK) == ((await _source(sql))[0], daemon.source.attribution.state)
    read = "select count(*) from fine_tuning.freshness where last_complete_at is not null"
    assert len(jobs) - 1 == await sql.fetchval(read)
