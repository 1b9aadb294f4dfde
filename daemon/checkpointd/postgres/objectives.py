"""Set objectives: by which metric the best checkpoint of a job is chosen. Each statement is its own transaction.

Every function may raise DatabaseUnavailableError.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from checkpointd.domain.job import Job
from checkpointd.postgres import connection, queries
from checkpointd.postgres.store import Store

JOBS_AT_ONCE: Final = 100
"""For how many jobs one statement chooses the best checkpoint again. It keeps their rows locked: for 0.1 s with a
hundred checkpoints each, after which a save that met them is tried again."""


async def set_source_objectives(store: Store, objectives: Mapping[int, tuple[str, str] | None]) -> None:
    """Set the objectives of sources, by key: a metric and `minimize` or `maximize`, or None for the default.

    The best checkpoints of the jobs that follow their source are chosen again if the objective is another one. A job
    whose row stays locked for longer than LOCK_RETRY_DELAYS follows at its next change, or at the next call.
    """
    given = [objective or (None, None) for objective in objectives.values()]
    metrics, directions = [metric for metric, _ in given], [direction for _, direction in given]
    await store.fetch(queries.SET_SOURCE_OBJECTIVES, list(objectives), metrics, directions)
    for delay in (0, *connection.LOCK_RETRY_DELAYS):
        await asyncio.sleep(delay)
        followed, are_left = JOBS_AT_ONCE, True
        while followed and are_left:
            followed, are_left = (await store.fetch(queries.FOLLOW_OBJECTIVES, JOBS_AT_ONCE))[0]
        if not are_left:
            return


async def set_objective(store: Store, job: Job, objective: tuple[str, str] | None) -> dict[str, Any] | None:
    """Set the objective of a job, or return to that of its source. Returns its best checkpoint.

    The row has the objective that applies now. It is None if the job has no checkpoints.
    """
    await store.fetch(queries.SET_OBJECTIVE, job.key, *(objective or (None, None)))
    rows = await store.fetch(queries.READ_BEST_CHECKPOINT, job.source_name, job.id)
    return dict(rows[0]) if rows else None
