"""Logs and metrics: what is seen from outside. Log lines are events with fields, on standard error."""

import collections
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from structlog.typing import EventDict, Processor, WrappedLogger

from checkpointd import __version__
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.errors import explain
from checkpointd.postgres.save_rows import Saved
from checkpointd.redaction import Secrets
from checkpointd.service import systemd

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

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("checkpointd")

SHOWN_JOBS: Final = 20
"""A line of the log names so many jobs."""

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def expect(sources: Iterable[str]) -> None:
    """Show each source's counters from the start: a rise from nothing to one is no rise to Prometheus."""
    for source in sources:
        for outcome in ("quiet", "changed"):
            POLLS.labels(source, outcome)
        for counter in (REQUESTS, CHECKPOINTS, REJECTS):
            counter.labels(source)


def committed(source: str, saved: Iterable[Saved]) -> None:
    """Count and log what was committed for one source."""
    saved = list(saved)
    for outcome, count in _count_outcomes(saved).items():
        POLLS.labels(source, outcome).inc(count)
    failed = collections.defaultdict[str, list[Saved]](list)
    recovered: list[str] = []
    for one in saved:
        lease = one.poll.lease
        if one.new or one.changed:
            CHECKPOINTS.labels(source).inc(one.new)
            log.info("poll.changed", source=source, job=lease.id, new=one.new, changed=one.changed)
        if one.rejected and not one.poll.quiet:  # those of an equal listing were told of
            REJECTS.labels(source).inc(one.rejected)
            log.warning("poll.rejected", source=source, job=lease.id, items=one.rejected)
        if one.poll.error_class and one.poll.error_class != lease.error_class:
            failed[one.poll.error_class].append(one)
        elif not one.poll.error_class and lease.failures:
            recovered.append(lease.id)
    for kind, polls in failed.items():
        jobs = [one.poll.lease.id for one in polls]
        log.warning("poll.failed", source=source, error_class=kind, error=polls[0].poll.error, **some(jobs))
    if recovered:
        log.info("poll.recovered", source=source, **some(recovered))


def some(jobs: Sequence[str]) -> dict[str, Any]:
    """Return how many jobs a line of the log is about, and the first of them."""
    return {"polls": len(jobs), "jobs": list(jobs[:SHOWN_JOBS])}


def _count_outcomes(saved: Iterable[Saved]) -> collections.Counter[str]:
    """Count polls by outcome, for the log and the metrics."""
    return collections.Counter(s.poll.error_class or ("changed" if s.new or s.changed else "quiet") for s in saved)


_database_errors: dict[str, tuple[str, str]] = {}
"""Work that fails: the kind of its error, and the error in words."""


def database(work: str, error: Exception | None) -> None:
    """Note how a piece of work with the database went: a new kind of failure, and its end, are logged once each."""
    known = _database_errors.pop(work, None)
    if error:
        kind, reason = type(error).__name__, explain(error)
        _database_errors[work] = (kind, reason)
        if known is None or known[0] != kind:
            log.warning("database.unavailable", work=work, error=reason)
    elif known:
        log.info("database.recovered", work=work)
    DATABASE_UP.set(not _database_errors)


def problems() -> list[str]:
    """Say what keeps a running daemon from its work, in words and without secrets: each reason once."""
    works = collections.defaultdict[str, list[str]](list)
    for work, (_, reason) in _database_errors.items():
        works[reason].append(work)
    return [f"database: {', '.join(failed)} failed: {reason}" for reason, failed in works.items()]


_source_states: dict[str, str] = {}
"""Sources that turn this daemon away: refused or paused."""


def source(name: str, failure: Failure | None) -> None:
    """Note how a source answered: that it turns this daemon away, and that it no longer does, is logged once each."""
    known = _source_states.pop(name, None)
    if failure:
        state = _source_states[name] = "refused" if failure.error_class is ErrorClass.REFUSED else "paused"
        if state != known:
            event = {"refused": "source.refused", "paused": "source.paused"}[state]
            log.warning(event, source=name, error_class=failure.error_class, error=failure.message)
    elif known:
        log.info("source.recovered", source=name)


def troubled_sources() -> list[str]:
    """Say which sources turn this daemon away."""
    return [f"source {name} {state}" for name, state in _source_states.items()]


def configure(log_format: str | None, level: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process; `secrets` are blotted out of every line, whatever it says."""
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    journal = systemd.is_journal(sys.stderr)
    # A record that cannot be formatted would else be printed as it is, secrets and all.
    logging.raiseExceptions = False
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        if chosen == "json"
        else structlog.processors.ExceptionRenderer(),
        _redact(Secrets(secrets)),
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if chosen == "console"
        else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _note_priority,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _rendered(renderer, with_priority=journal),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("apscheduler", "asyncio", "aiohttp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _redact(secrets: Secrets) -> Processor:
    def clean(value: Any) -> Any:  # noqa: ANN401  # whatever an event carries
        if isinstance(value, str):
            return secrets.blot(value)
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [clean(inner) for inner in value]
        return value if isinstance(value, int | float | bool | None) else clean(str(value))

    def processor(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {key: inner if key.startswith("_") else clean(inner) for key, inner in event.items()}

    return processor


def _note_priority(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["_priority"] = _PRIORITY.get(event.get("level", "info"), 6)
    return event


def _rendered(renderer: Processor, *, with_priority: bool) -> Callable[[WrappedLogger, str, EventDict], str]:
    """Put the journal's priority before the line (sd-daemon(3)) where the journal reads it."""

    def render(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = event.pop("_priority")
        line = str(renderer(logger, name, event))
        return f"<{priority}>{line}" if with_priority else line

    return render
