"""What may be known of a job, by the promises of the README alone: written without a look at the daemon's code.

It is told what the provider really answered in a poll, and says what the views must show thereafter. The provider's
world (world.py) speaks of items and answers in the words of this file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Value = str | int | float | None

OF_SOURCE = {"throttled", "quota", "refused"}
"""Classes of failures that befall the key or the account, and count against no job."""


class Item(NamedTuple):
    """One item of a page: what it says by the names of the view's columns (None: null), and its text."""

    id: str
    values: Mapping[str, Value]
    flaw: str | None
    """None; unreadable (but for its id); nameless; foreign (of another type); not finite (one value, given as null)."""
    text: str


class Page(NamedTuple):
    """An answer that is a page of the list. `after`: the cursor that was sent."""

    after: str | None
    items: Sequence[Item]
    has_more: bool


class Broken(NamedTuple):
    """An answer that is none, and the class that it must get."""

    after: str | None
    error_class: str


Answer = Page | Broken


class Change(NamedTuple):
    """A row of the view changes."""

    kind: str
    checkpoint_id: str | None
    field: str | None = None
    old_value: Value = None
    new_value: Value = None


@dataclass
class Known:
    """A checkpoint: its last known values, the item as it last came, and how many listings in a row lacked it."""

    values: dict[str, Value]
    item: Item
    absences: int = 0
    missing: bool = False


@dataclass
class Run:
    """A row of the view polls."""

    outcome: str
    error_class: str | None
    new: int
    changed: int
    count: int = 1


@dataclass
class Told:
    """What a poll told: which of the four times it moves, and which checkpoints it may have written anew."""

    complete: bool = False
    success: bool = False
    changes: list[Change] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    rejects: set[str] = field(default_factory=set)
    run: Run | None = None
    """The row of polls that it may have written, or added to."""


@dataclass
class Model:
    """All that may be known of one job."""

    checkpoints: dict[str, Known] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    rejects: set[str] = field(default_factory=set)
    failures: int = 0
    error_class: str | None = None
    status: str | None = None
    _failing: Run | None = None

    @property
    def phase(self) -> str:
        """The phase of the job in the view jobs."""
        if self.error_class in {"missing", "forbidden"}:
            return self.error_class
        return "settling" if self.status in {"succeeded", "failed", "cancelled"} else "active"

    def tell(self, status: str) -> None:
        """Take in what the job list says."""
        if status != self.status:
            self.changes.append(Change("status", None, "status", self.status, status))
            self.status = status

    def poll(self, answers: Sequence[Answer], most_pages: int) -> Told:
        """Take in what a poll was answered, if it was saved."""
        listings = list(_listings(answers))
        why = _why_incomplete(answers, listings, most_pages)
        if not listings:
            if why is not None:
                self._fail(why)
            return Told(run=self._failing)
        pages = [page for listing in listings for page in listing]  # of one that began anew, too
        believed = []
        for page in pages:
            if any(item.flaw == "foreign" for item in page.items):
                why = "other_list"
                break
            believed.append(page)
        items = [item for page in believed for item in page.items]
        told = Told(complete=why is None)
        told.rejects = {item.text for item in items if item.flaw}
        told.success = told.complete and not told.rejects
        for item in {item.id: item for item in items if item.flaw in {None, "not finite"}}.values():
            self._see(item, told)
        for item in items:
            if item.flaw == "unreadable" and item.id in self.checkpoints:
                self.checkpoints[item.id].absences = 0
        if told.complete:
            self._miss({item.id for item in items}, told, nameless=any(item.flaw == "nameless" for item in items))
        self._note(why, told)
        return told

    def _see(self, item: Item, told: Told) -> None:
        known = self.checkpoints.get(item.id)
        if known is None:
            values = {name: value for name, value in item.values.items() if value is not None}
            self.checkpoints[item.id] = Known(values, item)
            told.changes.append(Change("new", item.id))
            told.written.add(item.id)
            return
        if known.missing:
            told.changes.append(Change("returned", item.id))
        for name in {**known.item.values, **item.values}:
            before, now = known.item.values.get(name), item.values.get(name)
            if now is not None:
                known.values[name] = now
            if now != before:
                told.changes.append(Change("regressed" if now is None else "changed", item.id, name, before, now))
        if known.missing or known.item.text != item.text:
            told.written.add(item.id)
        known.item, known.absences, known.missing = item, 0, False

    def _miss(self, listed: set[str], told: Told, *, nameless: bool) -> None:
        for checkpoint_id, known in self.checkpoints.items():
            if checkpoint_id in listed or known.missing:
                continue
            known.absences = 0 if nameless else known.absences + 1  # the nameless may be any of them
            if known.absences == 2:
                known.missing = True
                told.changes.append(Change("missing", checkpoint_id))
                told.written.add(checkpoint_id)

    def _note(self, why: str | None, told: Told) -> None:
        self.changes += told.changes
        self.rejects |= told.rejects
        if told.changes:
            new = sum(change.kind == "new" for change in told.changes)
            changed = len({change.checkpoint_id for change in told.changes if change.kind != "new"})
            told.run = Run("partial" if why else "changed", why, new, changed)
            self.runs.append(told.run)
        if why is None:
            self.failures, self.error_class, self._failing = 0, None, None
        else:
            self._fail(why, told.run)
            told.run = told.run or self._failing

    def _fail(self, why: str, run: Run | None = None) -> None:
        """Count a failure against the job, in a row for each run of equal ones, but for what befalls its source."""
        if why in OF_SOURCE:
            return
        if run is not None:
            self._failing = run
        elif self._failing is not None and self._failing.error_class == why:
            self._failing.count += 1
        else:
            self._failing = Run("failed", why, 0, 0)
            self.runs.append(self._failing)
        self.failures += 1
        self.error_class = why


def _listings(answers: Iterable[Answer]) -> Iterable[list[Page]]:
    """Split the pages that were read into listings: one that begins anew after its first page is another."""
    listing: list[Page] = []
    for answer in answers:
        if answer.after is None and listing:
            yield listing
            listing = []
        if isinstance(answer, Page):
            listing.append(answer)
    if listing:
        yield listing


def _why_incomplete(answers: Sequence[Answer], listings: Sequence[Sequence[Page]], most_pages: int) -> str | None:
    """Say why the list was not read to its end; None: it was."""
    if not answers:
        return None
    last = answers[-1]
    if isinstance(last, Broken):
        return last.error_class
    if not last.has_more:
        return None
    if not last.items:
        return "empty_page"
    pages = listings[-1]
    if last.items[-1].flaw == "nameless":
        return "bad_has_more"
    if last.items[-1].id in {page.after for page in pages}:
        return "cursor_repeated"
    return "too_many_pages" if len(pages) == most_pages else "left in the middle"
