"""The metrics of this process, and the counters and log lines of saved polls."""

from collections import Counter as Tally
from collections import defaultdict
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
from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.poll import Lease, SavedPoll
from checkpointd.telemetry.logs import log

# Otherwise each counter would have a second series with the time of its creation, which is always the process start.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()

ProcessCollector(registry=REGISTRY)
Info("checkpointd_build", "The version of this daemon.", registry=REGISTRY).info({"version": __version__})

POLLS: Final = Counter(
    "checkpointd_polls",
    "Saved polls by source and outcome: quiet, changed, or the class of the failure.",
    ["source", "outcome"],
    registry=REGISTRY,
)
REQUESTS: Final = Counter(
    "checkpointd_api_requests", "Requests to the provider, by source.", ["source"], registry=REGISTRY
)
CHECKPOINTS: Final = Counter(
    "checkpointd_checkpoints_stored", "New checkpoints stored, by source.", ["source"], registry=REGISTRY
)
REJECTS: Final = Counter(
    "checkpointd_rejected_items",
    "Checkpoints, job records and events that could not be read, wholly or in part, by source.",
    ["source"],
    registry=REGISTRY,
)
POLL_SECONDS: Final = Histogram(
    "checkpointd_poll_duration_seconds",
    "The time of a poll from its start to its last page.",
    buckets=(
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
        20,
        45,
    ),  # with the default lease a poll ends after 45 s at the latest
    registry=REGISTRY,
)
SAVE_SECONDS: Final = Histogram(
    "checkpointd_save_duration_seconds", "The time of a save of finished polls.", registry=REGISTRY
)
LAST_TICK: Final = Gauge(
    "checkpointd_last_tick_timestamp_seconds",
    "The time when the daemon last looked for due jobs, or 0 before the first time.",
    registry=REGISTRY,
)
READY: Final = Gauge("checkpointd_ready", "1 if the daemon can work, otherwise 0.", registry=REGISTRY)
DATABASE_UP: Final = Gauge(
    "checkpointd_database_up", "1 if the last use of the database succeeded, otherwise 0.", registry=REGISTRY
)
LOG_LINES_DROPPED: Final = Counter(
    "checkpointd_log_lines_dropped",
    "Log lines that were not written, because the reader of the log has stopped reading or the disk is full.",
    registry=REGISTRY,
)

LOGGED_JOBS: Final = 20
"""The most job ids in one log line."""


def create_series(sources: Iterable[str]) -> None:
    """Create the counters of each source with the value 0.

    Prometheus computes the increase of a series from its first sample, so a series that appears with the value 1 would
    show no increase.
    """
    for source in sources:
        for outcome in ("quiet", "changed"):
            POLLS.labels(source, outcome)
        for counter in (REQUESTS, CHECKPOINTS, REJECTS):
            counter.labels(source)


def record_saved(source: str, polls: Iterable[SavedPoll]) -> None:
    """Count and log the polls of one source that were committed.

    Failures are logged when the error class of a job changes, and recoveries once, with one line for many jobs.
    """
    polls = list(polls)
    for outcome, count in Tally(map(_outcome, polls)).items():
        POLLS.labels(source, outcome).inc(count)
    failed = defaultdict[str, list[SavedPoll]](list)
    recovered: list[str] = []
    for poll in polls:
        lease, error_class = poll.result.lease, poll.result.error_class
        if poll.new or poll.changed:
            CHECKPOINTS.labels(source).inc(poll.new)
            log.info("poll.changed", source=source, job=lease.id, new=poll.new, changed=poll.changed)
        if poll.rejected and not poll.result.quiet:  # the rejects of a quiet poll were counted and logged before
            REJECTS.labels(source).inc(poll.rejected)
            log.warning("poll.rejected", source=source, job=lease.id, items=poll.rejected, reason=_reason(poll))
        if poll.became_unstable:
            log.warning(
                "poll.unstable", source=source, job=lease.id, reason="each listing has other ids, times or values"
            )
        if error_class and error_class != lease.error_class:
            failed[error_class].append(poll)
        elif not error_class and lease.failures:
            recovered.append(lease.id)
    for error_class, failures in failed.items():
        jobs = [poll.result.lease.id for poll in failures]
        log.warning(
            "poll.failed", source=source, error_class=error_class, error=failures[0].result.error, **log_fields(jobs)
        )
    if recovered:
        log.info("poll.recovered", source=source, **log_fields(recovered))


def record_lost(source: str, leases: Sequence[Lease]) -> None:
    """Count and log the jobs of one source whose leases were lost again and again, which counts as a failed poll."""
    if leases:
        POLLS.labels(source, ErrorClass.LEASE_LOST).inc(len(leases))
        error = "the last polls did not end: a daemon was killed meanwhile, or could not save them"
        log.warning(
            "poll.failed", source=source, error_class=ErrorClass.LEASE_LOST, error=error,
            **log_fields([lease.id for lease in leases]),
        )  # fmt: skip


def _reason(poll: SavedPoll) -> str | None:
    """Return the reason of the first reject."""
    rejects = poll.result.listing.rejects if poll.result.listing else []
    return rejects[0].reason if rejects else None


def log_fields(jobs: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a log line about the polls of several jobs: their number, and the ids of the first jobs."""
    return {"polls": len(jobs), "jobs": list(jobs[:LOGGED_JOBS])}


def _outcome(poll: SavedPoll) -> str:
    """Return the label of a poll in POLLS."""
    return poll.result.error_class or ("changed" if poll.new or poll.changed else "quiet")
