"""What a wire format consists of: its lists, and how their items are read. Pure."""

from typing import Literal, NamedTuple, Self
from urllib.parse import quote

from checkpointd.domain.checkpoint import CheckpointReader
from checkpointd.domain.event_list import ReadEvents, read_events
from checkpointd.domain.job import ReadRecord, read_record
from checkpointd.domain.job_filter import ALL_FILTERS

Paging = Literal["after", "after_empty", "whole", "offset", "whole_or_offset"]
"""How the pages of a list follow each other.

- after: `after` is the id of the last item of the page before. `has_more` says whether a page follows.
- after_empty: the same. But `has_more` may be absent or null: then a page follows unless this one is empty. A page with
  fewer items than requested can be followed, too, because a provider may have a smaller maximum.
- whole: the list is one page.
- offset: the cursor is the number of items before the page. The member `cursor` of a page has `offset`, and
  `total_count`, the number of all items.
- whole_or_offset: the same. But the list may be one page, without `cursor`. So the first request has no limit.
"""


class ListFormat(NamedTuple):
    """A list of an API: its path below the base URL, in which {} stands for the id of a job, and its pages."""

    path: str
    paging: Paging = "after"
    items: str = "data"
    """The member of a page that has its items."""
    null_is_empty: bool = False
    """True if this member can be null instead of an empty array."""

    def of_job(self, job_id: str) -> "ListFormat":
        """Return the list of a job: the path has its id."""
        return ListFormat(self.path.replace("{}", quote(job_id, safe="")), *self[1:])

    def query(self, cursor: str | None, page_size: int) -> str:
        """Return the query of the page after `cursor`, encoded. None is the first page."""
        if self.paging in {"after", "after_empty"}:
            return f"limit={page_size}&after={quote(cursor, safe='')}" if cursor else f"limit={page_size}"
        if self.paging == "offset" or cursor:
            return f"limit={page_size}&offset={cursor or 0}"
        return ""


class Format(NamedTuple):
    """A wire format: its lists, and how their items are read."""

    checkpoints: ListFormat
    reader: CheckpointReader
    jobs: ListFormat | None = None
    """The job list, or None if the format has none."""
    read_record: ReadRecord = read_record
    filters: frozenset[str] = ALL_FILTERS
    """The filters of discovery that a job can pass: those for values that its record states."""
    passing_members: frozenset[str] = frozenset()
    """The members of a job record that change by themselves. If no other member changes, the record is unchanged."""
    events: ListFormat | None = None
    """The list with the events or the step metrics of a job, or None if the format has none."""
    read_events: ReadEvents = read_events
    models: ListFormat | None = None
    """The list of models, which may say when they are shut down, or None if the format has none."""

    @property
    def lists(self) -> list[ListFormat]:
        """All lists of the format."""
        return [found for found in (self.checkpoints, self.jobs, self.events, self.models) if found is not None]

    def with_paging(self, paging: Paging) -> Self:
        """Return the same format with another paging of all lists."""
        jobs = self.jobs and self.jobs._replace(paging=paging)
        events = self.events and self.events._replace(paging=paging)
        return self._replace(checkpoints=self.checkpoints._replace(paging=paging), jobs=jobs, events=events)
