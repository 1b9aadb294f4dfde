"""The tables that commands print: coloured on a terminal, and otherwise complete plain text."""

import sys
from collections.abc import Sequence
from typing import Final

from checkpointd import presentation
from checkpointd.cli.output import Cell, Column, cell_text
from checkpointd.presentation import Label, Row, cut, plural, timestamp, visible

WIDE: Final = 110
WIDEST: Final = 150
"""A terminal of at least these widths, in characters, shows the less important and the least important columns."""

TEXT_CELL_CHARACTERS: Final = 64
"""So much is shown of a text of a job list, which has not been stored. JSON has all of it."""

USUAL: Final = 80
"""The width of a usual terminal. A narrower one has no space for whole texts about the freshness of jobs."""


def show_findings(findings: Sequence[Row]) -> None:
    """Print the open findings, if there are any, and an empty line."""
    if findings:
        since = Column("since", from_width=WIDE)
        columns = [Column("finding"), Column("job or source", unbroken_from=USUAL), since, Column("message")]
        _show_table(columns, [_finding_cells(row) for row in findings], "checkpointd status")
        print()


def _finding_cells(row: Row) -> list[Cell]:
    subject = row["fine_tuning_job_id"] or row["source"]
    return [presentation.finding(row["kind"]), subject, timestamp(row["since"]), row["message"]]


def show_jobs(rows: Sequence[Row]) -> None:
    """Print the jobs that are or were tracked."""
    columns = [
        Column("job", unbroken_from=0),
        _source_column(rows),
        Column("status"),
        Column("phase"),
        Column("checkpoints", is_number=True),
        Column("step", is_number=True),
        Column("best step", is_number=True, from_width=WIDE),
        Column("covered", is_number=True, from_width=WIDE),
        Column("by", from_width=WIDEST),
        Column("model", from_width=WIDE),
        Column("tracked by", from_width=WIDEST),
        Column("findings", from_width=WIDE),
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
        row["best_step"],
        presentation.coverage(row),
        presentation.objective(row),
        row["fine_tuned_model"] or row["model"],
        row["tracked_by"],
        ", ".join(presentation.finding(kind).text for kind in row["findings"]),
    ]


def show_discovery(rows: Sequence[Row], *, is_dry_run: bool) -> None:
    """Print the jobs of job lists, and what discovery does with them: new ones would be tracked, or are from now on."""
    columns = [
        Column("job", unbroken_from=0),
        _source_column(rows),
        Column("decision"),
        Column("reason"),
        Column("status", from_width=WIDE),
        Column("model", from_width=WIDE),
    ]
    _show_table(columns, [_listed_cells(row) for row in rows], "checkpointd discover --dry-run", "No jobs are listed")
    if sys.stdout.isatty() and rows:
        new, tracked = (sum(row["decision"] == decision for row in rows) for decision in ("new", "tracked"))
        would = "would be" if is_dry_run else "are now"
        print(f"\n{len(rows):,} {plural('job', len(rows))} listed: {new:,} {would} tracked, {tracked:,} were before")


def _listed_cells(row: Row) -> list[Cell]:
    return [
        row["fine_tuning_job_id"],
        row["source"],
        Label({"new": "good", "tracked": "live"}.get(row["decision"], "neutral"), row["decision"]),
        cut(row["reason"] or "", TEXT_CELL_CHARACTERS),
        cut(row["status"] or "unknown", TEXT_CELL_CHARACTERS),
        cut(row["model"] or "", TEXT_CELL_CHARACTERS),
    ]


def show_best(job: str, best: Row | None) -> None:
    """Print the best checkpoint of a job, which is None if the job has no checkpoints, and by what it was chosen."""
    if best is None:
        print(f"{job} has no checkpoints yet")
    elif not best["best_direction"]:
        print(f"{job}: no checkpoint has a metric by which the best one is chosen by default")
    elif best["best_step"] is None:
        print(f"{job}: no checkpoint has {visible(best['best_rule'])}")
    else:
        covered, candidates = best["best_covered"], best["best_candidates"]
        of_all = f"of {covered:,} with this metric, out of {candidates:,} {plural('checkpoint', candidates)}"
        extreme = f"{visible(presentation.objective(best))}, {presentation.number(best['best_value'])}"
        print(f"{job}: step {best['best_step']:,} has the {extreme}, {of_all}")


