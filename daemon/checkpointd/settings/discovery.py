"""The setting `discover` of a source: whether the jobs that it lists are tracked, or filters for them. Pure."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

from checkpointd.provider.formats.presets import PRESETS

PATTERN_CHARACTERS: Final = 128


class Discovery(NamedTuple):
    """Filters for the jobs that are tracked. Each is None if it is not given."""

    model: tuple[str, ...] | None = None
    suffix: tuple[str, ...] | None = None
    status: tuple[str, ...] | None = None
    metadata: Mapping[str, tuple[str, ...]] | None = None
    created_after: float | None = None
    """In Unix seconds."""


def discovery(value: object, kind: str) -> bool | Discovery:
    """Return the setting that a value of the file means, for a source of a kind.

    Raises ValueError, also if it could never track a job: the kind has no job list, or its list lacks the value.
    """
    found = value if isinstance(value, bool | Discovery) else _filters(value)
    form = PRESETS[kind].format
    if found and form.jobs is None:
        raise ValueError(f"kind {kind} has no job list: remove it, and track each job by its id")
    for name in Discovery._fields if isinstance(found, Discovery) else ():
        if getattr(found, name) is not None and name not in form.filters:
            names = ", ".join(possible for possible in Discovery._fields if possible in form.filters)
            raise ValueError(f"{name}: the job list of kind {kind} lacks it, so no job would match: use only {names}")
    return found


def _filters(value: object) -> Discovery:
    names = ", ".join(Discovery._fields[:-1]) + f" or {Discovery._fields[-1]}"
    if not isinstance(value, dict) or not value:
        raise ValueError(f"must be true, false or a table of filters: {names}")
    if unknown := [str(name) for name in value if name not in Discovery._fields]:
        raise ValueError(f"no such filter: {unknown[0][:40]!r}; the filters are {names}")
    return Discovery(**{name: _READERS.get(name, _patterns)(name, given) for name, given in value.items()})


def _patterns(name: str, value: object) -> tuple[str, ...]:
    patterns = value if isinstance(value, list) else [value]
    if not patterns or not all(isinstance(p, str) and 0 < len(p) <= PATTERN_CHARACTERS for p in patterns):
        raise ValueError(f"{name}: must be a pattern such as 'gpt-4.1*', or a list of patterns")
    return tuple(patterns)


def _metadata(name: str, value: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name}: must be a table of patterns, such as {{ team = 'research' }}")
    return {entry: _patterns(f"{name}.{entry[:40]}", patterns) for entry, patterns in value.items()}


def _time(name: str, value: object) -> float:
    advice = "must be a date, or a time with its zone, such as 2026-11-01 or 2026-11-01T12:00:00Z"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if len(value) > len("2026-11-01") else date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{name}: {advice}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{name}: {advice}")
    return value.timestamp()


_READERS: Final[Mapping[str, Any]] = {"metadata": _metadata, "created_after": _time}
"""How the filters are read that are not patterns of a text."""
