"""What a terminal shows: tables and a progress bar, plain text where there is no terminal."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


def progress() -> Progress:
    """Return a progress bar on standard error: shown on a terminal only."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table: as wide as the terminal, unclipped elsewhere."""
    cells = [[cell(row[column]) for column in columns] for row in rows]
    if sys.stdout is None or not sys.stdout.isatty():
        lines = [columns, *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", no_wrap="id" in column)
    for line in cells:
        shown.add_row(*map(Text, line))
    Console().print(shown)


def cell(value: object) -> str:
    """Return a value as people read it; what providers sent cannot steer the terminal."""
    text = "" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else "�" for c in text)


def plain(value: object) -> str:
    """Return what JSON has for a value that it has no type for: a time."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
