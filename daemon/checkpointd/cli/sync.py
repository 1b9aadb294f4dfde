"""The command sync: poll jobs once and now, whether due or not, and report the outcome of each."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import choose_source, find_jobs, read_ids
from checkpointd.cli.database import open_database
from checkpointd.cli.log import configure_log, read_headers
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.domain.job import Job
from checkpointd.domain.poll import Lease, SavedPoll
from checkpointd.polling.save_queue import Outcome
from checkpointd.polling.setup import HeadersBySource, open_sources, start_polling
from checkpointd.postgres.store import Store
from checkpointd.presentation import plural
from checkpointd.provider.http import open_session
from checkpointd.settings.model import Settings
from checkpointd.telemetry.health import Health

SHOWN_FAILURES: Final = 20


class FailedJob(NamedTuple):
    """A job whose listing was not complete or not saved."""

    source: str
    job: str
    error_class: str
    error: str


@dataclass(frozen=True)
class Summary:
    """The result of a sync: the numbers of jobs, new and changed checkpoints, and rejected items; and the failures."""

    jobs: int
    new: int
    changed: int
    rejected: int
    failures: list[FailedJob]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        listed = [failure._asdict() for failure in self.failures]
        return {**vars(self), "failed": len(listed), "failures": listed}


def sync_once(settings: Settings, jobs: Sequence[str], source: str | None, *, as_json: bool) -> None:
    """Poll these jobs, or all tracked ones, and print a summary. Exits with 1 if a job failed."""
    if source is not None:
        choose_source(settings, source)
    ids = read_ids(jobs) if jobs else None
    headers_by_source = read_headers(settings)
    configure_log(settings, headers_by_source, "error")

    async def work() -> Summary:
        with output.progress("sync") as progress:
            async with open_database(settings) as store:
                wanted = None if ids is None else await find_jobs(store, ids, source)
                return await sync_jobs(settings, store, headers_by_source, wanted, source, progress)

    summary = event_loop.run_interruptible(work())
    if as_json:
        print(json.dumps(summary.as_dict()))
    else:
        _print(summary, [source.name for source in settings.sources])
    if summary.failures:
        sys.exit(1)


async def sync_jobs(
    settings: Settings,
    store: Store,
    headers_by_source: HeadersBySource,
    jobs: Sequence[Job] | None,
    source: str | None,
    progress: Callable[[int, int | None], None],
) -> Summary:
    """Poll these jobs, or all tracked ones (of one source, if given).

    `progress` is called with the number of finished jobs and the number of all jobs, which is None while it is unknown.
    The job lists are read first, for the statuses; their failures do not count. Raises DatabaseUnavailableError.
    """
    keys = await store.register_sources({s.name: s.kind for s in settings.sources})
    names = {key: name for name, key in keys.items()}
    outcomes: dict[tuple[str, str], Outcome] = {}
    total = None if jobs is None else len(jobs)

    def report(lease: Lease, outcome: Outcome) -> None:
        outcomes[names[lease.source], lease.id] = outcome
        progress(len(outcomes), total)

    async with open_session() as http:
        sources = open_sources(settings, keys, http, headers_by_source)
        async with start_polling(settings, store, sources, Health(), report) as (poller, job_lists):
            if jobs is None or jobs:
                await asyncio.gather(*(job_list.tick(due_or_not=True) for job_list in job_lists))
            if jobs is None:
                jobs = [j for j in await store.find_tracked_jobs(list(names)) if source in {None, j.source_name}]
            total = len(jobs)
            left = await poller.poll_named(jobs)
    source_failures = {active.key: active.attribution.failure for active in sources}
    for job in jobs:
        if job.source not in source_failures:
            outcomes[job.source_name, job.id] = Failure(ErrorClass.INTERNAL, "its source is no longer configured")
    held = Failure(ErrorClass.INTERNAL, "another daemon is polling it: try again later")
    for job in left:
        outcomes[job.source_name, job.id] = source_failures[job.source] or held
    return _sum_up(outcomes)


def _sum_up(outcomes: Mapping[tuple[str, str], Outcome]) -> Summary:
    saved = [outcome for outcome in outcomes.values() if isinstance(outcome, SavedPoll)]
    failures = []
    for (source, job), outcome in outcomes.items():
        if isinstance(outcome, Failure):
            failures.append(FailedJob(source, job, outcome.error_class, outcome.message))
        elif not outcome.result.complete:
            failures.append(FailedJob(source, job, outcome.result.error_class or "", outcome.result.error or ""))
    return Summary(
        len(outcomes),
        sum(s.new for s in saved),
        sum(s.changed for s in saved),
        sum(s.rejected for s in saved),
        failures,
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
