"""The commands track, untrack, resync, objective, jobs and status."""

import json
from collections.abc import Awaitable, Callable, Sequence

from checkpointd.cli import event_loop, output, tables
from checkpointd.cli.arguments import UsageError, choose_source, find_jobs, read_ids
from checkpointd.cli.database import open_database
from checkpointd.domain.job import Job
from checkpointd.postgres import objectives, overview
from checkpointd.postgres.store import Store
from checkpointd.postgres.webhooks import list_webhooks
from checkpointd.presentation import plural
from checkpointd.settings.model import Settings
from checkpointd.settings.source import METRIC_CHARACTERS, Objective, is_metric


def track_jobs(settings: Settings, jobs: Sequence[str], source: str | None) -> None:
    """Track jobs of a source, and print how many are new."""
    named = choose_source(settings, source)
    ids = read_ids(jobs)

    async def work() -> None:
        async with open_database(settings) as store:
            keys = await store.register_sources(settings.source_kinds)
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


def set_objective(
    settings: Settings,
    job: str,
    metric: str | None,
    *,
    maximize: bool,
    minimize: bool,
    default: bool,
    source: str | None,
) -> None:
    """Set the objective of a job, or return to the default, and print its best checkpoint."""
    (job_id,) = read_ids([job], are_stored=True)
    if default == (metric is not None) or maximize + minimize != (not default):
        raise UsageError("give a metric with --maximize or --minimize, or --default")
    if metric is not None and not is_metric(metric):
        raise UsageError(f"{metric[:80]!r} is not the name of a metric (1 to {METRIC_CHARACTERS} printable characters)")
    objective = None if metric is None else Objective(metric, "maximize" if maximize else "minimize")

    async def work() -> None:
        async with open_database(settings) as store:
            (found,) = await find_jobs(store, [job_id], source, only_tracked=False)
            tables.show_best(job_id, await objectives.set_objective(store, found, objective))

    event_loop.run_interruptible(work())


def show_jobs(settings: Settings, *, as_json: bool) -> None:
    """Print the jobs that are or were tracked."""

    async def work() -> None:
        async with open_database(settings) as store:
            rows = await overview.list_jobs(store)
        if as_json:
            print(json.dumps(rows, default=output.json_default))
        else:
            tables.show_jobs(rows)

    event_loop.run_interruptible(work())


def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the open findings, the sources, the webhooks, and the freshness of each tracked job, the worst first.

    Of the webhooks only those of the settings are shown, as text only those that fail or are behind.
    """
    names = {webhook.name for webhook in settings.webhooks}

    async def work() -> None:
        async with open_database(settings) as store:
            findings = await overview.list_findings(store)
            sources = await overview.list_sources(store, list(settings.source_kinds))
            webhooks = [row for row in await list_webhooks(store) if row["name"] in names]
            jobs = await overview.list_freshness(store)
        if as_json:
            status = {"findings": findings, "sources": sources, "webhooks": webhooks, "jobs": jobs}
            print(json.dumps(status, default=output.json_default))
        else:
            tables.show_status(findings, sources, webhooks, jobs)

    event_loop.run_interruptible(work())
