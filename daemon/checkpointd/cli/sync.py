"""The command sync: poll jobs once and now, whether due or not, and report the outcome of each."""

import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import choose_source, find_jobs, read_ids
from checkpointd.cli.database import open_database
from checkpointd.cli.log import configure_log, read_fields
from checkpointd.cli.progress import progress_bar
from checkpointd.domain.failure import ErrorClass, Failure, is_pause
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease
from checkpointd.polling.login import renew_login
from checkpointd.polling.poller import Poller
from checkpointd.polling.save_queue import Outcome
from checkpointd.polling.setup import FieldsBySource, open_sources, start_polling
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import overview
from checkpointd.postgres.objectives import set_source_objectives
from checkpointd.postgres.store import Store
from checkpointd.presentation import duration, is_unconfigured, plural
from checkpointd.provider.http import open_session
from checkpointd.settings.model import Settings
from checkpointd.telemetry.health import Health

SHOWN_FAILURES: Final = 20

PATIENCE_SECONDS: Final = 60.0
"""How long sync waits for a source that pauses, in all, until it can read another job of it."""

SHORTEST_WAIT_SECONDS: Final = 1.0

_HELD: Final = Failure(ErrorClass.INTERNAL, "another daemon is polling it: try again later")


class PolledJob(NamedTuple):
    """What is kept of the last poll of a job. The numbers are 0 if it was not saved."""

    failure: Failure | None
    """Why its listing is not complete or not saved, or None."""
    is_saved: bool = False
    new: int = 0
    changed: int = 0
    rejected: int = 0


Outcomes = dict[tuple[str, str], PolledJob]
"""The last poll of each job, by the name of its source and its id."""


class FailedJob(NamedTuple):
    """A job whose listing was not complete or not saved."""

    source: str
    job: str
    error_class: str
    error: str


@dataclass(frozen=True)
class Summary:
    """The result of a sync.

    It has the numbers of jobs, new and changed checkpoints, and rejected items; the failures; and the sources that were
    to be polled, but are not configured, with the numbers of their jobs.
    """

    jobs: int
    new: int
    changed: int
    rejected: int
    failures: list[FailedJob]
    not_configured: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        listed = [failure._asdict() for failure in self.failures]
        return {**vars(self), "failed": len(listed), "failures": listed}


def sync_once(settings: Settings, jobs: Sequence[str], source: str | None, *, as_json: bool) -> None:
    """Poll these jobs, or all tracked ones, and print a summary. Exits with 1 if a job failed or cannot be polled."""
    if source is not None:
        choose_source(settings, source)
    ids = read_ids(jobs) if jobs else None
    fields_by_source = read_fields(settings)
    configure_log(settings, fields_by_source, "error")

    async def work() -> Summary:
        with progress_bar("sync") as progress:
            async with open_database(settings) as store:
                wanted = None if ids is None else await find_jobs(store, ids, source)
                return await sync_jobs(settings, store, fields_by_source, wanted, source, progress)

    summary = event_loop.run_interruptible(work())
    if as_json:
        print(json.dumps(summary.as_dict()))
    else:
        _print(summary, [source.name for source in settings.sources])
    if summary.failures or summary.not_configured:
        sys.exit(1)


async def sync_jobs(
    settings: Settings,
    store: Store,
    fields_by_source: FieldsBySource,
    jobs: Sequence[Job] | None,
    source: str | None,
    progress: Callable[[int, int | None], None],
) -> Summary:
    """Poll these jobs, or all tracked ones (of one source, if given).

    `progress` is called with the number of finished jobs and the number of all jobs, which is None while it is unknown.
    The job lists are read first, for the statuses; their failures do not count. At the end, the pauses of sources whose
    jobs could be read are over for all daemons. Raises DatabaseUnavailableError.
    """
    started = asyncio.get_running_loop().time()
    keys = await store.register_sources(settings.source_kinds)
    await set_source_objectives(store, settings.objectives(keys))
    stored = await overview.list_sources(store, list(keys))
    names = {keys[row["outdated_name"] or row["name"]]: row["name"] for row in stored if row["is_configured"]}
    for row in stored:
        if row["outdated_name"] is not None:
            output.say(f"source {row['outdated_name']} was renamed to {row['name']}: change its name in the settings")
    outcomes: Outcomes = {}
    are_named, total = jobs is not None, None if jobs is None else len(jobs)

    def report(lease: Lease, outcome: Outcome) -> None:
        outcomes[names[lease.source], lease.id] = polled_job(outcome)
        progress(len(outcomes), total)

    async with open_session() as http:
        sources = open_sources(settings, keys, http, fields_by_source)
        health = Health()
        await asyncio.gather(*(renew_login(store, health, active) for active in sources))
        async with start_polling(settings, store, sources, health, report) as (poller, job_lists):
            if jobs is None or jobs:
                await asyncio.gather(*(job_list.tick(due_or_not=True) for job_list in job_lists))
            if jobs is None:
                chosen = [key for name, key in keys.items() if source in {None, name}]
                jobs = await store.find_tracked_jobs(chosen)
            total = len(jobs)
            await poll_jobs(poller, sources, jobs, outcomes)
    if working := [key for key, name in names.items() if _is_working(outcomes, name)]:
        await store.resume_sources(working, asyncio.get_running_loop().time() - started)
    configured = {active.key for active in sources}
    for job in jobs:
        if job.source not in configured:
            failure = Failure(ErrorClass.INTERNAL, "its source is no longer configured")
            outcomes[job.source_name, job.id] = PolledJob(failure)
    is_left = source is None and not are_named
    return _sum_up(outcomes, {row["name"]: row["jobs"] for row in stored if is_left and is_unconfigured(row)})


