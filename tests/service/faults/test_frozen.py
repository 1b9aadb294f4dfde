"""A daemon that is suspended in the middle of a save blocks nobody else."""

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from service.faults.daemons import daemon, daemon_env, measure_stalls, track
from service.faults.proxy import SAVE_OF_JOB_RECORDS, SAVE_OF_POLLS, Proxy
from support.harness import until, until_true
from support.provider import Provider, checkpoint, error, job, page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEW_STATEMENT, PREPARED_STATEMENT = 6, 3
"""The messages of a statement: Parse, Describe, Sync, Bind, Execute, Sync; only the last three if it is prepared."""

ROUNDS = [
    *((SAVE_OF_POLLS, True, n + 1) for n in range(2 * NEW_STATEMENT)),  # one that reads, one that writes
    *((SAVE_OF_POLLS, False, n + 1) for n in range(3 * PREPARED_STATEMENT)),  # those, and one for quiet polls
    *((SAVE_OF_JOB_RECORDS, True, n + 1) for n in range(NEW_STATEMENT)),
    *((SAVE_OF_JOB_RECORDS, False, n + 1) for n in range(PREPARED_STATEMENT)),
]
"""The kind of a save, whether its connection is new, and the number of the message in which it is suspended."""

NEWS, FAILING, QUIET = "ftjob-news", "ftjob-failing", "ftjob-quiet"

IS_DONE = """
    select count(*) = 0 from pg_stat_activity
    where application_name = 'checkpointd' and datname = current_database()
      and (backend_xid is not null or state = 'active' and wait_event is distinct from 'ClientRead')"""
"""True if no session of the daemon runs anything, or has written or locked rows and has not committed.

One that waits for the rest of a message counts as active."""

STATUSES = "select new_value from fine_tuning.changes where kind = 'status' order by seq"

LOCK_ALL = """
    set local lock_timeout = '10s';
    select job from checkpointd.polling for no key update;
    select key from checkpointd.sources for no key update;
    select key from checkpointd.jobs for no key update;
    select one from checkpointd.feed_gate for no key update"""
"""A statement that the server has received only now may still run, so this waits for a moment."""


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of the test's database."""
    async with Proxy(url) as opened:
        yield opened


def _change(provider: Provider, number: int) -> None:
    """List a new checkpoint, another value of each known one, an item that cannot be read, and a new status."""
    items = [checkpoint(n, NEWS, train_loss=number / 100) for n in range(number + 1, 0, -1)]
    provider.checkpoints[NEWS] = page([*items, {"id": f"bad-{number}"}])
    provider.jobs = page([job(NEWS, f"running-{number}"), job(FAILING, "running"), job(QUIET, "running")])


async def test_suspended_at_every_message(
    url: str, provider: Provider, proxy: Proxy, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A daemon that is suspended within any message of a save holds no lock, and what it saves later is whole."""
    provider.checkpoints |= {FAILING: error(500), QUIET: page([checkpoint(1, QUIET)])}
    _change(provider, 0)
    await track(url, [NEWS, FAILING, QUIET])
    # So that each poll of the failing job is one request, and all jobs are polled often.
    env = daemon_env(
        tmp_path, proxy.url, provider.url, CHECKPOINTD_LEASE_SECONDS="5", CHECKPOINTD_JOB_LIST_SECONDS="0.3"
    )
    waits = []
    async with daemon(env) as one, measure_stalls() as stalled:
        await one.wait_for("poll.changed")
        await one.wait_for("job_list.changed")
        for number, (save, is_new, message) in enumerate(ROUNDS, start=1):
            if is_new:
                proxy.reset()
            proxy.freeze_in, proxy.freeze_at = save, message
            _change(provider, number)
            await until(proxy.frozen.is_set, seconds=60)
            one.process.send_signal(signal.SIGSTOP)
            frozen, stalled_before = time.monotonic(), stalled()
            await until_true(sql, IS_DONE, seconds=10 + stalled() - stalled_before)
            async with sql.transaction():
                await sql.execute(LOCK_ALL)
            waits.append(time.monotonic() - frozen - (stalled() - stalled_before))
            one.process.send_signal(signal.SIGCONT)
            proxy.thaw()
        newest = f"select count(*) = {len(ROUNDS) + 1} from fine_tuning.checkpoints where fine_tuning_job_id = '{NEWS}'"
        await until_true(sql, newest, seconds=60)
        status = f"select status = 'running-{len(ROUNDS)}' from fine_tuning.jobs where id = '{NEWS}'"
        await until_true(sql, status, seconds=60)
    print(f"{len(ROUNDS)} suspensions, all rows were free after {max(waits):.2f} s")  # noqa: T201
    assert [] == await sql.fetch("""
        select p.id from fine_tuning.polls p left join fine_tuning.changes c on c.poll_id = p.id
        group by p.id, p.new, p.changed
        having p.new <> count(*) filter (where c.kind = 'new')
          or p.changed <> count(distinct c.checkpoint_id) filter (where c.kind <> 'new')""")
    assert {1} == {
        row[0]
        for row in await sql.fetch("""
        select count(*) from fine_tuning.changes where kind = 'new' group by fine_tuning_job_id, checkpoint_id""")
    }
    statuses = [row[0] for row in await sql.fetch(STATUSES) if row[0].startswith("running-")]
    assert sorted(set(statuses), key=lambda status: int(status.removeprefix("running-"))) == statuses
