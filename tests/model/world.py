"""The provider of the histories: what it lists of one job, how that list changes, and how its answers fail.

Each event is a small tuple, so that a history is printed as a script.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from model.reference import SOURCE_FAILURES, Answer, Failure, Item, Page, Value
from support.provider import body, error
from support.spoilt import FAULTS

METRICS = ("train_loss", "valid_loss", "full_valid_loss", "train_mean_reward")
ABSENT, NOT_FINITE = "absent", "NaN"
DAMAGES = ("unreadable", "no id", "foreign", "other job")
IMPORTANT = {"unreadable": "step_number", "other job": "fine_tuning_job_id"}
"""The important values that are odd in an item that is damaged so."""
CREATED_AT = 1_767_225_600

# Changes of the list. An index counts modulo the length of the list.


class Publish(NamedTuple):
    """New checkpoints appear at an index of the list. 0 is its head; anywhere else they look older than they are."""

    count: int
    at: int = 0


class Withdraw(NamedTuple):
    """Checkpoints leave the list."""

    count: int
    at: int


class Restore(NamedTuple):
    """The checkpoints that left return to the list, at an index."""

    at: int


class Reorder(NamedTuple):
    """The list is rotated by so many items. It is reversed, too, if the number is odd."""

    turn: int


class Duplicate(NamedTuple):
    """From now on a checkpoint is also listed at the top of each page; a second time ends this."""

    at: int


class SetValue(NamedTuple):
    """A value of a checkpoint changes, becomes null, absent or NaN."""

    at: int
    field: str
    value: Value


class Damage(NamedTuple):
    """The item of a checkpoint gets one of DAMAGES, or becomes readable again (None)."""

    at: int
    damage: str | None


Edit = Publish | Withdraw | Restore | Reorder | Duplicate | SetValue | Damage


class Fault(NamedTuple):
    """The answer with the page of this index fails so many times. `kind` is a key of FAULTS, or STUCK_CURSOR."""

    page: int
    kind: str
    times: int


STUCK_CURSOR = "cursor ignored"
"""The previous page is sent again."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of the provider."""

    number: int
    values: dict[str, Value]
    damage: str | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return f"ftckpt-{self.number}"

    def item(self, job: str) -> Item:
        """Return the item that the provider sends."""
        sent = {name: value for name, value in self.values.items() if value != ABSENT}
        step_number = sent["step_number"]
        record = {
            "object": "fine_tuning.job.event" if self.damage == "foreign" else "fine_tuning.job.checkpoint",
            "id": self.id,
            "created_at": CREATED_AT + self.number,
            "fine_tuned_model_checkpoint": sent["fine_tuned_model_checkpoint"],
            "fine_tuning_job_id": "ftjob-other" if self.damage == "other job" else job,
            "metrics": {
                name: float("nan") if value == NOT_FINITE else value for name, value in sent.items() if name in METRICS
            },
            "step_number": str(step_number) if self.damage == "unreadable" else step_number,
        }
        has_no_id = self.damage == "no id"
        return Item(
            id=None if has_no_id else self.id,
            values={**self._values_in_view(), "created_at": CREATED_AT + self.number},
            flaw=self._flaw(),
            text='"no object"' if has_no_id else json.dumps(record),
            odd=self._odd(),
        )

    def _values_in_view(self) -> dict[str, Value]:
        """Return the values by the names of the view's columns."""
        return {
            f"extra_metrics.{name}" if name == "train_mean_reward" else name: None if value == NOT_FINITE else value
            for name, value in self.values.items()
            if value != ABSENT
        }

    def _odd(self) -> tuple[str, ...]:
        """Return the names of the odd values: the important one, which is the only reason then, or those of metrics."""
        if self.damage in IMPORTANT:
            return (IMPORTANT[self.damage],)
        return tuple(name for name, value in self.values.items() if value == NOT_FINITE)

    def _flaw(self) -> str | None:
        if self.damage == "foreign":
            return "foreign"
        if self.damage is not None:
            return "unreadable"
        return "not finite" if NOT_FINITE in self.values.values() else None


