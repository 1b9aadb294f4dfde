"""What the metrics tell from the database: how the sources and their jobs stand, whichever daemon polls them.

Read now and then, never at a scrape: a database that hangs does not hold up /metrics. Where they cannot be read they
are withdrawn, for an old number would say that all is well.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

from prometheus_client import Gauge

from checkpointd.domain.job_state import JobState
from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.metrics import REGISTRY

REFRESH_SECONDS: Final = 15.0
"""How often they are read."""

READ_SECONDS: Final = 5.0
"""How long that may take."""

RETRY_SECONDS: Final = 1.0

STATES: Final = ("ok", "paused", "refused")
PHASES: Final = tuple(state.value for state in JobState if state is not JobState.UNTRACKED)

SOURCE_STATE: Final = Gauge(
    "checkpointd_source_state", "1 for the state that a source is in, 0 for the others.", ["source", "state"],
    registry=REGISTRY,
)  # fmt: skip
TRACKED_JOBS: Final = Gauge(
    "checkpointd_tracked_jobs", "Tracked jobs, by source and phase.", ["source", "phase"], registry=REGISTRY
)
_OF_SOURCES: Final = {
    "stale": Gauge(
        "checkpointd_stale_jobs", "Tracked jobs that were not read completely for too long, by source.", ["source"],
        registry=REGISTRY,
    ),
    "failing": Gauge(
        "checkpointd_failing_jobs", "Tracked jobs whose last poll failed, by source.", ["source"],
        registry=REGISTRY,
    ),
    "unreadable": Gauge(
        "checkpointd_unreadable_jobs",
        "Tracked jobs whose last complete listing held an item that could not be read, by source.", ["source"],
        registry=REGISTRY,
    ),
    "suspected_gap": Gauge(
        "checkpointd_suspected_gap_jobs",
        "Jobs still followed of which a checkpoint was probably never seen, by source.", ["source"],
        registry=REGISTRY,
    ),
    "oldest_lag_seconds": Gauge(
        "checkpointd_oldest_lag_seconds",
        "The longest time since a job still followed was read completely, by source.", ["source"],
        registry=REGISTRY,
    ),
}  # fmt: skip
"""By the column that each shows."""


async def refresh_until_read(store: Store, health: Health) -> None:
    """Refresh the metrics, again and again until that succeeds."""
    while not await refresh(store, health):  # noqa: ASYNC110  # the database sends no event when it is back
        await asyncio.sleep(RETRY_SECONDS)


async def refresh(store: Store, health: Health) -> bool:
    """Read the metrics from the database, or withdraw them if that fails. Returns whether it succeeded."""
    rows: list[dict[str, Any]] | None = None
    with suppress(DatabaseUnavailableError), health.unit("counting"):
        async with database_deadline_in(READ_SECONDS):
            rows = await store.count_by_source()
    # Nothing is awaited from here on, so no scrape sees a part of it.
    for gauge in (SOURCE_STATE, TRACKED_JOBS, *_OF_SOURCES.values()):
        gauge.clear()
    for row in rows or ():
        for state in STATES:
            SOURCE_STATE.labels(row["source"], state).set(state == row["state"])
        for phase in PHASES:
            TRACKED_JOBS.labels(row["source"], phase).set(row[phase])
        for column, gauge in _OF_SOURCES.items():
            gauge.labels(row["source"]).set(row[column])
    return rows is not None
