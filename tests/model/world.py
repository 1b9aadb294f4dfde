"""A provider's world, for histories: what it lists of one job, what befalls that list, and how its answers go wrong.

Each thing that may happen is a small tuple, so that a history is a list that reads as a script.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from model.reference import OF_SOURCE, Answer, Broken, Item, Page, Value
from support.provider import body, error
from support.spoilt import FAULTS

METRICS = ("train_loss", "valid_loss", "full_valid_loss", "train_mean_reward")
ABSENT, NOT_FINITE = "absent", "NaN"
FLAWS = ("unreadable", "nameless", "foreign", "other job")


class Publish(NamedTuple):
    """New checkpoints appear at a place of the list: 0 is its head, elsewhere they are old-dated."""

    count: int
    at: int = 0


class Withdraw(NamedTuple):
    """Checkpoints leave the list."""

    count: int
    at: int


class Restore(NamedTuple):
    """Checkpoints that left come back, at a place of the list."""

    at: int


class Reorder(NamedTuple):
    """The list is turned, and reversed."""

    turn: int


class Double(NamedTuple):
    """A checkpoint is listed a second time, at the top of each page, as it is now."""

    at: int


class Change(NamedTuple):
    """A value changes, becomes null, absent or NaN."""

    at: int
    field: str
    value: Value


class Spoil(NamedTuple):
    """An item becomes unreadable, or (None) readable again."""

    at: int
    flaw: str | None


Edit = Publish | Withdraw | Restore | Reorder | Double | Change | Spoil


class Fault(NamedTuple):
    """The page with this number goes wrong, so many times: "cursor ignored" gives the one before again."""

    page: int
    kind: str
    times: int


IGNORED = "cursor ignored"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as the provider has it."""

    number: int
    values: dict[str, Value]
    flaw: str | None = None

    def item(self, job: str) -> Item:
        """Return the item that the provider sends."""
        values = {name: value for name, value in self.values.items() if value != ABSENT}
        sent = {
            "object": "fine_tuning.job.event" if self.flaw == "foreign" else "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{self.number}",
            "created_at": 1_767_225_600 + self.number,
            "fine_tuned_model_checkpoint": values["fine_tuned_model_checkpoint"],
            "fine_tuning_job_id": "ftjob-other" if self.flaw == "other job" else job,
            "metrics": {
                name: float("nan") if value == NOT_FINITE else value
                for name, value in values.items()
                if name in METRICS
            },
            "step_number": str(values["step_number"]) if self.flaw == "unreadable" else values["step_number"],
        }
        odd = any(value == NOT_FINITE for value in values.values())
        told = {
            f"extra_metrics.{name}" if name == "train_mean_reward" else name: None if value == NOT_FINITE else value
            for name, value in values.items()
        }
        flaw = "unreadable" if self.flaw == "other job" else self.flaw or ("not finite" if odd else None)
        text = '"no object"' if flaw == "nameless" else json.dumps(sent)
        return Item(str(sent["id"]), {**told, "created_at": 1_767_225_600 + self.number}, flaw, text)


@dataclass
class Script:
    """What happens during one poll, and what it was answered."""

    faults: tuple[Fault, ...] = ()
    edits: tuple[tuple[int, Callable[[], Awaitable[None]]], ...] = ()
    """Things that happen before the page with this number."""
    hold: int | None = None
    """The page that waits until `go_on`."""
    answers: list[Answer] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_given_back(self) -> bool:
        """The key or the account was turned away before anything was read."""
        *before, last = self.answers or [None]
        return isinstance(last, Broken) and last.error_class in OF_SOURCE and not any(type(a) is Page for a in before)


