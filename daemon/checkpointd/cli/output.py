"""What commands print: messages and cells. A module without the library for terminals, which takes long to load."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from checkpointd.presentation import Label, visible
from checkpointd.telemetry.journal import is_journal

Cell = str | int | Label | None


class Column(NamedTuple):
    """A column of a table."""

    name: str
    is_number: bool = False
    unbroken_from: int | None = None
    """The width of the narrowest terminal on which long cells are not wrapped, or None. Numbers never are."""
    from_width: int = 0
    """The width of the narrowest terminal that shows the column."""


def replace_closed_streams() -> None:
    """Open /dev/null for each standard stream that the shell closed, such as standard error by `2>&-`.

    Otherwise Python would print errors to standard output, and C libraries would write to whatever file or connection
    got the number of the closed stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # stays open


def cell_text(cell: Cell) -> str:
    """Return the text of a cell, with visible characters only: what a provider sent cannot control the terminal."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return visible("" if cell is None else cell.text if isinstance(cell, Label) else cell)


def say(text: str, *, is_error: bool = False) -> None:
    """Print a line on standard error. In the journal, an error gets the priority of errors."""
    priority = "<3>" if is_error and is_journal(sys.stderr) else ""
    print(f"{priority}checkpointd: {' '.join(text.split())}", file=sys.stderr)


def no_job_list(source: str) -> str:
    """Return what is said of a source whose provider has no job list: which jobs are known, and what to do."""
    advice = f"track each one with `checkpointd track JOB_ID --source {source}`"
    return f"this provider has no job list, so only tracked jobs are polled and archived: {advice}"


def json_default(value: object) -> str:
    """Return the text of a value for which JSON has no type, such as a time."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
