"""What a terminal shows: tables and a progress bar, plain text where there is no terminal."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
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
    terminal = sys.stdout.isatty()
    shown = Table(box=None, pad_edge=False, header_style="bold" if terminal else "")
    for column in columns:
        shown.add_column(column, overflow="fold" if terminal else "ignore", no_wrap=not terminal)
    for row in rows:
        shown.add_row(*(Text(cell(row[column])) for column in columns))
    console = Console() if terminal else Console(width=10_000, no_color=True)
    with contextlib.suppress(BrokenPipeError):
        console.print(shown)


def cell(value: object) -> str:
    """Return a value as people read it; what providers sent cannot steer the terminal."""
    text = "" if value is None else f"{value:.0f}" if isinstance(value, float) else str(plain(value))
    return "".join(c if c.isprintable() else "�" for c in text)


def plain(value: object) -> object:
    """Return what JSON and people can take for a value of the database."""
    return float(value) if type(value).__name__ == "Decimal" else str(value)  # type: ignore[arg-type]
