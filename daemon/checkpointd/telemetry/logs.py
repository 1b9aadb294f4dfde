"""Logging: events with fields on standard error, without secrets."""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from checkpointd.redaction import Secrets

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("checkpointd")

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def is_journal(stream: TextIO) -> bool:
    """Say whether the journal reads a stream (systemd.exec(5), JOURNAL_STREAM): not what was redirected since."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def configure(log_format: str | None, level: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process; `secrets` are blotted out of every line, whatever it says."""
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    journal = is_journal(sys.stderr)
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
            return secrets.redact(value)
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
