"""Values and states as text, for the terminal and the status page. Pure."""

import json
import math
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

DECIMALS: Final = 4
"""Decimals of a loss or an accuracy. Smaller differences are noise."""

OVERDUE: Final = timedelta(days=7)
"""An expected end that passed longer ago than this is not shown: the estimate was wrong."""

_JOB_TONES: Final = {
    "running": "live",
    "active": "live",
    "succeeded": "good",
    "completed": "good",
    "failed": "bad",
    "error": "bad",
    "missing": "bad",
    "gone": "bad",
    "forbidden": "bad",
}
_FINDING_TONES: Final = {"finished": "good", "failed": "bad", "diverging": "bad", "source_refused": "bad"}
_EXTREMES: Final = {"minimize": "smallest", "maximize": "largest"}
_LEVEL_TONES: Final = {"error": "bad", "warn": "warn", "warning": "warn"}
_SOURCE_TONES: Final = {"ok": "good", "paused": "warn", "refused": "bad", "failing": "bad"}


class Row(Protocol):
    """A row of a view: its columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...  # noqa: ANN401  # any type of a column


class Label(NamedTuple):
    """A short text, and the tone that sets its colour: live, good, warn, bad or neutral."""

    tone: str
    text: str


class Progress(NamedTuple):
    """How far a job's training has come.

    The fields are the finished epochs, all epochs (or None if unknown), and a text about its expected end.
    """

    epoch: int | None
    epochs: int | None
    expected: str | None


def visible(text: str) -> str:
    """Return text in which every character is visible and keeps its place.

    Line breaks and tabs become blanks. Characters that control a terminal, change the direction of writing or are
    invisible become �.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def cut(text: str, most: int) -> str:
    """Return at most `most` characters of a text; the last one is … if more follow."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plural(noun: str, number: int) -> str:
    """Return the singular or the plural of a noun, as needed after this number."""
    return noun if number == 1 else f"{noun}s"


def number(value: float | None) -> str:
    """Return a metric with four decimals, or with an exponent if it is too small or too large. None becomes ""."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value) or 10**-DECIMALS <= abs(value) < 10**5:
        return f"{value:.{DECIMALS}f}"
    return f"{value:.2e}"


def duration(seconds: float) -> str:
    """Return a duration in days and hours, hours and minutes, minutes, or seconds, rounded down.

    The sign is ignored.
    """
    whole = int(abs(seconds))
    for unit, size, lesser, lesser_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // lesser_size
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def ago(then: datetime, now: datetime) -> str:
    """Return a time relative to `now`: how long ago it was, or in how long it will be."""
    seconds = (now - then).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(seconds)}"


def timestamp(then: datetime) -> str:
    """Return a time, which must be in UTC, to the second."""
    return f"{then:%Y-%m-%d %H:%M:%S} UTC"


def job_tone(status: str | None) -> str:
    """Return the tone of a job's status or phase. Unknown words are neutral."""
    return _JOB_TONES.get((status or "").casefold(), "neutral")


def finding(kind: str) -> Label:
    """Return the kind of a finding in words."""
    return Label(_FINDING_TONES.get(kind, "warn"), kind.replace("_", " "))


def level_tone(level: str | None) -> str:
    """Return the tone of a message's level. Unknown words are neutral."""
    return _LEVEL_TONES.get((level or "").casefold(), "neutral")


def objective(best: Row) -> str:
    """Return by what the best checkpoint of a job is chosen, such as `smallest valid_loss`, or "" without an objective.

    `best` has the columns of best_checkpoints with the prefix `best_`.
    """
    return f"{_EXTREMES[best['best_direction']]} {best['best_rule']}" if best["best_direction"] else ""


def coverage(best: Row) -> str:
    """Return how many checkpoints were compared by the objective, such as `2 of 3`, or "" without an objective.

    `best` has the columns of best_checkpoints with the prefix `best_`.
    """
    return f"{best['best_covered']:,} of {best['best_candidates']:,}" if best["best_direction"] else ""


def source_tone(state: str) -> str:
    """Return the tone of a source's state."""
    return _SOURCE_TONES.get(state, "neutral")


def source_state(source: Row) -> Label:
    """Return the state of a source, or that it has tracked jobs and is not in the settings."""
    if is_unconfigured(source):
        return Label("bad", "not configured")
    return Label(source_tone(source["state"]), source["state"])


