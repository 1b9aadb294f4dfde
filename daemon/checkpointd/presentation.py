"""Values and states as text, for the terminal and the status page. Pure."""

import json
import math
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

DECIMALS: Final = 4
"""Of a loss or an accuracy: what differs beyond them is noise."""


def visible(text: str) -> str:
    """Return text whose every character shows and keeps its place.

    Line breaks and tabs are blanks; what steers a terminal, turns the direction of writing or does not show is �.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def cut(text: str, most: int) -> str:
    """Return at most so many characters of a text, with … for the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plural(noun: str, number: int) -> str:
    """Return a noun as it goes with so many."""
    return noun if number == 1 else f"{noun}s"


def number(value: float | None) -> str:
    """Return a metric: four decimals, or a power of ten where they would not tell it; nothing for none."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value) or 10**-DECIMALS <= abs(value) < 10**5:
        return f"{value:.{DECIMALS}f}"
    return f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units; one below a second is 0 s."""
    whole = int(abs(seconds))
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // lesser_size
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def ago(then: datetime, now: datetime) -> str:
    """Return how long ago something was, or in how long it will be."""
    seconds = (now - then).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(seconds)}"


def clock(then: datetime) -> str:
    """Return a time to the second; the database gives UTC."""
    return f"{then:%Y-%m-%d %H:%M:%S} UTC"


_TONES: Final = {
    "running": "live", "succeeded": "good", "failed": "bad", "active": "live", "missing": "bad", "gone": "bad",
    "forbidden": "bad",
}  # fmt: skip
_SOURCE_TONES: Final = {"ok": "good", "paused": "warn", "refused": "bad"}


OVERDUE: Final = timedelta(days=7)
"""An end that was expected longer ago tells nothing."""


class Row(Protocol):
    """A row of a view: its columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...  # noqa: ANN401  # whatever a column holds


class Said(NamedTuple):
    """Something in words, and its tone."""

    tone: str
    text: str


class Progress(NamedTuple):
    """How far a training is: ended epochs of how many, where that is known, and when it is expected to end."""

    epoch: int | None
    epochs: int | None
    expected: str | None


def tone(status: str | None) -> str:
    """Return the tone of a job's status or phase; a word that nobody knows is quiet."""
    return _TONES.get((status or "").casefold(), "quiet")


def source_tone(state: str) -> str:
    """Return the tone of a source's state."""
    return _SOURCE_TONES.get(state, "quiet")


def freshness(job: Row, age: float | None) -> Said:
    """Say how far what is stored of a job can be believed; `age` in seconds: since it was last read to the end."""
    phase, read = job["phase"], "never read" if age is None else f"read {duration(age)} ago"
    if phase == "untracked":
        return Said("quiet", "not tracked any more")
    if phase == "sealed":
        return Said("quiet", "complete")
    if phase in {"missing", "gone", "forbidden"}:
        return Said("bad", f"{phase}, {read}")
    if job["is_stale"]:
        return Said("bad", f"stale, {read}")
    if job["consecutive_failures"]:
        return Said("warn", read)
    return Said("quiet", "not read yet") if age is None else Said("good", read)


def failing(job: Row) -> str:
    """Say how often in a row polls of a job failed, and why the last one did; nothing where none did."""
    failures = job["consecutive_failures"] or 0
    return f"{failures:,} failed {plural('poll', failures)}: {job['last_error']}" if failures else ""


def trouble(job: Row) -> str:
    """Say that polls of a job fail, and that items of its list cannot be read, if so."""
    complete, success = job["last_complete_at"], job["last_success_at"]
    unreadable = complete is not None and (success is None or success < complete)
    told = "items of its last complete list cannot be read: see fine_tuning.rejects" if unreadable else ""
    return "; ".join(filter(None, (failing(job), told)))


def progress(job: Row, epoch: int | None, now: datetime) -> Progress:
    """Say how far a job is; `epoch` is the last one that a checkpoint ended."""
    epochs = hyperparameters(job["hyperparameters"]).get("n_epochs", "").removesuffix(".0")
    expected = None
    if job["finished_at"] is None and (at := job["estimated_finish"]) is not None and now - at < OVERDUE:
        expected = f"end expected {ago(at, now)}" if at > now else f"end was expected {at:%Y-%m-%d %H:%M} UTC"
    epoch = epoch if job["checkpoint_count"] else 0
    return Progress(epoch, int(epochs) if epochs.isdecimal() and len(epochs) < 7 else None, expected)


def hyperparameters(received: str | None) -> dict[str, str]:
    """Return a job's hyperparameters in words; what is no object has none."""
    found = _read(received)
    if not isinstance(found, dict):
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def provider_error(received: str | None) -> str | None:
    """Return a job's error in words; providers send null, {} and objects of nulls for none."""
    found = _read(received)
    if isinstance(found, dict):
        said = [str(found[name]) for name in ("code", "message") if found.get(name)]
        return ": ".join(said) or (json.dumps(found) if any(found.values()) else None)
    return str(found) if found else None


def _read(received: str | None) -> object:
    try:
        return json.loads(received) if received else None
    except (ValueError, RecursionError):
        return None
