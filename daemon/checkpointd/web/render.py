"""The pages as HTML. What a template prints is escaped and made visible: no name and no error can script a page.

Jinja2 escapes by itself; `finalize` sees every value before that.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from checkpointd import __version__, presentation
from checkpointd.presentation import Row
from checkpointd.web import figures
from checkpointd.web.data import Job, Jobs

COPYABLE: Final = 300
"""Characters; a longer name is cut, and is none that anybody deploys."""


def _finalize(value: object) -> object:
    if value is None:
        return ""
    return presentation.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _job_path(source: str, job_id: str) -> str:
    return f"/jobs/{quote(source, safe='')}/{quote(job_id, safe='')}"


def _is_copyable(name: str) -> bool:
    return len(name) <= COPYABLE and name.isprintable()


def _freshness(job: Row, now: datetime) -> presentation.Said:
    read_at = job["last_complete_at"]
    return presentation.freshness(job, None if read_at is None else (now - read_at).total_seconds())


_pages: Final = Environment(
    loader=PackageLoader("checkpointd.web"), autoescape=True, undefined=StrictUndefined, finalize=_finalize,
    trim_blocks=True, lstrip_blocks=True, auto_reload=False,
)  # fmt: skip
_pages.globals.update(version=__version__, job_path=_job_path, is_copyable=_is_copyable)
_pages.filters.update(
    ago=presentation.ago, clock=presentation.clock, cut=presentation.cut, number=presentation.number,
    count=lambda n: f"{n:,}",
    freshness=_freshness, trouble=presentation.trouble, failing=presentation.failing, progress=presentation.progress,
    tone=presentation.tone, source_tone=presentation.source_tone,
)  # fmt: skip


def jobs(read: Jobs, problems: Sequence[str]) -> str:
    """Write the page of jobs; `problems` keep the daemon from its work."""
    rows = [
        {"job": job, "spark": figures.sparkline(read.curves[n]) if n in read.curves else None,
         "epoch": read.curves[n]["epoch"] if n in read.curves else None}
        for n, job in enumerate(read.jobs)
    ]  # fmt: skip
    return _write(
        "jobs.html", read=read, now=read.at, rows=rows, problems=problems, query=read.query,
        others=read.part.total - sum(count for _, count in read.statuses),
    )  # fmt: skip


def job(read: Job, problems: Sequence[str]) -> str:
    """Write the page of one job."""
    found: Row = read.job
    return _write(
        "job.html", read=read, job=found, now=found["at"], problems=problems, query="",
        figures=[figures.losses(read.curve), figures.accuracies(read.curve)],
        epoch=max((row["epoch"] for row in read.curve if row["epoch"] is not None), default=None),
        error=presentation.provider_error(found["error"]),
        hyperparameters=presentation.hyperparameters(found["hyperparameters"]),
    )  # fmt: skip


def problem(title: str, explanation: str, details: Sequence[str] = ()) -> str:
    """Write a page that says what is wrong, in place of the one that was asked for."""
    return _write("problem.html", title=title, explanation=explanation, details=details, problems=(), query="")


def _write(template: str, **values: Any) -> str:  # noqa: ANN401  # what a template needs
    return _pages.get_template(template).render(**values)
