"""Values in words, for the terminal and the status page. Pure."""

import math
from datetime import datetime
from typing import Final

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
