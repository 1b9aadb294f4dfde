"""What the pages show, read from the views: all that stands on one page is of one snapshot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from checkpointd.postgres.snapshot import snapshot
from checkpointd.postgres.store import Store
from checkpointd.presentation import Row, visible

JOBS_A_PAGE: Final = 50
STATUSES_SHOWN: Final = 6
CHECKPOINTS_A_PAGE: Final = 50
CHANGES_SHOWN: Final = 30
SPARKLINE_POINTS: Final = 60
CHART_POINTS: Final = 300
MOST_WORDS: Final = 8
NEWEST: Final = 2**63 - 1
"""Before it, in the order of commits, are all changes."""
LONGEST_QUERY: Final = 300
"""Characters; no id is longer, and no name that a person types."""


class Part(NamedTuple):
    """Which part of a long list is shown: page `number` of `pages`, from 1; `total` is what the list has."""

    number: int
    pages: int
    total: int
    size: int

    @classmethod
    def of(cls, wanted: int, total: int, size: int) -> "Part":
        """Return the wanted part, or the nearest that there is."""
        pages = max(-(-total // size), 1)
        return cls(min(max(wanted, 1), pages), pages, total, size)

    @property
    def skipped(self) -> int:
        """How many stand on the pages before."""
        return (self.number - 1) * self.size


class Jobs(NamedTuple):
    """The jobs that a query found: a part of them, and what they are in total. `curves` is by place in `jobs`."""

    at: datetime
    query: str
    part: Part
    stale: int
    failing: int
    statuses: list[tuple[str | None, int]]
    """The commonest, and how many jobs have each."""
    jobs: Sequence[Row]
    curves: dict[int, Row]
    sources: Sequence[Row]


class Job(NamedTuple):
    """One job: what is known of it, its metrics by step, a part of its checkpoints and one of its changes."""

    job: Row
    curve: Sequence[Row]
    part: Part
    checkpoints: Sequence[Row]
    changes: Sequence[Row]
    are_latest: bool
    """No change is newer than these."""
    older_than: int | None
    """The `seq` before which there are more."""


async def read_jobs(store: Store, query: str, page: int) -> Jobs:
    """Find the jobs that have every word of `query`. Raises DatabaseUnavailableError."""
    query = " ".join(visible(query).split())[:LONGEST_QUERY]
    words = list(dict.fromkeys(query.lower().split()))[:MOST_WORDS]
    async with snapshot(store) as views:
        rows = await views.search_jobs(words, JOBS_A_PAGE, max(page, 1), STATUSES_SHOWN)
        jobs = [row for row in rows if row["id"] is not None]
        curves = await views.list_curves([j["source"] for j in jobs], [j["id"] for j in jobs], SPARKLINE_POINTS)
        sources = await views.list_sources()
    found = rows[0]
    statuses = list(zip(found["statuses"] or (), found["status_counts"] or (), strict=True))
    return Jobs(
        found["at"], query, Part.of(page, found["total"], JOBS_A_PAGE), found["stale"], found["failing"], statuses,
        jobs, {row["n"] - 1: row for row in curves}, sources,
    )  # fmt: skip


async def read_job(store: Store, source: str, job_id: str, page: int, before: int = NEWEST) -> Job | None:
    """Read one job and its changes before a `seq`, or None if it was never tracked. Raises DatabaseUnavailableError."""
    key = visible(source), visible(job_id)
    async with snapshot(store) as views:
        job = await views.read_job(*key)
        if job is None:
            return None
        part = Part.of(page, job["checkpoint_count"], CHECKPOINTS_A_PAGE)
        curve = await views.list_job_curve(*key, CHART_POINTS)
        checkpoints = await views.list_job_checkpoints(*key, part.size, part.skipped)
        changes = await views.list_job_changes(*key, before, CHANGES_SHOWN + 1)
    shown = changes[:CHANGES_SHOWN]
    older_than = shown[-1]["seq"] if len(changes) > len(shown) else None
    return Job(job, curve, part, checkpoints, shown, before == NEWEST, older_than)
