"""Runs the daemon against a provider whose jobs run fast, and measures what the simulation measures."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aiohttp import web

from benchmarks.simulation import Ended, Outcome, Pace
from benchmarks.worlds import SimulatedJob
from support.provider import Provider, checkpoint, job, paged
from support.verbs import environment, running


class _FastJob:
    """A job, and what the daemon did with it. Times are in seconds since its start."""

    def __init__(self, number: int, planned: SimulatedJob, start_gap: float) -> None:
        self.id = f"ftjob-{number:04}"
        self.planned = planned
        self.start = number * start_gap
        self.seen = 0
        self.ages: list[float] = []
        self.polls = 0
        self.end_was_listed = False
        self.end: float | None = None
        """When it was polled after the job list had shown its end, or None. Later polls do not count."""

    def list_checkpoints(self, now: float) -> None:
        """Count a poll, and the ages of the checkpoints that it is the first to see."""
        if self.end is not None:
            return
        self.polls += 1
        new = [now - at for at in self.planned.visible[self.seen :] if at <= now]
        self.seen += len(new)
        self.ages += new
        if self.end_was_listed:
            self.end = now


async def measure(planned: Sequence[SimulatedJob], pace: Pace, home: Path, url: str | None = None) -> Outcome:
    """Let the daemon discover and poll these jobs, until it has polled each of them after its end.

    `url` is that of its database; without one, it is an embedded PostgreSQL in the folder `home`.
    """
    jobs = [_FastJob(number, job, pace.start_gap) for number, job in enumerate(planned)]
    loop, started, all_ended = asyncio.get_running_loop(), list[float](), asyncio.Event()

    async def list_jobs(request: web.Request) -> web.StreamResponse:
        if not started:
            started.append(loop.time())
        now, records = loop.time() - started[0], []
        for fast in reversed(jobs):
            if fast.start <= now:
                fast.end_was_listed = fast.start + fast.planned.ended <= now
                records.append(job(fast.id, "succeeded" if fast.end_was_listed else "running"))
        return await paged(records)(request)

    async def list_checkpoints(fast: _FastJob, request: web.Request) -> web.StreamResponse:
        fast.list_checkpoints(loop.time() - started[0] - fast.start)
        if all(fast.end is not None for fast in jobs):
            all_ended.set()
        # Checkpoints have no `created_at`: it is in whole seconds, which are long here.
        listed = [{**checkpoint(n + 1, fast.id), "created_at": None} for n in reversed(range(fast.seen))]
        return await paged(listed)(request)

    async with Provider() as provider:
        provider.jobs = list_jobs
        provider.checkpoints = {fast.id: partial(list_checkpoints, fast) for fast in jobs}
        settings = {
            "MIN_POLL_SECONDS": pace.settings.shortest,
            "MAX_POLL_SECONDS": pace.settings.longest,
            "SETTLE_SECONDS": 0,
            "JOB_LIST_SECONDS": pace.job_list,
            "DISCOVER": "true",
            "LOG_LEVEL": "error",
        }
        env = environment(home, url, provider.url, **{f"CHECKPOINTD_{key}": f"{v}" for key, v in settings.items()})
        async with running("run", env=env):
            await all_ended.wait()
    ended = [Ended(fast.planned, fast.end or 0) for fast in jobs]
    return Outcome.of([age for fast in jobs for age in fast.ages], sum(fast.polls for fast in jobs), ended)
