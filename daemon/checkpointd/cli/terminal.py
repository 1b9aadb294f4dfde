"""Tables and findings on a terminal, in colours and as wide as it is. Loaded only if there is a terminal."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from checkpointd.cli.output import Cell, Column, cell_text
from checkpointd.presentation import Label, cut

CELL_CHARACTERS: Final = 300
"""Longer texts are cut on a terminal. Ids and meaningful errors are shorter."""

UNBROKEN_CHARACTERS: Final = 30
"""Ids and the freshness of jobs are not wrapped to less than this width, because in pieces they are hard to read."""

ROWS_SHOWN: Final = 200
"""The most rows of a table on a terminal. It takes long to colour more."""

_STYLES: Final = {"live": "cyan", "good": "green", "warn": "yellow", "bad": "red", "neutral": "dim"}
_STATE_TONES: Final = {"ok": "good", "warn": "warn", "fail": "bad"}


def show_finding(state: str, text: str) -> None:
    """Print one finding of a check. The state is coloured, and further lines are indented."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    shown.add_column(width=4)
    shown.add_column(overflow="fold")
    shown.add_row(Text(state, style=_STYLES[_STATE_TONES[state]]), Text(text))
    Console().print(shown)


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], command: str) -> None:
    """Print the first rows of a table, without columns that are empty or need a wider terminal.

    If there are more rows, it also prints `command`, which prints all.
    """
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
