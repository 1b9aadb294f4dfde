"""The metronome rings whatever the wall clock does."""

import asyncio
from datetime import UTC, datetime, timedelta

from checkpointd.service.daemon import Stop, _follow
from checkpointd.service.ticker import _LookingAhead, metronome

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_rings_at_once_and_again() -> None:
    """A bell rings when it is set up, and then at its interval."""
    bell = asyncio.Event()
    with metronome() as beat:
        beat.ring(bell, 0.05)
        for _ in range(3):
            async with asyncio.timeout(20):
                await beat.wait(bell, 0.05)


async def test_silence_is_mended() -> None:
    """A bell that fell silent, as after the wall clock was set back, rings again by itself."""
    bell = asyncio.Event()
    with metronome() as beat:
        beat.ring(bell, 0.1)
        await beat.wait(bell, 0.1)
        (job,) = beat._scheduler.get_jobs()
        job.modify(next_run_time=datetime.now(UTC) + timedelta(days=30))
        started = asyncio.get_running_loop().time()
        await beat.wait(bell, 0.1)
        await beat.wait(bell, 0.1)
        assert asyncio.get_running_loop().time() - started < 20


def test_a_leap_forward_is_one_ring() -> None:
    """After the wall clock leapt a month, there is one ring to make up for, not one for every second of it."""
    trigger = _LookingAhead(seconds=1, timezone=UTC, start_date=NOON)
    month = NOON + timedelta(days=30)
    rings = 0
    ring: datetime | None = NOON
    while ring is not None and ring <= month:
        rings += 1
        ring = trigger.get_next_fire_time(ring, month)
    assert 1 == rings


async def test_a_ring_at_the_end_starts_nothing() -> None:
    """Who is cut short just as a bell rings does no more work: wait_for of Python 3.11 loses such a cancellation."""
    bell, worked = asyncio.Event(), asyncio.Event()
    times = 0

    async def work() -> None:
        nonlocal times
        times += 1
        worked.set()

    with metronome() as beat:
        following = asyncio.create_task(_follow(beat, bell, 60, work, Stop()))
        await asyncio.wait_for(worked.wait(), 20)
        await asyncio.sleep(0)  # it waits again
        bell.set()
        following.cancel()
        await asyncio.wait([following], timeout=20)
        assert following.cancelled()
    assert 1 == times
