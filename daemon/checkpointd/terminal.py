"""What a terminal shows: tables and a progress bar, plain text where there is no terminal."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error, if that is a terminal; yields what is told how many of how many."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done, _total: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        bar = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)


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
