"""The command discover: read job lists, track the jobs that the settings choose, and say why no others are tracked."""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from checkpointd.cli import event_loop, output, tables
from checkpointd.cli.arguments import CommandError, choose_source
from checkpointd.cli.database import open_database
from checkpointd.domain.job import Job, JobPage, JobRecord, read_jobs
from checkpointd.domain.job_filter import JobFilter
from checkpointd.polling.setup import open_client, open_proxy, read_discovery
from checkpointd.polling.source import RateLimiter
from checkpointd.postgres import job_lists
from checkpointd.postgres.store import Store
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.http import ApiError, Limits, Session, open_session
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source

LIST_SECONDS: Final = 3600.0
"""The time in which a whole job list must be read."""


JOBS_AT_A_TIME: Final = 1000
"""So many jobs are tracked by one statement."""


class ListedJob(NamedTuple):
    """A job of a job list, or an item that cannot be read; then most values are None. `created_at` is in Unix seconds.

    `decision` is `new` for a job that discovery tracks and that was never tracked before. `reason` is why a job is not
    tracked, or None.
    """

    source: str
    fine_tuning_job_id: str | None
    decision: Literal["new", "tracked", "not tracked"]
    reason: str | None
    status: str | None = None
    model: str | None = None
    created_at: int | None = None


def discover_jobs(settings: Settings, source: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Print the listed jobs of a source, or of all. Without `dry_run`, track the new ones.

    A source without a job list is named. Exits with 1 if a job list could not be read, or its jobs not be tracked, or
    if there is no job list.
    """
    chosen = settings.sources if source is None else [choose_source(settings, source)]
    with_list = {one.name for one in chosen if PRESETS[one.kind].format.jobs is not None}

    async def work() -> list[list[ListedJob] | str]:
        async with open_database(settings) as store, open_session() as http:
            keys = await store.register_sources(settings.source_kinds)
            reading = [_discover(settings, one, keys[one.name], store, http, dry_run=dry_run) for one in chosen]
            return await asyncio.gather(*reading)

    found = event_loop.run_interruptible(work())
    jobs = [job for listed in found if not isinstance(listed, str) for job in listed]
    failures = {one.name: listed for one, listed in zip(chosen, found, strict=True) if isinstance(listed, str)}
    if as_json:
        listed = [job._asdict() for job in jobs]
        print(json.dumps({"jobs": listed, "failures": [{"source": n, "error": e} for n, e in failures.items()]}))
    else:
        tables.show_discovery([job._asdict() for job in jobs], is_dry_run=dry_run)
        for name, error in failures.items():
            output.say(f"source {name}: {error}", is_error=True)
    if not with_list or with_list & failures.keys():
        sys.exit(1)


async def _discover(
    settings: Settings, source: Source, key: int, store: Store, http: Session, *, dry_run: bool
) -> list[ListedJob] | str:
    """Return the listed jobs of one source, or why its list could not be read or its jobs not be tracked."""
    if PRESETS[source.kind].format.jobs is None:
        return output.no_job_list(source.name)
    try:
        page = await _read(settings, source, key, store, http)
    except (SettingsError, ApiError) as e:
        return e.failure.message if isinstance(e, ApiError) else str(e)
    known = {job.id: job for job in await store.find_jobs([record.id for record in page.records], source.name)}
    job_filter = read_discovery(settings, source)
    listed = [_decide(source.name, record, known.get(record.id), job_filter) for record in page.records]
    unreadable = [reject for reject in page.rejects if not reject.is_stored]
    listed += [
        ListedJob(source.name, reject.id, "not tracked", f"unreadable: {reject.reason}") for reject in unreadable
    ]
    if dry_run:
        return listed
    try:
        return await _track(settings, key, store, listed)
    except CommandError as e:
        return str(e)


async def _read(settings: Settings, source: Source, key: int, store: Store, http: Session) -> JobPage:
    """Read a whole job list. Raises SettingsError without a key, and ApiError."""
    issued = await source.issue_key(names_source=False)
    fields, proxy = source.request_fields(issued and issued.key, names_source=False), open_proxy(source)
    limits = Limits(settings.page_size, settings.request_timeout_seconds)
    client = open_client(source, fields, proxy, http, limits)
    limiter = RateLimiter(store, key, source.request_interval, paid=0)
    records: dict[str, JobRecord] = {}
    rejects = []
    async for part in client.list_jobs(asyncio.get_running_loop().time() + LIST_SECONDS, limiter.wait):
        page = read_jobs(part.items, client.holds_secret, client.format.read_record)
        records.update((record.id, record) for record in page.records)
        rejects += page.rejects
    return JobPage(list(records.values()), rejects)


def _decide(source: str, record: JobRecord, known: Job | None, job_filter: JobFilter | None) -> ListedJob:
    """Return a job with what discovery does with it. `job_filter` is None if the source discovers no jobs."""
    reason = None
    if known is None:
        reason = "discover is false" if job_filter is None else job_filter.mismatch(record)
    elif not known.tracked:
        reason = "it was untracked"
    decision: Literal["new", "tracked", "not tracked"] = "not tracked" if reason else "tracked" if known else "new"
    return ListedJob(source, record.id, decision, reason, record.status, record.model, record.created_at)


async def _track(settings: Settings, key: int, store: Store, listed: Sequence[ListedJob]) -> list[ListedJob]:
    """Track the new jobs, as far as the budget goes, and return all jobs with what was done. Raises CommandError."""
    leases = await job_lists.claim(store, key, settings.lease_seconds, settings.job_list_seconds, due_or_not=True)
    if not leases:
        raise CommandError("a daemon is reading this job list now, and tracks its jobs: run the command again")
    new = [job.fine_tuning_job_id for job in listed if job.decision == "new" and job.fine_tuning_job_id]
    per_day, done = settings.max_new_jobs_per_day, 0
    try:
        for start in range(0, len(new), JOBS_AT_A_TIME):
            part = new[start : start + JOBS_AT_A_TIME]
            left_out = (await job_lists.discover(store, leases[0], part, per_day)).left_out
            done += len(part) - left_out
            if left_out:
                break
    finally:
        await job_lists.finish(store, leases[0], settings.job_list_seconds, whole=False, error=None)
    untracked = set(new[done:])
    reason = f"more than {per_day} new jobs a day (CHECKPOINTD_MAX_NEW_JOBS_PER_DAY)"
    return [
        job._replace(decision="not tracked", reason=reason) if job.fine_tuning_job_id in untracked else job
        for job in listed
    ]
