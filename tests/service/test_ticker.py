"""The ticker ticks whatever the wall clock does."""

import asyncio
from datetime import UTC, datetime, timedelta

from checkpointd.service.signals import Stop
from checkpointd.service.ticker import AheadOnlyTrigger, repeat, run_ticker

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_ticks_at_once_and_again() -> None:
    """An event is set when it is started, and then at its interval."""
    event = asyncio.Event()
    with run_ticker() as ticker:
        ticker.start(event, 0.05)
        for _ in range(3):
            async with asyncio.timeout(20):
                await ticker.wait(event, 0.05)


async def test_a_ticker_that_stopped_is_started_again() -> None:
    """An event that is no longer set, as after a step back of the wall clock, is started again by its waiter."""
    event = asyncio.Event()
    with run_ticker() as ticker:
        ticker.start(event, 0.1)
        await ticker.wait(event, 0.1)
        (job,) = ticker.scheduler.get_jobs()
        job.modify(next_run_time=datetime.now(UTC) + timedelta(days=30))
        started = asyncio.get_running_loop().time()
        await ticker.wait(event, 0.1)
        await ticker.wait(event, 0.1)
        assert asyncio.get_running_loop().time() - started < 20


def test_a_step_forward_is_one_tick() -> None:
    """After the wall clock is stepped a month forward there is one tick, not one for each second of it."""
    trigger = AheadOnlyTrigger(seconds=1, timezone=UTC, start_date=NOON)
    month = NOON + timedelta(days=30)
    ticks = 0
    tick: datetime | None = NOON
    while tick is not None and tick <= month:
        ticks += 1
        tick = trigger.get_next_fire_time(tick, month)
    assert 1 == ticks


async def test_a_tick_at_the_end_starts_no_work() -> None:
    """Work that is cancelled just as its event is set does not run again (Python 3.11's wait_for loses that cancel)."""
    event, worked = asyncio.Event(), asyncio.Event()
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        worked.set()

    with run_ticker() as ticker:
        repeating = asyncio.create_task(repeat(ticker, event, 60, work, Stop()))
        await asyncio.wait_for(worked.wait(), 20)
        await asyncio.sleep(0)  # it waits again
        event.set()
        repeating.cancel()
        await asyncio.wait([repeating], timeout=20)
        assert repeating.cancelled()
    assert 1 == times
