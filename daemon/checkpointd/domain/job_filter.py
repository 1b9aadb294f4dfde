"""Which listed jobs discovery tracks. Pure.

All filters that are given must match; of several patterns, one. In a pattern, * is any text and ? any character.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from checkpointd.domain.job import JobRecord

Patterns = Sequence[str]

MATCHED_CHARACTERS: Final = 1000
"""So many characters of a value are compared with patterns. Names that people choose are shorter."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Filters for the records of a job list. A filter that is None, or empty, lets every job pass."""

    model: Patterns | None = None
    """Patterns of the model that is trained."""
    suffix: Patterns | None = None
    """Patterns of the text that the user added to the name of the trained model."""
    status: Patterns | None = None
    """Patterns of the status, in upper or lower case."""
    metadata: Mapping[str, Patterns] | None = None
    """Patterns of entries of the metadata, by their names."""
    created_after: float | None = None
    """The Unix time before which no job was created that passes."""

    def mismatch(self, record: JobRecord) -> str | None:
        """Return why a job does not pass, or None if it does. A value that is missing matches nothing."""
        if self.created_after is not None and (record.created_at is None or record.created_at < self.created_after):
            return "created too early" if record.created_at is not None else "no time of creation"
        if self.status and not _matches((record.status or "").casefold(), [p.casefold() for p in self.status]):
            return f"status {record.status or 'unknown'}"
        if self.model and not _matches(record.model, self.model):
            return f"model {record.model}" if record.model else "no model"
        if self.suffix and not _matches(suffix := _suffix(record), self.suffix):
            return f"suffix {suffix}" if suffix else "no suffix"
        entries = _load(record.metadata) if self.metadata and record.metadata else {}
        for name, patterns in (self.metadata or {}).items():
            value = entries.get(name) if isinstance(entries, dict) else None
            if not _matches(value, patterns):
                return f"metadata {name} = {value}" if isinstance(value, str) else f"no text as metadata {name}"
        return None


ALL_JOBS: Final = JobFilter()

ALL_FILTERS: Final = frozenset(field.name for field in fields(JobFilter))
"""The names of the filters."""


def _load(document: str) -> Any:  # noqa: ANN401  # JSON
    return json.loads(document, parse_int=float)  # int() raises an error for thousands of digits


def _suffix(record: JobRecord) -> str | None:
    """Return the suffix as OpenAI or, if that is missing, as other providers name it."""
    payload = _load(record.payload)
    return next((value for name in ("user_provided_suffix", "suffix") if (value := payload.get(name))), None)


def _matches(value: object, patterns: Patterns) -> bool:
    """Return whether a value is a text that is not empty and matches one of the patterns."""
    if not isinstance(value, str) or not value:
        return False
    return any(_regex(pattern).fullmatch(value[:MATCHED_CHARACTERS]) for pattern in patterns)


def _regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern. The module `re` remembers those that were compiled.

    Each text between two * is searched once: the groups are atomic, so its first place is final. Other places could
    not match more, and trying them all would take a time that grows with each *.
    """
    first, *others = ("".join("." if c == "?" else re.escape(c) for c in part) for part in pattern.split("*"))
    between = "".join(f"(?>.*?{part})" for part in others[:-1])
    return re.compile(first + between + "".join(f".*{last}" for last in others[-1:]), re.DOTALL)