def source_advice(source: Row) -> list[str]:
    """Return what a person can do about the state of a source: one text for each problem that needs a person."""
    advice = []
    if is_unconfigured(source):
        advice.append("nothing here polls its jobs: add it to the settings, rename it, or untrack its jobs")
    elif source["outdated_name"] is not None:
        advice.append(f"the settings still name it {source['outdated_name']}: change that")
    if source["jobs_left_out_at"] is not None:
        advice.append("new jobs are left out, because of CHECKPOINTD_MAX_NEW_JOBS_PER_DAY: run `checkpointd check`")
    if source["is_paused"]:
        advice.append("to end the pause now, run `checkpointd resume`")
    return advice


def webhook_trouble(webhook: Row) -> str:
    """Return since when the attempts of a webhook fail and why, or for how long changes have waited for it."""
    if webhook["state"] == "behind":
        return f"changes have waited for {duration(webhook['lag_seconds'])}: does a daemon with these settings run?"
    since = f" since {timestamp(webhook['failing_since'])}" if webhook["failing_since"] else ""
    failures = webhook["failures"]
    return f"{failures} failed {plural('attempt', failures)}{since}: {webhook['last_answer']}"


def is_unconfigured(source: Row) -> bool:
    """Return whether a source has tracked jobs and is not in the settings."""
    return bool(source["jobs"]) and not source["is_configured"]


def freshness(job: Row, age: float | None) -> Label:
    """Return how current the stored data of a job is. `age` is the seconds since its last complete listing, or None."""
    phase, read = job["phase"], "never read" if age is None else f"read {duration(age)} ago"
    if phase == "untracked":
        return Label("neutral", "no longer tracked")
    if phase == "sealed":
        return Label("neutral", "complete")
    if phase in {"missing", "gone", "forbidden"}:
        return Label("bad", f"{phase}, {read}")
    if job["is_stale"]:
        return Label("bad", f"stale, {read}")
    if job["consecutive_failures"]:
        return Label("warn", read)
    return Label("neutral", "not read yet") if age is None else Label("good", read)


def failures(job: Row) -> str:
    """Return how many polls of a job failed in a row, and why the last one did, or "" if none did."""
    count = job["consecutive_failures"] or 0
    return f"{count:,} failed {plural('poll', count)}: {job['last_error']}" if count else ""


def problems(job: Row) -> str:
    """Return the problems of a job: failed polls, unreadable items, a list that never stabilises; or "" without any."""
    complete, success = job["last_complete_at"], job["last_success_at"]
    has_rejects = complete is not None and (success is None or success < complete)
    rejects = "unreadable items: see fine_tuning.rejects" if has_rejects else ""
    unstable = "unstable: its list differs at each request" if job["unstable_since"] else ""
    return "; ".join(filter(None, (failures(job), rejects, unstable)))


def progress(job: Row, epoch: int | None, now: datetime) -> Progress:
    """Return how far a job's training has come. `epoch` is the last epoch that has a checkpoint at its end."""
    epochs = hyperparameters(job["hyperparameters"]).get("n_epochs", "").removesuffix(".0")
    expected = None
    if job["finished_at"] is None and (end := job["estimated_finish"]) is not None and now - end < OVERDUE:
        expected = f"end expected {ago(end, now)}" if end > now else f"end was expected {end:%Y-%m-%d %H:%M} UTC"
    return Progress(
        epoch if job["checkpoint_count"] else 0,
        int(epochs) if epochs.isdecimal() and len(epochs) < 7 else None,
        expected,
    )


def hyperparameters(received: str | None) -> dict[str, str]:
    """Return a job's hyperparameters as texts, or {} if what was received is not a JSON object."""
    found = _read_json(received)
    if not isinstance(found, dict):
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}


def provider_error(received: str | None) -> str | None:
    """Return a job's error as text, or None. Providers send null, {} or an object of nulls for no error."""
    found = _read_json(received)
    if isinstance(found, dict):
        parts = [str(found[name]) for name in ("code", "message") if found.get(name)]
        return ": ".join(parts) or (json.dumps(found) if any(found.values()) else None)
    return str(found) if found else None


def _read_json(received: str | None) -> object:
    try:
        return json.loads(received) if received else None
    except (ValueError, RecursionError):
        return None