class World:
    """The list of one job, served page by page. `scripts` has the poll under way of each daemon, by its name."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.listed: list[Checkpoint] = []
        self.scripts: dict[str, Script] = {}
        self._gone: list[Checkpoint] = []
        self._doubled: set[int] = set()
        self._born = 0

    @property
    def readable(self) -> dict[str, Item]:
        """What a reader of the whole list could know of it, by id."""
        items = [checkpoint.item(self.job) for checkpoint in self.listed]
        return {item.id: item for item in items if item.flaw in {None, "not finite"}}

    def edit(self, edit: Edit) -> None:
        """Let something befall the list. Places count modulo its length."""
        if isinstance(edit, Publish):
            born = [self._bear() for _ in range(edit.count)]
            at = edit.at % (len(self.listed) + 1)
            self.listed[at:at] = reversed(born)
        elif isinstance(edit, Restore):
            at = edit.at % (len(self.listed) + 1)
            self.listed[at:at] = self._gone
            self._gone = []
        elif self.listed:
            self._edit_one(edit)

    def _bear(self) -> Checkpoint:
        self._born += 1
        number = self._born
        model = f"ft:m:{number}:ckpt-step-{number}"
        metrics: dict[str, Value] = {"train_loss": 1 / number, "valid_loss": 2 / number}
        return Checkpoint(number, {"step_number": number, "fine_tuned_model_checkpoint": model, **metrics})

    def _edit_one(self, edit: Edit) -> None:
        if isinstance(edit, Reorder):
            at = edit.turn % len(self.listed)
            self.listed = (self.listed[at:] + self.listed[:at])[:: -1 if edit.turn % 2 else 1]
            return
        assert not isinstance(edit, (Publish, Restore))
        at = edit.at % len(self.listed)
        chosen = self.listed[at]
        if isinstance(edit, Withdraw):
            self._gone += self.listed[at : at + edit.count]
            del self.listed[at : at + edit.count]
        elif isinstance(edit, Double):
            self._doubled ^= {chosen.number}
        elif isinstance(edit, Change):
            self.listed[at] = Checkpoint(chosen.number, {**chosen.values, edit.field: edit.value}, chosen.flaw)
        else:
            self.listed[at] = Checkpoint(chosen.number, chosen.values, edit.flaw)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a page of the list, and note what was answered."""
        script = self.scripts[request.headers["X-Daemon"]]
        number = sum(isinstance(answer, Page) for answer in script.answers)
        due, script.edits = (
            [edit for before, edit in script.edits if before == number],
            tuple(edit for edit in script.edits if edit[0] != number),
        )
        for edit in due:
            await edit()
        if script.hold == number:
            script.hold = None
            script.reached.set()
            await script.go_on.wait()
        after = request.query.get("after")
        fault = next((f for f in script.faults if f.page == number and f.times > 0), None)
        if fault is not None:
            script.faults = tuple(f._replace(times=f.times - 1) if f is fault else f for f in script.faults)
        if fault is not None and fault.kind == IGNORED and (read := [a for a in script.answers if isinstance(a, Page)]):
            shown: Page | None = read[-1]._replace(after=after, has_more=True)
        else:
            shown = self._page(after, int(request.query["limit"]))
        if shown is None:
            script.answers.append(Broken(after, "cursor_lost"))
            return error(400, "invalid_cursor")
        text = f'{{"object": "list", "data": [{", ".join(item.text for item in shown.items)}], '
        good = (text + f'"has_more": {json.dumps(shown.has_more)}}}').encode()
        if fault is None or fault.kind == IGNORED:
            script.answers.append(shown)
            return body(good)
        wrong = FAULTS[fault.kind]
        script.answers.append(Broken(after, wrong.on_a_later_page if after else wrong.error_class))
        spoilt = wrong.spoil(good)
        return (await spoilt(request)) if callable(spoilt) else spoilt

    def _page(self, after: str | None, limit: int) -> Page | None:
        items = [checkpoint.item(self.job) for checkpoint in self.listed]
        start = 0
        if after is not None:
            ids = [item.id for item in items]
            if after not in ids:
                return None
            start = ids.index(after) + 1
        page = items[start : start + limit]
        doubles = [c.item(self.job) for c in self.listed if c.number in self._doubled] if page else []
        return Page(after, [*doubles, *page], len(items) > start + limit)
