"""The data of the pages. Everything that one page shows is read from the views in one snapshot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from checkpointd.postgres.snapshot import CurveRequest, snapshot
from checkpointd.postgres.store import Store
from checkpointd.presentation import Row, visible
from checkpointd.web.view import View

JOBS_PER_PAGE: Final = 50
STATUSES_SHOWN: Final = 6
CHECKPOINTS_PER_PAGE: Final = 50
CHANGES_SHOWN: Final = 30
FINDINGS_SHOWN: Final = 10

SPARKLINE_POINTS: Final = 60
CURVE_PARTS: Final = 150
"""The parts of an axis. A curve has two points in each, the extremes."""

CHECKPOINTS_DRAWN: Final = 150
"""The most checkpoints in a chart, not counting the best one."""

STEPS_READ: Final = 80_000
"""The most steps that are read for one page, about. If there are more, a sample of a quarter of that is read, because
finding it takes time, too."""

MAX_COMPARED: Final = 8
"""The most jobs that are compared on one page."""

COMPARED_PARTS: Final = 75
"""The parts of an axis with the curves of several jobs."""

EXTRA_CHARTS: Final = 4
"""The most charts of metrics that are neither losses nor accuracies."""

MESSAGES_SHOWN: Final = 50

MAX_QUERY_LENGTH: Final = 300
"""Characters. No id is longer."""

MAX_WORDS: Final = 8
"""The most words of a query. Further words are ignored."""

END_OF_FEED: Final = 2**63 - 1
"""The largest bigint: the `seq` of every change is less."""


class ListPage(NamedTuple):
    """One page of a long list: page `number` of `pages`, counted from 1. `total` is the length of the list."""

    number: int
    pages: int
    total: int
    size: int

    @classmethod
    def nearest(cls, number: int, total: int, size: int) -> "ListPage":
        """Return the page with this number, or the nearest one that exists."""
        pages = max(-(-total // size), 1)
        return cls(min(max(number, 1), pages), pages, total, size)

    @property
    def offset(self) -> int:
        """The number of elements on the earlier pages."""
        return (self.number - 1) * self.size


class JobsPage(NamedTuple):
    """The jobs that match a query: one page of them, and counts of all of them."""

    at: datetime
    query: str
    page: ListPage
    stale: int
    failing: int
    statuses: list[tuple[str | None, int]]
    """The most frequent statuses, with the number of jobs that have each."""
    jobs: Sequence[Row]
    curves: dict[int, Row]
    """The losses of those jobs that have any, by their index in `jobs`."""
    sources: Sequence[Row]
    findings: Sequence[Row]
    """The open findings, up to FINDINGS_SHOWN."""


class JobPage(NamedTuple):
    """One job: its record and freshness, its curves, a page of its checkpoints, its messages, and some changes."""

    job: Row
    findings: Sequence[Row]
    view: View
    training: Row
    curves: Sequence[Row]
    is_sample: bool
    """True if the curves are of a sample of the steps."""
    best_step: Row | None
    """The best step of the curve, or None if it has none, or there are too many steps to look for it."""
    drawn: Sequence[Row]
    """The checkpoints to draw, by ascending step."""
    page: ListPage
    checkpoints: Sequence[Row]
    messages: Sequence[Row]
    has_more_messages: bool
    changes: Sequence[Row]
    are_latest: bool
    """True if `changes` contains the latest change."""
    older_than: int | None
    """The `seq` of the oldest change shown, if there are older ones, or None."""


class ComparisonPage(NamedTuple):
    """Jobs side by side: each with its record and its training, and the curves of all of them."""

    jobs: Sequence[Row]
    view: View
    trainings: Sequence[Row]
    names: Sequence[str]
    """The metrics to draw that have no column of their own."""
    curves: Sequence[Row]
    is_sample: bool
    """True if the curves are of a sample of the steps."""
    best_steps: Sequence[Row | None]
    """The best step of each curve, or None if it has none, or there are too many steps to look for it."""
    left_out: int
    """The number of jobs that were asked for and are not shown: they do not exist, or are too many."""


async def read_jobs_page(store: Store, query: str, number: int, configured: Sequence[str]) -> JobsPage:
    """Read a page of the jobs whose id, source, status, phase or models contain every word of `query`.

    The words `stale` and `failing` find jobs in these states. `configured` are the names of the sources in the
    settings. Raises DatabaseUnavailableError.
    """
    query = " ".join(visible(query).split())[:MAX_QUERY_LENGTH]
    words = list(dict.fromkeys(query.lower().split()))[:MAX_WORDS]
    async with snapshot(store) as views:
        rows = await views.search_jobs(words, JOBS_PER_PAGE, max(number, 1), STATUSES_SHOWN)
        jobs = [row for row in rows if row["id"] is not None]
        curves = await views.list_curves([j["source"] for j in jobs], [j["id"] for j in jobs], SPARKLINE_POINTS)
        sources = await views.list_sources(configured)
        findings = await views.list_findings(None, None, FINDINGS_SHOWN)
    totals = rows[0]
    return JobsPage(
        totals["at"],
        query,
        ListPage.nearest(number, totals["total"], JOBS_PER_PAGE),
        totals["stale"],
        totals["failing"],
        list(zip(totals["statuses"] or (), totals["status_counts"] or (), strict=True)),
        jobs,
        {row["n"] - 1: row for row in curves},
        sources,
        findings,
    )


async def read_job_page(
    store: Store, source: str, job_id: str, view: View, number: int, before: int = END_OF_FEED
) -> JobPage | None:
    """Read a job, or return None if it was never tracked. Raises DatabaseUnavailableError.

    `number` is the page of its checkpoints. Its changes are the latest ones with a `seq` less than `before`.
    """
    key = visible(source), visible(job_id)
    async with snapshot(store) as views:
        job = await views.read_job(*key)
        if job is None:
            return None
        page = ListPage.nearest(number, job["checkpoint_count"], CHECKPOINTS_PER_PAGE)
        findings = await views.list_findings(*key, FINDINGS_SHOWN)
        (training,) = await views.list_training([key[0]], [key[1]], EXTRA_CHARTS)
        request = _curve_request(*key, training, view, STEPS_READ)
        curves = await views.list_step_curves([request], training["names"], CURVE_PARTS)
        best_step = None if request.every > 1 else await views.read_best_step(*key)
        drawn = await views.list_job_curve(*key, CHECKPOINTS_DRAWN, training["names"])
        checkpoints = await views.list_job_checkpoints(*key, page.size, page.offset)
        messages = await views.list_job_messages(*key, MESSAGES_SHOWN + 1)
        changes = await views.list_job_changes(*key, before, CHANGES_SHOWN + 1)
    shown = changes[:CHANGES_SHOWN]
    return JobPage(
        job,
        findings,
        view,
        training,
        curves,
        request.every > 1,
        best_step,
        drawn,
        page,
        checkpoints,
        messages[:MESSAGES_SHOWN],
        len(messages) > MESSAGES_SHOWN,
        shown,
        before == END_OF_FEED,
        shown[-1]["seq"] if len(changes) > len(shown) else None,
    )


def _curve_request(source: str, job_id: str, training: Row, view: View, most: int) -> CurveRequest:
    """Return what to read for the curve of a job: its steps, a sample if they are more than `most`, or checkpoints."""
    per_step = {"step": 1.0, "epoch": training["epochs_per_step"], "time": None}[view.axis]
    start = training["started_at"] if view.axis == "time" else None
    steps = training["step_count"]
    return CurveRequest(source, job_id, per_step, start, min(steps, 1) if steps <= most else -(-steps * 4 // most))


async def read_comparison_page(store: Store, keys: Sequence[tuple[str, str]], view: View) -> ComparisonPage:
    """Read several jobs, each given by its source and id. Raises DatabaseUnavailableError."""
    asked = dict.fromkeys((visible(source), visible(job_id)) for source, job_id in keys)
    shown = list(asked)[:MAX_COMPARED]
    async with snapshot(store) as views:
        jobs = await views.list_comparison([source for source, _ in shown], [job_id for _, job_id in shown])
        found = [(job["source"], job["id"]) for job in jobs]
        trainings = await views.list_training([source for source, _ in found], [job for _, job in found], EXTRA_CHARTS)
        requests = [
            _curve_request(*key, training, view, STEPS_READ // len(found))
            for key, training in zip(found, trainings, strict=True)
        ]
        names = _common_names(trainings)
        curves = await views.list_step_curves(requests, names, COMPARED_PARTS) if requests else []
        best_steps = [
            None if request.every > 1 else await views.read_best_step(request.source, request.id)
            for request in requests
        ]
    is_sample = any(request.every > 1 for request in requests)
    return ComparisonPage(jobs, view, trainings, names, curves, is_sample, best_steps, len(asked) - len(jobs))


def _common_names(trainings: Sequence[Row]) -> list[str]:
    """Return the names of the metrics to draw: those of objectives first, then the first ones of each job."""
    names = [name for training in trainings for name in training["names"]]
    objectives = {training["objective"] for training in trainings}
    return sorted(dict.fromkeys(names), key=lambda name: name not in objectives)[:EXTRA_CHARTS]
