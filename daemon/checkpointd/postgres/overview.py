"""Read what the commands and the metrics show. Each statement is its own transaction.

Every function may raise DatabaseUnavailableError.
"""

from collections.abc import Sequence
from typing import Any

from checkpointd.postgres import queries
from checkpointd.postgres.store import Store


async def list_jobs(store: Store) -> list[dict[str, Any]]:
    """Return all jobs that are or were tracked, as rows of the view `jobs`."""
    return [dict(row) for row in await store.fetch(queries.LIST_JOBS)]


async def list_freshness(store: Store) -> list[dict[str, Any]]:
    """Return the freshness of each tracked job, stale and failing ones first."""
    return [dict(row) for row in await store.fetch(queries.LIST_FRESHNESS)]


async def list_findings(store: Store) -> list[dict[str, Any]]:
    """Return the open findings, those about sources first, and then the latest."""
    return [dict(row) for row in await store.fetch(queries.LIST_FINDINGS, None, None, None)]


async def list_archive(store: Store, sources: Sequence[int]) -> list[dict[str, Any]]:
    """Return what is stored of each job of these sources, given by their keys, the incomplete ones first."""
    return [dict(row) for row in await store.fetch(queries.LIST_ARCHIVE, sources)]


async def count_archive(store: Store, sources: Sequence[int]) -> dict[str, int]:
    """Return how many jobs, complete lists, events and readable event lists these sources have."""
    return dict((await store.fetch(queries.COUNT_ARCHIVE, sources))[0])


async def list_sources(store: Store, configured: Sequence[str]) -> list[dict[str, Any]]:
    """Return the sources and their states, and which of them have one of the `configured` names."""
    return [dict(row) for row in await store.fetch(queries.LIST_SOURCES, configured)]


async def list_latest_losses(store: Store, limit: int) -> list[dict[str, Any]]:
    """Return the jobs with the newest checkpoints, and their latest losses."""
    return [dict(row) for row in await store.fetch(queries.LIST_LATEST_LOSSES, limit)]


async def count_everything(store: Store) -> dict[str, int]:
    """Return the numbers of jobs, checkpoints and changes."""
    return dict((await store.fetch(queries.COUNT_EVERYTHING))[0])


async def count_tracked_jobs(store: Store) -> dict[str, Any]:
    """Return the numbers of jobs that are tracked, due and failing, and the age of the last poll in seconds."""
    return dict((await store.fetch(queries.COUNT_TRACKED_JOBS))[0])


async def count_by_source(store: Store) -> list[dict[str, Any]]:
    """Return the state of each source, and the numbers of its tracked jobs by job state, and by kind of problem."""
    return [dict(row) for row in await store.fetch(queries.COUNT_BY_SOURCE)]


async def count_findings(store: Store) -> list[tuple[str, str, int]]:
    """Return the number of open findings of each source and kind, zeros included."""
    return [(row["source"], row["kind"], row["count"]) for row in await store.fetch(queries.COUNT_FINDINGS)]


async def count_unstable_jobs(store: Store) -> list[dict[str, Any]]:
    """Return the number of jobs of each source whose list never stabilises, and one of them."""
    return [dict(row) for row in await store.fetch(queries.COUNT_UNSTABLE_JOBS)]


async def read_server(store: Store) -> dict[str, Any]:
    """Return the version, the clock, the role and the session settings of the server."""
    return dict((await store.fetch(queries.READ_SERVER))[0])


async def find_missing_rights(store: Store) -> list[tuple[str, str]]:
    """Return each object on which this role lacks a privilege that polling needs, and the privilege."""
    return [(row["name"], row["privilege"]) for row in await store.fetch(queries.FIND_MISSING_RIGHTS)]


async def pick_jobs(store: Store) -> dict[str, str]:
    """Return one tracked job of each source that has any: name of the source → id of the job."""
    return {row["source"]: row["id"] for row in await store.fetch(queries.PICK_JOBS)}


async def find_open_rights(store: Store) -> list[tuple[str, str]]:
    """Return what everybody may do to the whole server, if readers log in, and the statements that revoke it."""
    return [(row["may"], row["remedy"]) for row in await store.fetch(queries.FIND_OPEN_RIGHTS)]
