"""What a wire format consists of: its lists, and how their items are read. Pure."""

from enum import Enum
from typing import NamedTuple, Self
from urllib.parse import quote

from checkpointd.domain.checkpoint import CheckpointReader
from checkpointd.domain.event_list import ReadEvents, read_events
from checkpointd.domain.job import ReadRecord, read_record


class Paging(Enum):
    """How the pages of a list follow each other."""

    AFTER = "after"
    """`after` is the id of the last item of the page before. `has_more` says whether a page follows."""
    AFTER_FULL = "after, and a full page"
    """The same. But a page may lack `has_more`: then a page follows if this one has as many items as requested."""
    WHOLE = "whole"
    """The list is one page."""
    OFFSET = "offset"
    """The cursor is the number of items before the page. The member `cursor` of a page has `offset`, and `total_count`,
    the number of all items."""
    WHOLE_OR_OFFSET = "whole, or offset"
    """The same. But the list may be one page, without `cursor`. So the first request has no limit."""


class ListFormat(NamedTuple):
    """A list of an API: its path below the base URL, in which {} stands for the id of a job, and its pages."""

    path: str
    paging: Paging = Paging.AFTER
    items: str = "data"
    """The member of a page that has its items."""
    null_is_empty: bool = False
    """True if this member can be null instead of an empty array."""

    def of_job(self, job_id: str) -> Self:
        """Return the list of a job: the path has its id."""
        return self._replace(path=self.path.format(quote(job_id, safe="")))

    def query(self, cursor: str | None, page_size: int) -> str:
        """Return the query of the page after `cursor`, encoded. None is the first page."""
        if self.paging is Paging.WHOLE or (self.paging is Paging.WHOLE_OR_OFFSET and not cursor):
            return ""
        if self.paging in {Paging.OFFSET, Paging.WHOLE_OR_OFFSET}:
            return f"limit={page_size}&offset={cursor or 0}"
        after = f"&after={quote(cursor, safe='')}" if cursor else ""
        return f"limit={page_size}{after}"


class Format(NamedTuple):
    """A wire format: its lists, and how their items are read."""

    checkpoints: ListFormat
    reader: CheckpointReader
    jobs: ListFormat | None = None
    """The job list, or None if there is none."""
    read_record: ReadRecord = read_record
    events: ListFormat | None = None
    """The list with the events or the step metrics of a job, or None if there is none."""
    read_events: ReadEvents = read_events

    def with_paging(self, paging: Paging) -> Self:
        """Return the same format with another paging of all lists."""
        jobs = self.jobs and self.jobs._replace(paging=paging)
        events = self.events and self.events._replace(paging=paging)
        return self._replace(checkpoints=self.checkpoints._replace(paging=paging), jobs=jobs, events=events)
