"""How a job and a source stand, in words and in a tone: `live`, `good`, `warn`, `bad` or `quiet`. Pure."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from checkpointd import words

_TONES: Final = {
    "running": "live", "succeeded": "good", "failed": "bad", "active": "live", "missing": "bad", "gone": "bad",
    "forbidden": "bad",
}  # fmt: skip
_SOURCE_TONES: Final = {"ok": "good", "paused": "warn", "refused": "bad"}
Row = Mapping[str, Any]


class Said(NamedTuple):
    """Something in words, and its tone."""

    tone: str
    text: str


class Progress(NamedTuple):
    """How far a training is: ended epochs of how many, where both are known, and when it is expected to end."""

    epoch: int | None
    epochs: int | None
    expected: str | None


def tone(status: str | None) -> str:
    """Return the tone of a job's status or phase; a word that nobody knows is quiet."""
    return _TONES.get((status or "").casefold(), "quiet")


def source_tone(state: str) -> str:
    """Return the tone of a source's state."""
    return _SOURCE_TONES.get(state, "quiet")


def freshness(job: Row, now: datetime) -> Said:
    """Say how far what is stored of a job can be believed."""
    phase, read_at, failures = job["phase"], job["last_complete_at"], job["consecutive_failures"] or 0
    read = "never read" if read_at is None else f"read {words.ago(read_at, now)}"
    failed = f", {failures:,} failed poll{'s' if failures > 1 else ''} since" if failures else ""
    if phase == "untracked":
        return Said("quiet", f"not tracked any more, {read}")
    if phase == "sealed":
        return Said("quiet", "complete")
    if phase in {"missing", "gone", "forbidden"}:
        return Said("bad", f"{phase} at the provider, {read}")
    if job["is_stale"]:
        return Said("bad", f"stale: {read}{failed}")
    if failures:
        return Said("warn", f"{read}{failed}")
    return Said("quiet", "not read yet") if read_at is None else Said("good", read)


def progress(job: Row, epoch: int | None, now: datetime) -> Progress:
    """Say how far a job is; `epoch` is the last one that a checkpoint ended."""
    epochs = hyperparameters(job["hyperparameters"]).get("n_epochs", "")
    expected = None
    if job["finished_at"] is None and (at := job["estimated_finish"]) is not None:
        expected = "end expected " + (words.ago(at, now) if at > now else f"{at:%Y-%m-%d %H:%M}")
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
