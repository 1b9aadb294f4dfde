"""The command archive: fetch everything that providers still have about all jobs, once, and say what is not complete.

What was fetched is in the database, so the command can be interrupted, and goes on where it stopped: long job lists and
event lists are continued at their cursors, and complete jobs are not asked for again.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from checkpointd.cli import event_loop, output
from checkpointd.cli.arguments import choose_source
from checkpointd.cli.database import open_database
from checkpointd.cli.log import configure_log, read_fields
from checkpointd.cli.progress import progress_bar
from checkpointd.cli.sync import SHOWN_FAILURES, Outcomes, poll_jobs, polled_job
from checkpointd.domain.poll import Lease
from checkpointd.polling.events import EventLists
from checkpointd.polling.job_list import JobList
from checkpointd.polling.login import renew_login
from checkpointd.polling.save_queue import Outcome
from checkpointd.polling.setup import FieldsBySource, open_sources, start_polling
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres import overview
from checkpointd.postgres.store import Store
from checkpointd.presentation import plural
from checkpointd.provider.http import open_session
from checkpointd.settings.model import Settings
from checkpointd.telemetry.health import Health

PATIENCE_SECONDS: Final = 60.0
"""How long the command waits for a list that another daemon reads, or that the rate limit holds back."""

SHORT_WAIT_SECONDS: Final = 0.2
"""The time between two parts of a long list."""

PROGRESS_SECONDS: Final = 1.0
"""The time between two looks at what is stored, for the progress bar."""

EVENT_GAP: Final = 300.0
"""Seconds after which the events of a job that has not ended are due again."""

Progress = Callable[[int, int | None], None]


class Unlisted(NamedTuple):
    """Why the job list of a source was not read to its end. It is a failure if jobs may be missing that it lists.

    If the provider has no job list, it is one only if no job of the source is known.
    """

    reason: str
    is_failure: bool = True


def archive_jobs(settings: Settings, source: str | None, *, as_json: bool) -> None:
    """Fetch everything of a source, or of all, and print what is incomplete.

    Exits with 1 if anything is, or if a source has neither a job list nor a job.
    """
    names = [choose_source(settings, source).name] if source else [one.name for one in settings.sources]
    fields = read_fields(settings)
    configure_log(settings, fields, "error")

    async def work() -> tuple[list[dict[str, Any]], dict[str, Unlisted]]:
        with progress_bar("archive") as progress:
            async with open_database(settings) as store:
                return await archive(settings, store, {name: fields[name] for name in names}, progress)

    rows, unlisted = event_loop.run_interruptible(work())
    incomplete = [row for row in rows if not row["is_complete"]]
    if as_json:
        listed = [{name: row[name] for name in ("source", "fine_tuning_job_id", "reason")} for row in incomplete]
        job_lists = {name: found.reason for name, found in unlisted.items()}
        print(json.dumps({"jobs": len(rows), "incomplete": listed, "job_lists": job_lists}))
    else:
        print(f"{len(rows)} {plural('job', len(rows))}: {len(rows) - len(incomplete)} complete")
        for name, found in unlisted.items():
            print(output.cell_text(f"job list of {name}: {found.reason}"), file=sys.stderr)
        for row in incomplete[:SHOWN_FAILURES]:
            text = f"{row['fine_tuning_job_id']} ({row['source']}): {row['reason']}"
            print(output.cell_text(text), file=sys.stderr)
        if (more := len(incomplete) - SHOWN_FAILURES) > 0:
            print(f"… and {more} more: see the view fine_tuning.archive", file=sys.stderr)
    if incomplete or any(found.is_failure for found in unlisted.values()):
        sys.exit(1)


async def archive(
    settings: Settings, store: Store, fields_by_source: FieldsBySource, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Unlisted]]:
    """Fetch everything of the sources that have fields.

    Returns the rows of list_archive.sql, and the sources whose job lists were not read to their ends, with the reason.
    `progress` is called with the number of lists that are complete and of all, two for each job: its checkpoints and
    its events. Raises DatabaseUnavailableError.
    """
    keys = await store.register_sources(settings.source_kinds)
    outcomes: Outcomes = {}
    health, names, done, total = Health(), dict[int, str](), 0, 0

    def report(lease: Lease, outcome: Outcome) -> None:
        nonlocal done
        outcomes[names[lease.source], lease.id] = polled = polled_job(outcome)
        done += polled.failure is None
        progress(done, total)

    async with open_session() as http:
        sources = open_sources(settings, keys, http, fields_by_source)
        await asyncio.gather(*(renew_login(store, health, source) for source in sources))
        listed = await asyncio.gather(*(_list_jobs(settings, store, source, health) for source in sources))
        chosen = [source.key for source in sources]
        rows = await overview.list_archive(store, chosen)
        wanted = {(row["source"], row["fine_tuning_job_id"]) for row in rows if not row["has_checkpoints"]}
        jobs = [job for job in await store.find_tracked_jobs(chosen) if (job.source_name, job.id) in wanted]
        names |= {job.source: job.source_name for job in jobs}
        counts = await overview.count_archive(store, chosen)
        done, total = counts["complete_lists"], 2 * counts["jobs"]
        async with start_polling(settings, store, sources, health, report) as (poller, _):
            await poll_jobs(poller, sources, jobs, outcomes)
        showing = asyncio.create_task(_show_progress(store, chosen, progress))
        try:
            await asyncio.gather(*(_read_events(settings, store, source, health) for source in sources))
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    rows = await overview.list_archive(store, chosen)
    return rows, {source.name: found for source, found in zip(sources, listed, strict=True) if found is not None}


async def _list_jobs(settings: Settings, store: Store, source: ActiveSource, health: Health) -> Unlisted | None:
    """Read a job list to its end, and track every job. Returns why that was not done, or None."""
    if source.client.format.jobs is None:
        counts = await overview.count_archive(store, [source.key])
        return Unlisted(output.no_job_list(source.name), is_failure=not counts["jobs"])
    loop = asyncio.get_running_loop()
    gap, lease_seconds = settings.job_list_seconds, settings.lease_seconds
    reader = JobList(store, source, health, gap=gap, lease_seconds=lease_seconds, max_new_jobs=None)
    give_up_at = loop.time() + PATIENCE_SECONDS + lease_seconds
    while not (is_whole := await reader.tick(due_or_not=True)):
        if reader.error is not None or not source.has_key:
            return Unlisted(reader.error or "there is no key")
        if is_whole is False:
            give_up_at = loop.time() + PATIENCE_SECONDS + lease_seconds
        elif loop.time() >= give_up_at:
            return Unlisted("another daemon reads it: run the command again")
        await asyncio.sleep(SHORT_WAIT_SECONDS)
    return None


async def _show_progress(store: Store, sources: Sequence[int], progress: Progress) -> None:
    """Show every second how many lists of these sources are complete."""
    while True:
        counts = await overview.count_archive(store, sources)
        progress(counts["complete_lists"], 2 * counts["jobs"])
        await asyncio.sleep(PROGRESS_SECONDS)


async def _read_events(settings: Settings, store: Store, source: ActiveSource, health: Health) -> None:
    """Read the event lists of the ended jobs of a source to their ends, until nothing more can be read now."""
    if source.client.format.events is None:
        return
    loop = asyncio.get_running_loop()
    lists = EventLists(store, source, health, gap=EVENT_GAP, lease_seconds=settings.lease_seconds)
    known: dict[str, int] = {}
    give_up_at = loop.time()
    while not source.is_silent(loop.time()):
        await lists.tick()
        counts = await overview.count_archive(store, [source.key])
        if counts != known:
            known, give_up_at = counts, loop.time() + PATIENCE_SECONDS
        if not counts["readable_event_lists"] or loop.time() >= give_up_at:
            return
        await asyncio.sleep(SHORT_WAIT_SECONDS)
