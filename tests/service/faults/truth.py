"""What the provider really listed: a provider whose jobs grow by bursts, and its log, against which all is judged."""

import asyncio
import itertools
import random
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiohttp import web

from support.provider import Answer, Provider, checkpoint, error, job, page

BURST = 20
"""Checkpoints that come at once: four pages of five. Where bursts fit one page, a kill test proves nothing."""

KEPT = 60
"""How many a job lists at most; older ones drop off, as providers' do."""


class Listed(NamedTuple):
    """A checkpoint that was listed: by which job, from when to when (Unix seconds; None: still), with what metric."""

    job: str
    id: str
    since: float
    until: float | None
    full_valid_loss: float | None


class Whole(NamedTuple):
    """A listing whose every page was sent in full: when its first page was asked for, and its last one sent."""

    job: str
    begun: float
    ended: float


class Request(NamedTuple):
    """A request: when it came (the monotonic clock), with whose key, for which job (None: the job list), after what."""

    at: float
    key: str
    job: str | None
    after: str | None


class Overlap(NamedTuple):
    """Two daemons at one job at once: when (the monotonic clock), whose requests, and for which job."""

    at: float
    key: str
    other: str
    job: str


class Truth:
    """Lists growing jobs by way of a scripted provider, and remembers all that it listed, and who asked."""

    def __init__(self, provider: Provider, jobs: int, rng: random.Random) -> None:
        self.provider = provider
        self.rng = rng
        self.listed: dict[str, Listed] = {}
        self.whole: list[Whole] = []
        self.requests: list[Request] = []
        self.at_once: list[Overlap] = []
        """Requests made while another daemon's was under way, or to go on with a listing after another one began."""
        self.refused: set[str] = set()
        """Keys that are turned away."""
        self.faults: dict[str, Answer] = {}
        """What a job answers instead."""
        self.delay: Callable[[], float] = lambda: 0.0
        """Seconds that a page takes."""
        self._items: dict[str, list[dict[str, Any]]] = {f"ftjob-{n:02d}": [] for n in range(jobs)}
        self._asked = Counter[str]()
        self._numbers = {name: itertools.count(1) for name in self._items}
        self._begun: dict[tuple[str, str], float] = {}
        self._under_way: dict[str, list[tuple[str, web.Request]]] = {name: [] for name in self._items}
        self._leader: dict[str, str] = {}
        self._unfinished = set[str]()
        for name in self._items:
            provider.checkpoints[name] = self._answer_for(name)
        provider.jobs = self._job_list

    @property
    def jobs(self) -> list[str]:
        """The jobs' ids."""
        return list(self._items)

    def item(self, name: str) -> dict[str, Any]:
        """Return the newest checkpoint of a job."""
        return self._items[name][0]

    def leaders(self) -> dict[str, str]:
        """Return the jobs whose listing was begun and not read to its end, each with the key of the daemon."""
        return {name: self._leader[name] for name in self._unfinished}

    def grow(self, name: str, count: int = BURST) -> None:
        """List that many more checkpoints of a job at once, and drop the oldest."""
        items, now = self._items[name], time.time()
        for number in itertools.islice(self._numbers[name], count):
            item = {**checkpoint(number, name), "id": f"ftckpt_{name}_{number:05d}"}
            items.insert(0, item)
            self.listed[item["id"]] = Listed(name, item["id"], now, None, None)
        for item in items[KEPT:]:
            self.listed[item["id"]] = self.listed[item["id"]]._replace(until=now)
        del items[KEPT:]

    def list_once(self, name: str, items: Iterable[dict[str, Any]]) -> None:
        """Note checkpoints that a fault lists for a moment: they may be stored, or not."""
        now = time.time()
        for item in items:
            self.listed.setdefault(item["id"], Listed(name, item["id"], now, now, None))

    def amend(self, name: str) -> None:
        """Let one of a job's listed checkpoints have a late metric, or another value of it."""
        item, loss = self.rng.choice(self._items[name]), round(self.rng.random(), 6)
        item["metrics"] = {**item["metrics"], "full_valid_loss": loss}
        self.listed[item["id"]] = self.listed[item["id"]]._replace(full_valid_loss=loss)

    async def keep_growing(self, pause: float) -> None:
        """Let some job grow again and again, and a metric of another one come late."""
        while True:
            await asyncio.sleep(self.rng.uniform(0, 2 * pause))
            self.grow(self.rng.choice(self.jobs))
            self.amend(self.rng.choice(self.jobs))

    def asked(self, key: str) -> int:
        """Return how many requests were made with a key."""
        return self._asked[key]

    def _note(self, request: web.Request, name: str | None) -> Request:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        note = Request(time.monotonic(), key, name, request.query.get("after"))
        self.requests.append(note)
        self._asked[key] += 1
        return note

    async def _job_list(self, request: web.Request) -> web.StreamResponse:
        if self._note(request, None).key in self.refused:
            return error(401, "invalid_api_key")
        return page([job(name) for name in self._items])

    def _answer_for(self, name: str) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            begun, note = time.time(), self._note(request, name)
            if note.key in self.refused:
                return error(401, "invalid_api_key")
            self._watch_for_two(note, request, name)
            self._under_way[name].append((note.key, request))
            try:
                fault = self.faults.get(name)
                if fault is not None:
                    return fault if isinstance(fault, web.StreamResponse) else await fault(request)
                await asyncio.sleep(self.delay())
                return await self._send(request, name, begun)
            finally:
                self._under_way[name].remove((note.key, request))

        return answer

    def _watch_for_two(self, note: Request, request: web.Request, name: str) -> None:
        if _has_hung_up(request):  # it gave up while this provider was held up: no daemon is at it any more
            return
        if note.after is None:
            self._leader[name] = note.key
            self._unfinished.add(name)
        elif (leader := self._leader.get(name, "")) != note.key:
            self.at_once.append(Overlap(note.at, note.key, leader, name))
        for other, earlier in self._under_way[name]:
            if other != note.key and not _has_hung_up(earlier):
                self.at_once.append(Overlap(note.at, note.key, other, name))

    async def _send(self, request: web.Request, name: str, begun: float) -> web.StreamResponse:
        """Send a page, and note it only when all of it is sent."""
        items, after, limit = self._items[name], request.query.get("after"), int(request.query["limit"])
        ids = [item["id"] for item in items]
        if after is not None and after not in ids:
            return error(400, "invalid_cursor")
        start = 0 if after is None else ids.index(after) + 1
        part, more = items[start : start + limit], len(items) > start + limit
        begun = begun if after is None else self._begun.get((name, after), begun)
        response, sent = page(part, has_more=more), time.time()
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionResetError:  # whoever asked has gone
            return response
        if more:
            self._begun[name, part[-1]["id"]] = begun
        else:
            self.whole.append(Whole(name, begun, sent))
            self._unfinished.discard(name)  # its last page may be asked for again, where the answer came too late
        return response


def _has_hung_up(request: web.Request) -> bool:
    """Say whether who asked has closed the connection, whether that was read from it already or not."""
    if request.transport is None or request.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(request.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
