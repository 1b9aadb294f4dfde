"""What commands print: tables and a progress bar on a terminal, and otherwise complete plain text without colours."""

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
from checkpointd.presentation import Label, Row, cut, plural, timestamp, visible
from checkpointd.telemetry.journal import is_journal

WIDE: Final = 110
WIDEST: Final = 150
"""A terminal of at least these widths, in characters, shows the less important and the least important columns."""

CELL_CHARACTERS: Final = 300
"""Longer texts are cut on a terminal. Ids and meaningful errors are shorter."""

USUAL: Final = 80
"""The width of a usual terminal. A narrower one has no space for whole texts about the freshness of jobs."""

UNBROKEN_CHARACTERS: Final = 30
"""Ids and the freshness of jobs are not wrapped to less than this width, because in pieces they are hard to read."""

ROWS_SHOWN: Final = 200
"""The most rows of a table on a terminal. It takes long to colour more."""

_STYLES: Final = {"live": "cyan", "good": "green", "warn": "yellow", "bad": "red", "neutral": "dim"}
_STATE_TONES: Final = {"ok": "good", "warn": "warn", "fail": "bad"}
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


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error if that is a terminal. Yields a function to call with done and total."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)


def show_jobs(rows: Sequence[Row]) -> None:
    """Print the jobs that are or were tracked."""
    columns = [
        Column("job", unbroken_from=0),
        _source_column(rows),
        Column("status"),
        Column("phase"),
        Column("checkpoints", is_number=True),
        Column("step", is_number=True),
        Column("model", from_width=WIDE),
        Column("tracked by", from_width=WIDEST),
    ]
    _show_table(columns, [_job_cells(row) for row in rows], "checkpointd jobs")


def _job_cells(row: Row) -> list[Cell]:
    return [
        row["id"],
        row["source"],
        Label(presentation.job_tone(row["status"]), row["status"] or "unknown"),
        Label(presentation.job_tone(row["phase"]), row["phase"]),
        row["checkpoint_count"],
        row["latest_step"],
        row["fine_tuned_model"] or row["model"],
        row["tracked_by"],
    ]


def show_status(sources: Sequence[Row], jobs: Sequence[Row]) -> None:
    """Print the states of the sources, and the freshness of each tracked job, in the given order."""
    if sources:
        columns = [
            Column("source"),
            Column("state"),
            Column("jobs", is_number=True),
            Column("paused until"),
            Column("reason"),
        ]
        _show_table(columns, [_source_cells(row) for row in sources], "checkpointd status")
        print()
    columns = [
        Column("job", unbroken_from=0),
        _source_column(jobs),
        Column("phase", from_width=WIDE),
        Column("freshness", unbroken_from=USUAL),
        Column("problem"),
    ]
    _show_table(columns, [_freshness_cells(row) for row in jobs], "checkpointd status")
    if sys.stdout.isatty() and jobs:
        stale, failing = (sum(bool(row[name]) for row in jobs) for name in ("is_stale", "consecutive_failures"))
        print(f"\n{len(jobs):,} {plural('job', len(jobs))} tracked: {stale:,} stale, {failing:,} failing")


def _source_cells(row: Row) -> list[Cell]:
    is_ok = row["state"] == "ok"
    reasons = [
        *([row["last_error"]] if row["last_error"] and not is_ok else []),
        *([f"job list: {row['job_list_error']}"] if row["job_list_error"] else []),
    ]
    return [
        row["name"],
        Label(presentation.source_tone(row["state"]), row["state"]),
        row["jobs"],
        timestamp(row["resume_at"]) if row["resume_at"] and not is_ok else "",
        "; ".join(reasons),
    ]


def _freshness_cells(row: Row) -> list[Cell]:
    return [
        row["fine_tuning_job_id"],
        row["source"],
        row["phase"],
        presentation.freshness(row, None if row["last_complete_at"] is None else row["lag_seconds"]),
        presentation.problems(row),
    ]


def _source_column(rows: Sequence[Row]) -> Column:
    """Return the column of sources. It is shown on every terminal if there are several sources, else on the widest."""
    has_several = len({row["source"] for row in rows}) > 1
    return Column("source", from_width=0 if has_several else WIDEST)


def show_finding(state: str, subject: str, message: str) -> None:
    """Print one finding of a check. On a terminal the state is coloured, and further lines are indented."""
    text = cell_text(f"{subject}: {message}")
    if not sys.stdout.isatty():
        print(f"{state:4}  {text}", flush=True)
        return
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(width=4)
    shown.add_column(overflow="fold")
    shown.add_row(Text(state, style=_STYLES[_STATE_TONES[state]]), Text(text))
    Console().print(shown)


def _show_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], command: str) -> None:
    """Print a table. A terminal shows the first rows only, and then `command`, which prints all."""
    if not rows:
        print("No jobs are tracked: run `checkpointd track ftjob-…`")
    elif sys.stdout.isatty():
        _show_on_terminal(columns, rows, command)
    else:
        _show_plain(columns, rows)


def _show_plain(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table with all columns, all rows and all of each cell."""
    lines = [[column.name for column in columns], *([cell_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _show_on_terminal(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], command: str) -> None:
    """Print a table in colours, as wide as the terminal, without columns that are empty or need a wider terminal."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown = [
        n
        for n, column in enumerate(columns)
        if column.from_width <= console.width and any(cell_text(row[n]) for row in rows)
    ]
    for n in shown:
        column, longest = columns[n], max(len(cell_text(row[n])) for row in rows)
        unbroken_from = 0 if column.is_number else column.unbroken_from
        may_wrap = unbroken_from is None or console.width < unbroken_from
        least = None if may_wrap else min(UNBROKEN_CHARACTERS, longest)
        # Without `no_wrap`, rich would give the width that `min_width` keeps to other columns, and cut off the last.
        no_wrap = least == longest
        justify: JustifyMethod = "right" if column.is_number else "left"
        table.add_column(column.name, justify=justify, overflow="fold", min_width=least, no_wrap=no_wrap)
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*(_styled(row[n]) for n in shown))
    console.print(table)
    if len(rows) > ROWS_SHOWN:
        console.print(f"… and {len(rows) - ROWS_SHOWN:,} more: run `{command} | less`", highlight=False)


def _styled(cell: Cell) -> Text:
    style = _STYLES[cell.tone] if isinstance(cell, Label) else ""
    return Text(cut(cell_text(cell), CELL_CHARACTERS), style=style)


def cell_text(cell: Cell) -> str:
    """Return the text of a cell, with visible characters only: what a provider sent cannot control the terminal."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return visible("" if cell is None else cell.text if isinstance(cell, Label) else cell)


def say(text: str, *, is_error: bool = False) -> None:
    """Print a line on standard error. In the journal, an error gets the priority of errors."""
    priority = "<3>" if is_error and is_journal(sys.stderr) else ""
    print(f"{priority}checkpointd: {' '.join(text.split())}", file=sys.stderr)


def json_default(value: object) -> str:
    """Return the text of a value for which JSON has no type, such as a time."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