@dataclass
class Script:
    """What happens during one poll, and what the provider answered."""

    faults: tuple[Fault, ...] = ()
    edits: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = ()
    """What happens before the page of this index is sent."""
    hold: int | None = None
    """The index of the page that waits for `go_on`."""
    answers: list[Answer] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the page of `hold` was requested."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_released(self) -> bool:
        """True if the source rejected the poll before any page was read: then nothing is saved of it."""
        *before, last = self.answers or [None]
        is_rejected = isinstance(last, Failure) and last.error_class in SOURCE_FAILURES
        return is_rejected and not any(isinstance(answer, Page) or answer.page for answer in before)

    @property
    def pages(self) -> list[Page]:
        """The pages that were sent."""
        return [answer for answer in self.answers if isinstance(answer, Page)]

    async def apply_edits(self, index: int) -> None:
        """Do what happens before the page of this index."""
        due = [edit for at, edit in self.edits if at == index]
        self.edits = tuple((at, edit) for at, edit in self.edits if at != index)
        for edit in due:
            await edit()

    async def wait_if_held(self, index: int) -> None:
        """Wait for `go_on` if `hold` is this index, once."""
        if self.hold == index:
            self.hold = None
            self.reached.set()
            await self.go_on.wait()

    def take_fault(self, index: int) -> str | None:
        """Return the kind of the fault of this page, or None, and count it."""
        for place, fault in enumerate(self.faults):
            if fault.page == index and fault.times > 0:
                counted = fault._replace(times=fault.times - 1)
                self.faults = (*self.faults[:place], counted, *self.faults[place + 1 :])
                return fault.kind
        return None


class World:
    """The list of one job, served page by page. `scripts` has the script of the running poll of each daemon."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.listed: list[Checkpoint] = []
        self.scripts: dict[str, Script] = {}
        self._withdrawn: list[Checkpoint] = []
        self._duplicated: set[int] = set()
        self._published = 0

    @property
    def readable(self) -> dict[str, Item]:
        """The items that can be read from the whole list, by id."""
        items = [checkpoint.item(self.job) for checkpoint in self.listed]
        return {item.id: item for item in items if item.id is not None and item.is_readable}

    def edit(self, edit: Edit) -> None:
        """Change the list."""
        if isinstance(edit, Publish):
            published = [self._new_checkpoint() for _ in range(edit.count)]
            at = edit.at % (len(self.listed) + 1)
            self.listed[at:at] = reversed(published)
        elif isinstance(edit, Restore):
            at = edit.at % (len(self.listed) + 1)
            self.listed[at:at] = self._withdrawn
            self._withdrawn = []
        elif isinstance(edit, Reorder) and self.listed:
            turn = edit.turn % len(self.listed)
            rotated = self.listed[turn:] + self.listed[:turn]
            self.listed = rotated[::-1] if edit.turn % 2 else rotated
        elif self.listed:
            assert not isinstance(edit, Reorder)
            self._edit_one(edit, edit.at % len(self.listed))

    def _new_checkpoint(self) -> Checkpoint:
        self._published += 1
        number = self._published
        model = f"ft:m:{number}:ckpt-step-{number}"
        metrics: dict[str, Value] = {"train_loss": 1 / number, "valid_loss": 2 / number}
        return Checkpoint(number, {"step_number": number, "fine_tuned_model_checkpoint": model, **metrics})

    def _edit_one(self, edit: Withdraw | Duplicate | SetValue | Damage, at: int) -> None:
        chosen = self.listed[at]
        match edit:
            case Withdraw(count=count):
                self._withdrawn += self.listed[at : at + count]
                del self.listed[at : at + count]
            case Duplicate():
                self._duplicated ^= {chosen.number}
            case SetValue(field=field_, value=value):
                self.listed[at] = Checkpoint(chosen.number, {**chosen.values, field_: value}, chosen.damage)
            case Damage(damage=damage):
                self.listed[at] = Checkpoint(chosen.number, chosen.values, damage)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a page of the list, and record the answer in the script of its daemon."""
        script = self.scripts[request.headers["X-Daemon"]]
        index = len(script.pages)
        await script.apply_edits(index)
        await script.wait_if_held(index)
        after = request.query.get("after")
        fault = script.take_fault(index)
        page = self._page(after, int(request.query["limit"]))
        if fault == STUCK_CURSOR:
            fault = None
            if script.pages:
                page = script.pages[-1]._replace(after=after, has_more=True)
        if page is None:
            script.answers.append(Failure(after, "cursor_lost"))
            return error(400, "invalid_cursor")
        items = ", ".join(item.text for item in page.items)
        good = f'{{"object": "list", "data": [{items}], "has_more": {json.dumps(page.has_more)}}}'.encode()
        if fault is None:
            script.answers.append(page)
            return body(good)
        wrong = FAULTS[fault]
        error_class = wrong.on_a_later_page if after else wrong.error_class
        script.answers.append(Failure(after, error_class, page if wrong.has_items else None))
        spoilt = wrong.spoil(good)
        return (await spoilt(request)) if callable(spoilt) else spoilt

    def _page(self, after: str | None, limit: int) -> Page | None:
        """Return the page after a cursor, or None if the cursor is not in the list."""
        start = 0
        if after is not None:
            ids = [checkpoint.id for checkpoint in self.listed]
            if after not in ids:
                return None
            start = ids.index(after) + 1
        listed = self.listed[start : start + limit]
        duplicates = [one for one in self.listed if one.number in self._duplicated] if listed else []
        items = [checkpoint.item(self.job) for checkpoint in (*duplicates, *listed)]
        return Page(after, items, has_more=len(self.listed) > start + limit)
