"""The pages as HTML.

Jinja2 escapes every value that a template prints, and `finalize` makes invisible characters visible before that. So no
name and no error text can add markup or scripts to a page.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from checkpointd import __version__, presentation
from checkpointd.presentation import Row
from checkpointd.web import differences, figures, metric_charts
from checkpointd.web.data import MAX_COMPARED, ComparisonPage, JobPage, JobsPage

MAX_COPYABLE: Final = 300
"""Characters. A longer model name is cut and has no copy button, because no real model has such a name."""


def _finalize(value: object) -> object:
    if value is None:
        return ""
    return presentation.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _job_key(source: str, job_id: str) -> str:
    """Return a job as one text, for the address of a page."""
    return f"{quote(source, safe='')}/{quote(job_id, safe='')}"


def read_job_key(key: str) -> tuple[str, str]:
    """Return the source and the id of a job from one text."""
    source, _, job_id = key.partition("/")
    return unquote(source), unquote(job_id)


def _job_path(source: str, job_id: str) -> str:
    return f"/jobs/{_job_key(source, job_id)}"


def _is_copyable(name: str) -> bool:
    return len(name) <= MAX_COPYABLE and name.isprintable()


def _freshness(job: Row, now: datetime) -> presentation.Label:
    read_at = job["last_complete_at"]
    return presentation.freshness(job, None if read_at is None else (now - read_at).total_seconds())


_templates: Final = Environment(
    loader=PackageLoader("checkpointd.web"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_templates.globals.update(
    version=__version__, job_key=_job_key, job_path=_job_path, is_copyable=_is_copyable, max_compared=MAX_COMPARED
)
_templates.filters.update(
    ago=presentation.ago,
    count=lambda n: "" if n is None else f"{n:,}",
    cut=presentation.cut,
    failures=presentation.failures,
    finding=presentation.finding,
    freshness=_freshness,
    job_tone=presentation.job_tone,
    level_tone=presentation.level_tone,
    number=presentation.number,
    problems=presentation.problems,
    progress=presentation.progress,
    source_advice=presentation.source_advice,
    source_state=presentation.source_state,
    source_tone=presentation.source_tone,
    timestamp=presentation.timestamp,
)


def jobs_page(data: JobsPage, problems: Sequence[str]) -> str:
    """Return the page of jobs. `problems` are the reasons why the daemon cannot work."""
    rows = []
    for n, job in enumerate(data.jobs):
        curve = data.curves.get(n)
        sparkline, epoch = (None, None) if curve is None else (figures.sparkline(curve), curve["epoch"])
        rows.append({"job": job, "sparkline": sparkline, "epoch": epoch})
    return _render(
        "jobs.html",
        data=data,
        now=data.at,
        rows=rows,
        problems=problems,
        query=data.query,
        with_other_statuses=data.page.total - sum(count for _, count in data.statuses),
    )


def job_page(data: JobPage, problems: Sequence[str]) -> str:
    """Return the page of one job. `problems` are the reasons why the daemon cannot work."""
    job = data.job
    return _render(
        "job.html",
        data=data,
        job=job,
        now=job["at"],
        problems=problems,
        query="",
        training=data.training,
        figures=metric_charts.of_job(data.training, data.curves, data.drawn, data.view),
        epoch=max((row["epoch"] for row in data.drawn if row["epoch"] is not None), default=None),
        error=presentation.provider_error(job["error"]),
        hyperparameters=presentation.hyperparameters(job["hyperparameters"]),
    )


def comparison_page(data: ComparisonPage, problems: Sequence[str]) -> str:
    """Return the page of several jobs. `problems` are the reasons why the daemon cannot work."""
    return _render(
        "compare.html",
        data=data,
        now=data.jobs[0]["at"] if data.jobs else None,
        problems=problems,
        query="",
        letters=metric_charts.LETTERS,
        figures=metric_charts.of_jobs(data.trainings, data.names, data.curves, data.view),
        properties=differences.properties(data.jobs, data.best_steps),
    )


def problem_page(title: str, explanation: str, details: Sequence[str] = ()) -> str:
    """Return a page that explains why the requested page cannot be shown."""
    return _render("problem.html", title=title, explanation=explanation, details=details, problems=(), query="")


def _render(template: str, **values: Any) -> str:  # noqa: ANN401  # whatever the template needs
    return _templates.get_template(template).render(**values)
