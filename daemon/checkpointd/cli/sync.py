"""One pass: poll jobs once, now, whether due or not, and tell what became of each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.polling.save_queue import Result
from checkpointd.polling.setup import Keyed, open_services, pollers
from checkpointd.postgres.save_rows import Saved
from checkpointd.postgres.store import Job, Lease, Store
from checkpointd.provider import client as api
from checkpointd.settings.model import Settings


class Failed(NamedTuple):
    """A job whose listing was not complete, or not saved."""

    source: str
    job: str
    error_class: str
    error: str


@dataclass(frozen=True)
class Summary:
    """What a pass did, in jobs, checkpoints and items."""

    jobs: int
    new: int
    changed: int
    rejected: int
    failures: list[Failed]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        listed = [failure._asdict() for failure in self.failures]
        return {**vars(self), "failed": len(listed), "failures": listed}


async def sync_jobs(
    settings: Settings, store: Store, keyed: Keyed, jobs: Sequence[Job] | None, source: str | None,
    progress: Callable[[int, int | None], None],
) -> Summary:  # fmt: skip
    """Poll these jobs, or all tracked ones (of one source, if given). `progress` is told how many of how many are done.

    The job list is read first, for the statuses; that it fails is no failure here. Raises UNAVAILABLE.
    """
    keys = await store.register_sources({s.name: s.kind for s in settings.sources})
    names = {key: name for name, key in keys.items()}
    results: dict[tuple[str, str], Result] = {}
    total = None if jobs is None else len(jobs)

    def report(lease: Lease, result: Result) -> None:
        results[names[lease.source], lease.id] = result
        progress(len(results), total)

    async with api.session() as http:
        services = open_services(settings, keys, http, keyed)
        async with pollers(settings, store, services, report) as (poller, discoveries):
            if jobs is None or jobs:
                await asyncio.gather(*(discovery.tick(due_or_not=True) for discovery in discoveries))
            if jobs is None:
                jobs = [j for j in await store.find_tracked_jobs(list(names)) if source in {None, j.source_name}]
            total = len(jobs)
            left = await poller.poll_named(jobs)
    troubles = {service.key: service.trouble for service in services}
    for job in jobs:
        if job.source not in troubles:
            results[job.source_name, job.id] = Failure(ErrorClass.INTERNAL, "its source is not configured any more")
    held = Failure(ErrorClass.INTERNAL, "another daemon holds it: try again later")
    for job in left:
        results[job.source_name, job.id] = troubles[job.source] or held
    return _sum_up(results)


def _sum_up(results: Mapping[tuple[str, str], Result]) -> Summary:
    saved = [result for result in results.values() if isinstance(result, Saved)]
    failures = []
    for (source, job), result in results.items():
        if isinstance(result, Failure):
            failures.append(Failed(source, job, result.error_class, result.message))
        elif not result.poll.complete:
            failures.append(Failed(source, job, result.poll.error_class or "", result.poll.error or ""))
    return Summary(
        len(results), sum(s.new for s in saved), sum(s.changed for s in saved), sum(s.rejected for s in saved), failures
    )
