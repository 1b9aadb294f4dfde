"""Metrics of the sources, their jobs and the webhooks, read from the database. All daemons that share it have the same.

They are read at intervals and not during a scrape, so that a database that hangs does not delay /metrics. If a reading
fails, the metrics are removed, because old numbers would hide the problem.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from prometheus_client import Gauge

from checkpointd.domain.attribution import SourceState
from checkpointd.domain.job_state import JobState
from checkpointd.postgres import overview
from checkpointd.postgres.connection import database_deadline_in
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.postgres.webhooks import list_webhooks
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.metrics import REGISTRY

REFRESH_SECONDS: Final = 15.0
"""The interval between two readings."""

READ_SECONDS: Final = 5.0
"""The longest time of one reading."""

RETRY_SECONDS: Final = 1.0
"""The delay before a failed reading is tried again."""

STATES: Final = tuple(SourceState)
PHASES: Final = tuple(state.value for state in JobState if state is not JobState.UNTRACKED)


def _gauge(name: str, help_text: str, *further_labels: str) -> Gauge:
    return Gauge(name, help_text, ["source", *further_labels], registry=REGISTRY)


SOURCE_STATE: Final = _gauge(
    "checkpointd_source_state", "1 for the state that the source is in, 0 for the others.", "state"
)
TRACKED_JOBS: Final = _gauge("checkpointd_tracked_jobs", "Tracked jobs by source and phase.", "phase")
UNCONFIGURED_JOBS: Final = _gauge(
    "checkpointd_unconfigured_jobs",
    "Tracked jobs of a source that is not in the settings of this daemon, which does not poll them, by source.",
)
NEW_JOBS_LEFT_OUT: Final = _gauge(
    "checkpointd_new_jobs_left_out",
    "1 if discovery leaves out new jobs, because more are new than max_new_jobs_per_day permits, by source.",
)
OPEN_FINDINGS: Final = _gauge("checkpointd_open_findings", "Open findings by source and kind.", "kind")

_GAUGES_BY_COLUMN: Final = {
    "stale": _gauge("checkpointd_stale_jobs", "Tracked jobs whose last complete listing is too old, by source."),
    "failing": _gauge("checkpointd_failing_jobs", "Tracked jobs whose last poll failed, by source."),
    "unreadable": _gauge(
        "checkpointd_unreadable_jobs",
        "Tracked jobs whose last complete listing had an item of which nothing could be stored, by source.",
    ),
    "suspected_gap": _gauge(
        "checkpointd_suspected_gap_jobs",
        "Tracked jobs, except sealed and gone ones, of which a checkpoint was probably never seen, by source.",
    ),
    "unstable": _gauge(
        "checkpointd_unstable_jobs",
        "Tracked jobs, except sealed and gone ones, whose list of checkpoints never stabilises, by source.",
    ),
    "expiring": _gauge(
        "checkpointd_expiring_checkpoints",
        "Listed checkpoints of tracked jobs, except gone ones, that expire within three days, by source.",
    ),
    "oldest_lag_seconds": _gauge(
        "checkpointd_oldest_lag_seconds",
        "The longest time since the last complete listing of a tracked job that is neither sealed nor gone, by source.",
    ),
}
"""The gauges that each show one column of count_by_source.sql."""


def _webhook_gauge(name: str, help_text: str) -> Gauge:
    return Gauge(name, help_text, ["webhook"], registry=REGISTRY)


_WEBHOOK_GAUGES_BY_COLUMN: Final = {
    "failures": _webhook_gauge(
        "checkpointd_webhook_failures", "Attempts in a row that failed, 0 if the last one did not, by webhook."
    ),
    "lag_seconds": _webhook_gauge(
        "checkpointd_webhook_lag_seconds", "Age of the oldest change that the webhook has not looked at, by webhook."
    ),
    "undelivered_count": _webhook_gauge(
        "checkpointd_webhook_undelivered_messages", "Messages that ended without a delivery, by webhook."
    ),
}
"""The gauges that each show one column of the view webhooks."""


async def refresh_until_read(store: Store, health: Health, configured: Sequence[str], webhooks: Sequence[str]) -> None:
    """Refresh the metrics, and try again until that succeeds."""
    while not await refresh(store, health, configured, webhooks):  # noqa: ASYNC110  # the database sends no event when it is back
        await asyncio.sleep(RETRY_SECONDS)


async def refresh(store: Store, health: Health, configured: Sequence[str], webhooks: Sequence[str] = ()) -> bool:
    """Read the metrics from the database, or remove them if that fails. Returns whether it succeeded.

    `configured` are the names of the sources in the settings, and `webhooks` those of the webhooks: others have no
    metrics, because nothing is sent to them. The health records which sources are not configured.
    """
    rows: list[dict[str, Any]] | None = None
    sources: list[dict[str, Any]] = []
    findings: list[tuple[str, str, int]] = []
    deliveries: list[dict[str, Any]] = []
    with suppress(DatabaseUnavailableError), health.unit("counting"):
        async with database_deadline_in(READ_SECONDS):
            sources = await overview.list_sources(store, configured)
            findings = await overview.count_findings(store)
            deliveries = await list_webhooks(store) if webhooks else []
            rows = await overview.count_by_source(store)
    # There is no await from here on, so that a scrape returns either all of the new values or none.
    for gauge in (
        *(SOURCE_STATE, TRACKED_JOBS, UNCONFIGURED_JOBS, NEW_JOBS_LEFT_OUT, OPEN_FINDINGS),
        *(*_GAUGES_BY_COLUMN.values(), *_WEBHOOK_GAUGES_BY_COLUMN.values()),
    ):
        gauge.clear()
    _show_counts(rows or ())
    if rows is not None:
        for source in sources:
            NEW_JOBS_LEFT_OUT.labels(source["name"]).set(source["jobs_left_out_at"] is not None)
            UNCONFIGURED_JOBS.labels(source["name"]).set(0 if source["is_configured"] else source["jobs"])
        for name, kind, count in findings:
            OPEN_FINDINGS.labels(name, kind).set(count)
        _show_webhooks(row for row in deliveries if row["name"] in webhooks)
        health.record_names(sources)
    return rows is not None


def _show_counts(rows: Iterable[Mapping[str, Any]]) -> None:
    """Show the rows of count_by_source.sql."""
    for row in rows:
        for state in STATES:
            SOURCE_STATE.labels(row["source"], state).set(state == row["state"])
        for phase in PHASES:
            TRACKED_JOBS.labels(row["source"], phase).set(row[phase])
        for column, gauge in _GAUGES_BY_COLUMN.items():
            gauge.labels(row["source"]).set(row[column])


def _show_webhooks(rows: Iterable[Mapping[str, Any]]) -> None:
    """Show rows of the view webhooks."""
    for row in rows:
        for column, gauge in _WEBHOOK_GAUGES_BY_COLUMN.items():
            gauge.labels(row["name"]).set(row[column])
