"""The reference model: what the views must show of a job, computed from what the provider really answered.

It follows from the documented promises alone (sql/README.md) and shares no code with the daemon. The provider of the
histories (world.py) describes its items and answers in the types of this module.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

Value = str | int | float | None

SOURCE_FAILURES = {"throttled", "quota", "refused"}
"""The error classes of failures that concern the key or the account, and are not blamed on a job."""

FINAL_STATUSES = {"succeeded", "failed", "cancelled"}


class Item(NamedTuple):
    """One item of a page."""

    id: str | None
    """None if it has no id that can be read: it may be any checkpoint."""
    values: Mapping[str, Value]
    """Its values by the names of the view's columns; None for null."""
    flaw: str | None
    """None, "unreadable", "foreign" (of another type), or "not finite" (one value, which is given here as null)."""
    text: str
    odd: tuple[str, ...] = ()
    """The names of the odd values."""

    @property
    def reject(self) -> tuple[object, ...]:
        """What identifies its reject: the id and what is odd or, without an id, the text."""
        return (self.text,) if self.id is None or self.flaw == "foreign" else (self.id, self.flaw, *self.odd)

    @property
    def is_readable(self) -> bool:
        """True if a checkpoint can be read from it."""
        return self.flaw in {None, "not finite"}


class Page(NamedTuple):
    """An answer that is a page of the list. `after` is the cursor of the request."""

    after: str | None
    items: Sequence[Item]
    has_more: bool


class Failure(NamedTuple):
    """An answer that is not a page, and the error class that it must get. `after` is the cursor of the request.

    `page` are the items that it has nevertheless, if only `has_more` is wrong.
    """

    after: str | None
    error_class: str
    page: Page | None = None


Answer = Page | Failure


class Change(NamedTuple):
    """A row of the view changes."""

    kind: str
    checkpoint_id: str | None
    field: str | None = None
    old_value: Value = None
    new_value: Value = None


@dataclass
class CheckpointRow:
    """A row of the view checkpoints."""

    values: dict[str, Value]
    """The last known values."""
    item: Item
    """The item as last listed."""
    absences: int = 0
    """How many complete listings in a row lacked it."""
    missing: bool = False


@dataclass
class PollRow:
    """A row of the view polls."""

    outcome: str
    error_class: str | None
    new: int
    changed: int
    count: int = 1


@dataclass
class Effect:
    """What one step must change in the views, and which rows it may write."""

    complete: bool = False
    """True if last_complete_at must move."""
    success: bool = False
    """True if last_success_at must move."""
    changes: list[Change] = field(default_factory=list)
    """The new rows of the view changes."""
    written: set[str] = field(default_factory=set)
    """The ids of the checkpoints whose rows may be written."""
    rejects: set[str] = field(default_factory=set)
    """The texts of the rejects whose rows may be written."""
    poll_row: PollRow | None = None
    """The row of polls that may be written."""


