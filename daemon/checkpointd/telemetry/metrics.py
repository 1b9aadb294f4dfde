"""Metrics of this process, and what is counted and logged of saved polls."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from checkpointd import __version__
from checkpointd.domain.poll import SavedPoll
from checkpointd.telemetry.logs import log

# A second series for each counter would say no more than process_start_time_seconds does.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
Info("checkpointd_build", "The version that runs.", registry=REGISTRY).info({"version": __version__})
POLLS: Final = Counter("checkpointd_polls", "Polls, by source and outcome.", ["source", "outcome"], registry=REGISTRY)
REQUESTS: Final = Counter("checkpointd_api_requests", "Requests made, by source.", ["source"], registry=REGISTRY)
CHECKPOINTS: Final = Counter(
    "checkpointd_checkpoints_stored", "New checkpoints stored, by source.", ["source"], registry=REGISTRY
)
REJECTS: Final = Counter(
    "checkpointd_rejected_items", "Items that could not be read, by source.", ["source"], registry=REGISTRY
)
POLL_SECONDS: Final = Histogram(
    "checkpointd_poll_duration_seconds",
    "Time of a poll from its start to its last page.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45),  # three quarters of the default lease are the end of a poll
    registry=REGISTRY,
)
SAVE_SECONDS: Final = Histogram(
    "checkpointd_save_duration_seconds", "Time of a save of finished polls.", registry=REGISTRY
)
LAST_TICK: Final = Gauge(
    "checkpointd_last_tick_timestamp_seconds", "When the daemon last looked for due jobs.", registry=REGISTRY
)
READY: Final = Gauge("checkpointd_ready", "1 if nothing keeps the daemon from its work.", registry=REGISTRY)
DATABASE_UP: Final = Gauge("checkpointd_database_up", "1 if the last use of the database succeeded.", registry=REGISTRY)

SHOWN_JOBS: Final = 20
"""A line of the log names so many jobs."""


def expect(sources: Iterable[str]) -> None:
    """Show each source's counters from the start: a rise from nothing to one is no rise to Prometheus."""
    for source in sources:
        for outcome in ("quiet", "changed"):
            POLLS.labels(source, outcome)
        for counter in (REQUESTS, CHECKPOINTS, REJECTS):
            counter.labels(source)


def committed(source: str, saved: Iterable[SavedPoll]) -> None:
    """Count and log what was committed for one source."""
    saved = list(saved)
    for outcome, count in _count_outcomes(saved).items():
        POLLS.labels(source, outcome).inc(count)
    failed = collections.defaultdict[str, list[SavedPoll]](list)
    recovered: list[str] = []
    for one in saved:
        lease = one.result.lease
        if one.new or one.changed:
            CHECKPOINTS.labels(source).inc(one.new)
            log.info("poll.changed", source=source, job=lease.id, new=one.new, changed=one.changed)
        if one.rejected and not one.result.quiet:  # those of an equal listing were told of
            REJECTS.labels(source).inc(one.rejected)
            log.warning("poll.rejected", source=source, job=lease.id, items=one.rejected)
        if one.result.error_class and one.result.error_class != lease.error_class:
            failed[one.result.error_class].append(one)
        elif not one.result.error_class and lease.failures:
            recovered.append(lease.id)
    for kind, polls in failed.items():
        jobs = [one.result.lease.id for one in polls]
        log.warning("poll.failed", source=source, error_class=kind, error=polls[0].result.error, **some(jobs))
    if recovered:
        log.info("poll.recovered", source=source, **some(recovered))


def some(jobs: Sequence[str]) -> dict[str, Any]:
    """Return how many jobs a line of the log is about, and the first of them."""
    return {"polls": len(jobs), "jobs": list(jobs[:SHOWN_JOBS])}


def _count_outcomes(saved: Iterable[SavedPoll]) -> collections.Counter[str]:
    """Count polls by outcome, for the log and the metrics."""
    return collections.Counter(s.result.error_class or ("changed" if s.new or s.changed else "quiet") for s in saved)