def show_status(findings: Sequence[Row], sources: Sequence[Row], webhooks: Sequence[Row], jobs: Sequence[Row]) -> None:
    """Print the open findings, the states of the sources, and the freshness of each tracked job, in the given order.

    Webhooks are printed if they fail or are behind.
    """
    show_findings(findings)
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
    if troubled := [row for row in webhooks if row["state"] != "ok"]:
        columns = [Column("webhook"), Column("state"), Column("reason")]
        _show_table(columns, [_troubled_webhook_cells(row) for row in troubled], "checkpointd webhooks")
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
        *presentation.source_advice(row),
        *([f"job list: {row['job_list_error']}"] if row["job_list_error"] else []),
    ]
    return [
        row["name"],
        presentation.source_state(row),
        row["jobs"],
        timestamp(row["resume_at"]) if row["resume_at"] and not is_ok else "",
        "; ".join(reasons),
    ]


def _troubled_webhook_cells(row: Row) -> list[Cell]:
    return [row["name"], Label("bad", row["state"]), presentation.webhook_trouble(row)]


def _freshness_cells(row: Row) -> list[Cell]:
    return [
        row["fine_tuning_job_id"],
        row["source"],
        row["phase"],
        presentation.freshness(row, None if row["last_complete_at"] is None else row["lag_seconds"]),
        presentation.problems(row),
    ]


def show_webhooks(rows: Sequence[Row]) -> None:
    """Print the webhooks that daemons were configured with."""
    if not rows:
        print("No webhooks: see [[webhooks]] in the settings. A daemon with them creates their rows")
        return
    columns = [
        Column("webhook", unbroken_from=0),
        Column("state"),
        Column("cursor", is_number=True),
        Column("lag"),
        Column("failures", is_number=True),
        Column("last answer"),
        Column("next attempt", from_width=WIDE),
        Column("delivered", is_number=True, from_width=WIDE),
        Column("undelivered", is_number=True),
        Column("last undelivered", from_width=WIDE),
    ]
    _show_table(columns, [_webhook_cells(row) for row in rows], "checkpointd webhooks")


def _webhook_cells(row: Row) -> list[Cell]:
    return [
        row["name"],
        Label("good" if row["state"] == "ok" else "bad", row["state"]),
        str(row["cursor"]),  # as --replay takes it, without commas
        presentation.duration(row["lag_seconds"]),
        row["failures"],
        row["last_answer"],
        timestamp(row["next_attempt_at"]) if row["next_attempt_at"] else "",
        row["delivered_count"],
        row["undelivered_count"],
        f"{row['last_undelivered_seq']}: {row['last_undelivered_reason']}" if row["undelivered_count"] else "",
    ]


def _source_column(rows: Sequence[Row]) -> Column:
    """Return the column of sources. It is shown on every terminal if there are several sources, else on the widest."""
    has_several = len({row["source"] for row in rows}) > 1
    return Column("source", from_width=0 if has_several else WIDEST)


def show_finding(state: str, subject: str, message: str) -> None:
    """Print one finding of a check. On a terminal the state is coloured, and further lines are indented."""
    text = cell_text(f"{subject}: {message}")
    if sys.stdout.isatty():
        from checkpointd.cli import terminal

        terminal.show_finding(state, text)
    else:
        print(f"{state:4}  {text}", flush=True)


def _show_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    command: str,
    instead: str = "No jobs are tracked: run `checkpointd track ftjob-…`",
) -> None:
    """Print a table, or `instead` if it is empty. A terminal shows the first rows, and `command`, which prints all."""
    if not rows:
        print(instead)
    elif sys.stdout.isatty():
        from checkpointd.cli import terminal

        terminal.show_table(columns, rows, command)
    else:
        _show_plain(columns, rows)


def _show_plain(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table with all columns, all rows and all of each cell."""
    lines = [[column.name for column in columns], *([cell_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
