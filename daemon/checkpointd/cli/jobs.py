"""The commands track, untrack, resync, jobs and status."""

import json
from collections.abc import Awaitable, Callable, Sequence

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import choose_source, find_jobs, read_ids
from checkpointd.cli.database import open_database
from checkpointd.domain.job import Job
from checkpointd.postgres import overview
from checkpointd.postgres.store import Store
from checkpointd.presentation import plural
from checkpointd.settings.model import Settings


def track_jobs(settings: Settings, jobs: Sequence[str], source: str | None) -> None:
    """Track jobs of a source, and print how many are new."""
    named = choose_source(settings, source)
    ids = read_ids(jobs)

    async def work() -> None:
        async with open_database(settings) as store:
            keys = await store.register_sources({named.name: named.kind})
            new = await store.track(keys[named.name], ids)
            print(f"{len(ids)} {plural('job', len(ids))} tracked ({new} new)")

    event_loop.run_interruptible(work())


def untrack_jobs(settings: Settings, jobs: Sequence[str], source: str | None) -> None:
    """Stop polling jobs, and print how many were tracked."""
    _change(settings, jobs, source, Store.untrack, "untracked")


def resync_jobs(settings: Settings, jobs: Sequence[str], source: str | None) -> None:
    """Make jobs due for a full comparison, and print how many."""
    _change(settings, jobs, source, Store.resync, "due for a full comparison")


def _change(
    settings: Settings,
    jobs: Sequence[str],
    source: str | None,
    change: Callable[[Store, Sequence[Job]], Awaitable[int]],
    done: str,
) -> None:
    """Change jobs, and print how many, followed by `done`."""
    ids = read_ids(jobs, are_stored=True)

    async def work() -> None:
        async with open_database(settings) as store:
            count = await change(store, await find_jobs(store, ids, source))
            print(f"{count} {plural('job', count)} {done}")

    event_loop.run_interruptible(work())


def show_jobs(settings: Settings, *, as_json: bool) -> None:
    """Print the jobs that are or were tracked."""

    async def work() -> None:
        async with open_database(settings) as store:
            rows = await overview.list_jobs(store)
        if as_json:
            print(json.dumps(rows, default=output.json_default))
        else:
            output.show_jobs(rows)

    event_loop.run_interruptible(work())


def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the sources and the freshness of each tracked job, the worst first."""

    async def work() -> None:
        async with open_database(settings) as store:
            sources, jobs = await overview.list_sources(store), await overview.list_freshness(store)
        if as_json:
            print(json.dumps({"sources": sources, "jobs": jobs}, default=output.json_default))
        else:
            output.show_status(sources, jobs)

    event_loop.run_interruptible(work())
