"""Logs and metrics: what is seen from outside. Log lines are events with fields, on standard error."""

import collections
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from structlog.typing import EventDict, Processor, WrappedLogger

from checkpointd.reasons import explain
from checkpointd.redaction import Secrets
from checkpointd.write import Saved

REGISTRY: Final = CollectorRegistry()
POLLS: Final = Counter("checkpointd_polls", "Polls, by source and outcome.", ["source", "outcome"], registry=REGISTRY)
REQUESTS: Final = Counter("checkpointd_api_requests", "Requests made, by source.", ["source"], registry=REGISTRY)
CHECKPOINTS: Final = Counter(
    "checkpointd_checkpoints_stored", "New checkpoints stored, by source.", ["source"], registry=REGISTRY
)
REJECTS: Final = Counter(
    "checkpointd_rejected_items", "Items that could not be read, by source.", ["source"], registry=REGISTRY
)
POLL_SECONDS: Final = Histogram(
    "checkpointd_poll_seconds", "Time of a poll from its start to its last page.", registry=REGISTRY
)
SAVE_SECONDS: Final = Histogram("checkpointd_save_seconds", "Time of a save of finished polls.", registry=REGISTRY)
LAST_TICK: Final = Gauge(
    "checkpointd_last_tick_timestamp_seconds", "When due jobs were last claimed.", registry=REGISTRY
)
DATABASE_UP: Final = Gauge("checkpointd_database_up", "1 if the last use of the database succeeded.", registry=REGISTRY)

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("checkpointd")

_LIKE_A_SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_-]{16,}|(?i:bearer)\s+[^\s\"']+|(?<=://)[^\s:/@]*:\S+(?=@)|(?i:(?<=password=)[\"']?[^\s&\"']+)"
)
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def committed(source: str, saved: Iterable[Saved]) -> None:
    """Count and log what was committed for one source."""
    saved = list(saved)
    for outcome, count in _count_outcomes(saved).items():
        POLLS.labels(source, outcome).inc(count)
    for one in saved:
        lease = one.poll.lease
        if one.new or one.changed:
            CHECKPOINTS.labels(source).inc(one.new)
            log.info("poll.changed", source=source, job=lease.id, new=one.new, changed=one.changed)
        if one.rejected:
            REJECTS.labels(source).inc(one.rejected)
            log.warning("poll.rejected", source=source, job=lease.id, items=one.rejected)
        if one.poll.error_class and one.poll.error_class != lease.error_class:
            log.warning(
                "poll.failed", source=source, job=lease.id, error_class=one.poll.error_class, error=one.poll.error
            )
        elif not one.poll.error_class and lease.failures:
            log.info("poll.recovered", source=source, job=lease.id, after_failures=lease.failures)


def _count_outcomes(saved: Iterable[Saved]) -> collections.Counter[str]:
    """Count polls by outcome, for the log and the metrics."""
    return collections.Counter(s.poll.error_class or ("changed" if s.new or s.changed else "quiet") for s in saved)


_database_errors: dict[str, str] = {}


def database(work: str, error: Exception | None) -> None:
    """Note how a piece of work with the database went: a new kind of failure, and its end, are logged once each."""
    kind = type(error).__name__ if error else None
    if _database_errors.get(work) != kind:
        if error and kind:
            _database_errors[work] = kind
            log.warning("database.unavailable", work=work, error=explain(error))
        else:
            del _database_errors[work]
            log.info("database.recovered", work=work)
    DATABASE_UP.set(not _database_errors)


def problems() -> list[str]:
    """Say what keeps a running daemon from its work."""
    return [f"database: {work}: {kind}" for work, kind in _database_errors.items()]


def configure(log_format: str | None, level: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process; `secrets` are blotted out of every line, whatever it says."""
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    journal = "JOURNAL_STREAM" in os.environ
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
            return _LIKE_A_SECRET.sub("[secret]", secrets.blot(value))
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
