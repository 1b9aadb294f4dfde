"""What a terminal shows: tables and a progress bar. Elsewhere plain text, complete and without colours."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from checkpointd import presentation
from checkpointd.presentation import Row, Said, clock, cut, visible
from checkpointd.telemetry.logs import is_journal

WIDE: Final = 110
WIDEST: Final = 150
"""Characters in a line of a terminal that has room for more than the most needed columns, and for all."""

LONGEST: Final = 300
"""Characters of a cell; no id is longer, and no error that says something."""

KEPT: Final = 30
"""Characters that a column keeps while others give way: an id, or how fresh a job is, is no use in pieces."""

MOST: Final = 200
"""Rows that a terminal is shown; nobody reads more, and colouring them takes long."""

_STYLES: Final = {"live": "cyan", "good": "green", "warn": "yellow", "bad": "red", "quiet": "dim"}
_STATE_TONES: Final = {"ok": "good", "warn": "warn", "fail": "bad"}
Cell = str | int | Said | None


class Column(NamedTuple):
    """A column: its heading, whether it holds numbers or gives way to others, the narrowest terminal that has it."""

    name: str
    is_number: bool = False
    gives_way: bool = True
    least: int = 0


def replace_closed_streams() -> None:
    """Give what the shell closed (`2>&-`) to /dev/null, or what is said there goes to others.

    Python prints to standard output instead, and C to whatever connection got the number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # it stays open


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error, if that is a terminal; yields what is told how many of how many."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)


def show_jobs(rows: Sequence[Row]) -> None:
    """Print what is tracked, or was."""
    columns = [
        Column("job", gives_way=False), Column("source", least=_needed(rows)), Column("status"), Column("phase"),
        Column("checkpoints", is_number=True), Column("step", is_number=True), Column("model", least=WIDE),
        Column("tracked by", least=WIDEST),
    ]  # fmt: skip
    cells: list[list[Cell]] = [
        [
            row["id"], row["source"], Said(presentation.tone(row["status"]), row["status"] or "unknown"),
            Said(presentation.tone(row["phase"]), row["phase"]), row["checkpoint_count"], row["latest_step"],
            row["fine_tuned_model"] or row["model"], row["tracked_by"],
        ]
        for row in rows
    ]  # fmt: skip
    _table(columns, cells, "checkpointd jobs")


def show_status(sources: Sequence[Row], jobs: Sequence[Row]) -> None:
    """Print how the sources fare, and how fresh each tracked job is, the worst first."""
    columns = [Column("source"), Column("state"), Column("jobs", is_number=True), Column("until"), Column("why")]
    if sources:
        _table(columns, [_source(row) for row in sources], "checkpointd status")
        print()
    columns = [Column("job", gives_way=False), Column("source", least=_needed(jobs)), Column("phase", least=WIDE),
               Column("freshness", gives_way=False), Column("trouble")]  # fmt: skip
    cells: list[list[Cell]] = [
        [
            row["fine_tuning_job_id"], row["source"], row["phase"],
            presentation.freshness(row, None if row["last_complete_at"] is None else row["lag_seconds"]),
            presentation.trouble(row),
        ]
        for row in jobs
    ]  # fmt: skip
    _table(columns, cells, "checkpointd status")
    stale, failing = (sum(bool(row[name]) for row in jobs) for name in ("is_stale", "consecutive_failures"))
    if sys.stdout.isatty() and jobs:
        print(f"\n{len(jobs):,} tracked: {stale:,} stale, {failing:,} failing")


def show_finding(state: str, subject: str, message: str) -> None:
    """Print a line of a check; on a terminal with the state in colour, and further lines indented."""
    line = cell(f"{subject}: {message}")
    if not sys.stdout.isatty():
        print(f"{state:4}  {line}", flush=True)
        return
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(width=4)
    shown.add_column(overflow="fold")
    shown.add_row(Text(state, style=_STYLES[_STATE_TONES[state]]), Text(line))
    Console().print(shown)


def _source(row: Row) -> list[Cell]:
    is_ok = row["state"] == "ok"
    why = [
        *([row["last_error"]] if row["last_error"] and not is_ok else []),
        *([f"job list: {row['job_list_error']}"] if row["job_list_error"] else []),
    ]
    until = clock(row["resume_at"]) if row["resume_at"] and not is_ok else ""
    return [row["name"], Said(presentation.source_tone(row["state"]), row["state"]), row["jobs"], until, "; ".join(why)]


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], command: str) -> None:
    """Print a table: on a terminal in colours, as wide as that is, without empty columns; elsewhere all there is."""
    if not rows:
        print("Nothing is tracked: checkpointd track ftjob-…")
        return
    if not sys.stdout.isatty():
        lines = [[column.name for column in columns], *([cell(value) for value in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    console = Console()
    chosen = [
        n for n, column in enumerate(columns)
        if column.least <= console.width and any(cell(row[n]) for row in rows)
    ]  # fmt: skip
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for n in chosen:
        gives_way = columns[n].gives_way and not columns[n].is_number
        least = None if gives_way else min(KEPT, max(len(cell(row[n])) for row in rows))
        justify: JustifyMethod = "right" if columns[n].is_number else "left"
        shown.add_column(columns[n].name, justify=justify, overflow="fold", min_width=least)
    for row in rows[:MOST]:
        shown.add_row(*(_text(row[n]) for n in chosen))
    console.print(shown)
    if len(rows) > MOST:
        console.print(f"… and {len(rows) - MOST:,} more: {command} | less", highlight=False)


def _needed(rows: Sequence[Row]) -> int:
    """Return the narrowest terminal that needs the source: any, where there are several."""
    return 0 if len({row["source"] for row in rows}) > 1 else WIDEST


def _text(value: Cell) -> Text:
    return Text(cut(cell(value), LONGEST), style=_STYLES[value.tone] if isinstance(value, Said) else "")


def cell(value: Cell) -> str:
    """Return a value as people read it; what providers sent cannot steer the terminal."""
    if isinstance(value, int):
        return f"{value:,}"
    return visible("" if value is None else value.text if isinstance(value, Said) else value)


def say(text: str, *, is_error: bool = False) -> None:
    """Tell a person something that is not the output; what went wrong is an error to the journal, too."""
    priority = "<3>" if is_error and is_journal(sys.stderr) else ""
    print(f"{priority}checkpointd: {' '.join(text.split())}", file=sys.stderr)


def plain(value: object) -> str:
    """Return what JSON has for a value that it has no type for: a time."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