async def poll_jobs(poller: Poller, sources: Sequence[ActiveSource], jobs: Sequence[Job], outcomes: Outcomes) -> None:
    """Poll jobs, and fill `outcomes`. If a source pauses for a short time, wait, and poll the rest of its jobs."""
    patience = dict.fromkeys((source.key for source in sources), PATIENCE_SECONDS)
    while jobs:
        for job, failure in (await poller.poll_named(jobs)).items():
            outcomes[job.source_name, job.id] = PolledJob(failure or _HELD)
        await poller.queue.saved()
        stopped = [job for job in jobs if _is_stopped(outcomes.get((job.source_name, job.id)))]
        waits: dict[int, float] = {}
        for source in sources:
            count = sum(job.source == source.key for job in stopped)
            if not count:
                continue
            if count < sum(job.source == source.key for job in jobs):
                patience[source.key] = PATIENCE_SECONDS
            pause = source.attribution.silent_seconds(asyncio.get_running_loop().time())
            wait = max(pause, SHORTEST_WAIT_SECONDS)
            patience[source.key] -= wait
            if patience[source.key] >= 0:
                waits[source.key] = wait
                output.say(f"source {source.name} pauses: waiting for {math.ceil(wait)} s")
            else:
                output.say(f"source {source.name} pauses for {duration(math.ceil(wait))}: run the command again then")
        jobs = [job for job in stopped if job.source in waits]
        await asyncio.sleep(max(waits.values(), default=0))


def polled_job(outcome: Outcome) -> PolledJob:
    """Return what is kept of an outcome. Those of all jobs are in memory at the same time."""
    if isinstance(outcome, Failure):
        return PolledJob(outcome)
    result, failure = outcome.result, None
    if not result.complete:
        failure = Failure(ErrorClass(result.error_class or ErrorClass.INTERNAL), result.error or "")
    return PolledJob(failure, is_saved=True, new=outcome.new, changed=outcome.changed, rejected=outcome.rejected)


def _is_working(outcomes: Outcomes, source: str) -> bool:
    """Return whether jobs of a source were read, and none met a failure for which the source pauses."""
    of_source = [polled for (name, _), polled in outcomes.items() if name == source]
    return any(polled.failure is None for polled in of_source) and not any(map(_is_stopped, of_source))


def _is_stopped(polled: PolledJob | None) -> bool:
    """Return whether a job was not read because its source pauses."""
    return polled is not None and not polled.is_saved and polled.failure is not None and is_pause(polled.failure)


def _sum_up(outcomes: Outcomes, not_configured: dict[str, int]) -> Summary:
    polled = outcomes.values()
    return Summary(
        len(outcomes),
        sum(job.new for job in polled),
        sum(job.changed for job in polled),
        sum(job.rejected for job in polled),
        [
            FailedJob(source, job, polled.failure.error_class, polled.failure.message)
            for (source, job), polled in outcomes.items()
            if polled.failure
        ],
        not_configured,
    )


def _print(summary: Summary, sources: Sequence[str]) -> None:
    jobs, new, rejected = summary.jobs, summary.new, summary.rejected
    print(
        f"{jobs} {plural('job', jobs)}: {new} new {plural('checkpoint', new)}, {summary.changed} changed, "
        f"{rejected} rejected {plural('item', rejected)}, {len(summary.failures)} failed"
    )
    # Two sources can have jobs with the same id.
    several = len({*sources, *(failure.source for failure in summary.failures)}) > 1
    for failure in summary.failures[:SHOWN_FAILURES]:
        job = f"{failure.job} ({failure.source})" if several else failure.job
        print(output.cell_text(f"{job}: {failure.error_class}: {failure.error}"), file=sys.stderr)
    if (more := len(summary.failures) - SHOWN_FAILURES) > 0:
        print(f"… and {more} more: run `checkpointd status`", file=sys.stderr)
    if summary.not_configured:
        left = ", ".join(f"{name} ({count} {plural('job', count)})" for name, count in summary.not_configured.items())
        advice = "add them to the settings, rename them by `checkpointd rename`, or untrack their jobs"
        print(f"not polled, because these sources are not configured: {left}: {advice}", file=sys.stderr)
