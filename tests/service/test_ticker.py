"""The ticker ticks at its interval, even if the wall clock is stepped."""

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


async def test_an_event_that_is_not_set_any_more_is_started_again() -> None:
    """If an event is not set any more, as after a step back of the wall clock, the task that waits starts it again."""
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
    """After a step of the wall clock by a month there is one tick, not one for each second of the month."""
    trigger = AheadOnlyTrigger(seconds=1, timezone=UTC, start_date=NOON)
    month_later = NOON + timedelta(days=30)
    ticks = 0
    tick: datetime | None = NOON
    while tick is not None and tick <= month_later:
        ticks += 1
        tick = trigger.get_next_fire_time(tick, month_later)
    assert 1 == ticks


async def test_a_tick_during_the_cancellation_starts_no_work() -> None:
    """A repetition that is cancelled just as its event is set does not run again.

    With Python 3.11's wait_for it would: that function may lose a cancellation.
    """
    event, has_run = asyncio.Event(), asyncio.Event()
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        has_run.set()

    with run_ticker() as ticker:
        repeating = asyncio.create_task(repeat(ticker, event, 60, work, Stop()))
        await asyncio.wait_for(has_run.wait(), 20)
        await asyncio.sleep(0)  # one turn of the event loop, in which the repetition begins to wait again
        event.set()
        repeating.cancel()
        await asyncio.wait([repeating], timeout=20)
        assert repeating.cancelled()
    assert 1 == runs
