"""Logging: events with fields, without secrets, written to standard error."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from checkpointd.telemetry.hidden import hide, redact
from checkpointd.telemetry.journal import is_journal

log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("checkpointd")

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""The syslog priority of each level, as the journal expects it (sd-daemon(3))."""

_VERBOSE_LIBRARIES: Final = ("apscheduler", "asyncio", "aiohttp")
"""Libraries whose debug and info messages are never logged, whatever `level` is."""


def configure(log_format: str | None, level: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process.

    `log_format` is "json" or "console"; the default is "console" on a terminal and "json" elsewhere. `secrets` are
    removed from every line, also from the lines of libraries.
    """
    chosen = log_format or ("console" if sys.stderr.isatty() else "json")
    # If a record cannot be formatted, logging would print its raw arguments, which may be secrets.
    logging.raiseExceptions = False
    hide(secrets)
    warnings.showwarning = lambda message, *_: log.warning("python.warning", text=str(message))
    processors = _processors(chosen)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=processors,
            processors=[
                structlog.stdlib.ExtraAdder({"repeated"}),
                structlog.processors.MaybeTimeStamper(fmt="iso", utc=True),  # the time at which a count is written
                _add_priority,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _render_with_priority(_renderer(chosen), shows_priority=is_journal(sys.stderr)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in _VERBOSE_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _processors(log_format: str) -> list[Processor]:
    """Return the processors for all log records: those of this package and those of libraries."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        if log_format == "json"
        else structlog.processors.ExceptionRenderer(),
        _redact,
    ]


def _renderer(log_format: str) -> Processor:
    """Return the processor that turns an event into a line."""
    if log_format == "console":
        return structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(default=str)


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Remove the secrets from all values of an event, however deeply nested."""
    return {key: inner if key.startswith("_") else _clean(inner) for key, inner in event.items()}


def _clean(value: Any) -> Any:  # noqa: ANN401  # any value of a log event
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value if isinstance(value, int | float | bool | None) else _clean(str(value))


def _add_priority(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["_priority"] = _PRIORITIES.get(event.get("level", "info"), 6)
    return event


def _render_with_priority(
    renderer: Processor, *, shows_priority: bool
) -> Callable[[WrappedLogger, str, EventDict], str]:
    """Return a renderer that puts the priority before the line (sd-daemon(3)) if `shows_priority`."""

    def render(logger: WrappedLogger, name: str, event: EventDict) -> str:
        priority = event.pop("_priority")
        line = str(renderer(logger, name, event))
        return f"<{priority}>{line}" if shows_priority else line

    return render