@dataclass
class Model:
    """What the views must show of one job."""

    checkpoints: dict[str, CheckpointRow] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    poll_rows: list[PollRow] = field(default_factory=list)
    rejects: dict[tuple[object, ...], str] = field(default_factory=dict)
    """The text of each reject when it was first read, by what identifies it."""
    failures: int = 0
    error_class: str | None = None
    status: str | None = None
    _failing: PollRow | None = None
    """The row that counts equal failures in a row, or None after a complete listing."""

    @property
    def phase(self) -> str:
        """The phase in the view jobs."""
        if self.error_class in {"missing", "forbidden"}:
            return self.error_class
        return "settling" if self.status in FINAL_STATUSES else "active"

    def apply_status(self, status: str) -> Effect:
        """Apply a status that the job list reported."""
        effect = Effect()
        if status != self.status:
            effect.changes.append(Change("status", None, "status", self.status, status))
            self.changes += effect.changes
            self.status = status
        return effect

    def apply_poll(self, answers: Sequence[Answer], page_limit: int) -> Effect:
        """Apply a poll that was saved, by the answers to its requests. A poll reads at most `page_limit` pages."""
        listings = list(_split_into_listings(answers))
        error_class = _error_class(answers, listings, page_limit)
        if not listings:
            if error_class is not None:
                self._apply_failure(error_class)
            return Effect(poll_row=self._failing)
        items: list[Item] = []
        for page in [page for listing in listings for page in listing]:  # a listing that started again counts, too
            foreign = sum(item.flaw == "foreign" for item in page.items)
            if foreign and foreign == sum(item.id is not None for item in page.items):
                error_class = "other_list"
                break  # neither this page nor a later one counts
            items += page.items
        effect = Effect(complete=error_class is None)
        effect.rejects = {self.rejects.setdefault(item.reject, item.text) for item in items if item.flaw}
        effect.success = effect.complete and all(item.is_readable for item in items)
        for item in {item.id: item for item in items if item.is_readable}.values():  # the last one of each id
            self._apply_item(item, effect)
        for item in items:
            if item.flaw == "unreadable" and item.id in self.checkpoints:
                self.checkpoints[item.id].absences = 0
        if effect.complete:
            self._apply_absences({None if item.flaw == "foreign" else item.id for item in items}, effect)
        self._record(error_class, effect)
        return effect

    def _apply_item(self, item: Item, effect: Effect) -> None:
        assert item.id is not None
        known = self.checkpoints.get(item.id)
        if known is None:
            values = {name: value for name, value in item.values.items() if value is not None}
            self.checkpoints[item.id] = CheckpointRow(values, item)
            effect.changes.append(Change("new", item.id))
            effect.written.add(item.id)
            return
        if known.missing:
            effect.changes.append(Change("returned", item.id))
        for name in {**known.item.values, **item.values}:
            before, now = known.item.values.get(name), item.values.get(name)
            if now is not None:
                known.values[name] = now
            if now != before:
                effect.changes.append(Change("regressed" if now is None else "changed", item.id, name, before, now))
                effect.written.add(item.id)
        if known.missing:
            effect.written.add(item.id)
        known.item, known.absences, known.missing = item, 0, False

    def _apply_absences(self, listed: set[str | None], effect: Effect) -> None:
        for checkpoint_id, known in self.checkpoints.items():
            if checkpoint_id in listed or known.missing:
                continue
            known.absences = 0 if None in listed else known.absences + 1  # an item without an id may be any checkpoint
            if known.absences == 2:
                known.missing = True
                effect.changes.append(Change("missing", checkpoint_id))
                effect.written.add(checkpoint_id)

    def _record(self, error_class: str | None, effect: Effect) -> None:
        """Record a poll that read at least one page."""
        self.changes += effect.changes
        if effect.changes:
            new = sum(change.kind == "new" for change in effect.changes)
            changed = len({change.checkpoint_id for change in effect.changes if change.kind != "new"})
            effect.poll_row = PollRow("partial" if error_class else "changed", error_class, new, changed)
            self.poll_rows.append(effect.poll_row)
        if error_class is None:
            self.failures, self.error_class, self._failing = 0, None, None
        else:
            self._apply_failure(error_class, effect.poll_row)
            effect.poll_row = effect.poll_row or self._failing

    def _apply_failure(self, error_class: str, poll_row: PollRow | None = None) -> None:
        """Count a failure of the job. `poll_row` is the row of this poll, or None if it found no change."""
        if error_class in SOURCE_FAILURES:
            return
        if poll_row is not None:
            self._failing = None  # a row with changes counts no further polls
        elif self._failing is not None and self._failing.error_class == error_class:
            self._failing.count += 1
        else:
            self._failing = PollRow("failed", error_class, 0, 0)
            self.poll_rows.append(self._failing)
        self.failures += 1
        self.error_class = error_class


def _split_into_listings(answers: Iterable[Answer]) -> Iterable[list[Page]]:
    """Split the pages of a poll into listings. A further request without a cursor starts the listing again.

    A request that is tried again has the page of the last try that has one.
    """
    listing: list[Page] = []
    for after, tries in groupby(answers, key=lambda answer: answer.after):
        if after is None and listing:
            yield listing
            listing = []
        pages = [answer if isinstance(answer, Page) else answer.page for answer in tries]
        listing += [page for page in pages if page is not None][-1:]
    if listing:
        yield listing


def _error_class(answers: Sequence[Answer], listings: Sequence[Sequence[Page]], page_limit: int) -> str | None:
    """Return why the last listing was not read to its end, or None if it was."""
    if not answers:
        return None
    last = answers[-1]
    if isinstance(last, Failure):
        return last.error_class
    if not last.has_more:
        return None
    if not last.items:
        return "empty_page"
    pages = listings[-1]
    cursor = last.items[-1].id
    if cursor is None:
        return "bad_has_more"
    if cursor in {page.after for page in pages}:
        return "cursor_repeated"
    return "too_many_pages" if len(pages) == page_limit else "left in the middle"
