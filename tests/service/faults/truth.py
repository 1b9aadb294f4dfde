"""What the provider really listed: a provider whose jobs grow in bursts, and a record of all that it sent."""

import asyncio
import itertools
import random
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiohttp import web

from support.provider import Answer, Provider, body, checkpoint, error, job, page

BURST = 20
"""The checkpoints of a burst: four pages of five. A kill test proves nothing if a burst fits one page."""

MOST_LISTED = 40
"""The most checkpoints that a job lists. As at real providers, older ones are not listed any more."""


Spoil = Callable[[bytes, bool, bool], bytes | Answer | None]
"""Spoils the body of a page, given whether it is the first one and the last one.

Returns another body, which is a page nevertheless; or what is answered instead of a page; or None to spoil nothing.
"""


class Listed(NamedTuple):
    """A checkpoint that was listed. Times are in Unix seconds."""

    job: str
    id: str
    since: float
    until: float | None
    """When it was last listed, or None if it still is."""
    full_valid_loss: float | None


class CompleteListing(NamedTuple):
    """A listing whose every page was sent in full. Times are in Unix seconds."""

    job: str
    started: float
    """When its first page was requested."""
    ended: float
    """When its last page was sent."""
    key: str
    """The key of the daemon that requested its last page."""


class Request(NamedTuple):
    """A request, at a time of the monotonic clock."""

    at: float
    key: str
    job: str | None
    """The job whose checkpoints are requested, or None for the job list."""
    after: str | None


class Overlap(NamedTuple):
    """Requests of two daemons for one job at once, at a time of the monotonic clock."""

    at: float
    key: str
    other: str
    job: str


class Truth:
    """Lists growing jobs through a scripted provider, and records what was listed, and by which daemons."""

    def __init__(self, provider: Provider, jobs: int, rng: random.Random) -> None:
        """Let the provider list so many jobs, each with a first burst."""
        self.provider = provider
        self.rng = rng
        self.listed: dict[str, Listed] = {}
        self.complete: list[CompleteListing] = []
        self.requests: list[Request] = []
        self.overlaps: list[Overlap] = []
        """Requests during one of another daemon, or for a later page after another daemon has started a listing."""
        self.refused: set[str] = set()
        """Keys that are refused."""
        self.faults: dict[str, Answer] = {}
        """What a job answers instead of its list."""
        self.spoilt: dict[str, Spoil] = {}
        """Spoils the pages of a job."""
        self.delay: Callable[[], float] = lambda: 0.0
        """Returns the seconds that a page takes."""
        self._items: dict[str, list[dict[str, Any]]] = {f"ftjob-{n:02d}": [] for n in range(jobs)}
        self._request_counts = Counter[str]()
        self._numbers = {name: itertools.count(1) for name in self._items}
        self._started: dict[tuple[str, str], float] = {}
        """When the listing that continues after a cursor was started, by job and cursor."""
        self._running: dict[str, list[tuple[str, web.Request]]] = {name: [] for name in self._items}
        self._leader: dict[str, str] = {}
        """The key of the daemon that last started to list a job."""
        self._unfinished = set[str]()
        for name in self._items:
            provider.checkpoints[name] = self._answer_for(name)
            self.grow(name)
        provider.jobs = self._job_list

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs."""
        return list(self._items)

    def item(self, name: str) -> dict[str, Any]:
        """Return the newest checkpoint of a job."""
        return self._items[name][0]

    def leaders(self) -> dict[str, str]:
        """Return the jobs whose listing was started and has not ended, each with the key of the daemon."""
        return {name: self._leader[name] for name in self._unfinished}

    def grow(self, name: str, count: int = BURST) -> None:
        """List so many more checkpoints of a job at once, and drop the oldest."""
        items, now = self._items[name], time.time()
        for number in itertools.islice(self._numbers[name], count):
            item = {**checkpoint(number, name), "id": f"ftckpt_{name}_{number:05d}"}
            items.insert(0, item)
            self.listed[item["id"]] = Listed(name, item["id"], now, None, None)
        for item in items[MOST_LISTED:]:
            self.listed[item["id"]] = self.listed[item["id"]]._replace(until=now)
        del items[MOST_LISTED:]

    def list_once(self, name: str, items: Iterable[dict[str, Any]]) -> None:
        """Record checkpoints that a fault lists for a moment: they may be stored or not."""
        now = time.time()
        for item in items:
            self.listed.setdefault(item["id"], Listed(name, item["id"], now, now, None))

    def amend(self, name: str) -> None:
        """Add a late metric to a listed checkpoint of a job, or change it."""
        item, loss = self.rng.choice(self._items[name]), round(self.rng.random(), 6)
        item["metrics"] = {**item["metrics"], "full_valid_loss": loss}
        self.listed[item["id"]] = self.listed[item["id"]]._replace(full_valid_loss=loss)

    async def keep_growing(self, pause: float) -> None:
        """Let random jobs grow and be amended, on average every `pause` seconds."""
        while True:
            await asyncio.sleep(self.rng.uniform(0, 2 * pause))  # the pause between two bursts
            self.grow(self.rng.choice(self.jobs))
            self.amend(self.rng.choice(self.jobs))

    def request_count(self, key: str) -> int:
        """Return how many requests were made with a key."""
        return self._request_counts[key]

    def _record(self, request: web.Request, name: str | None) -> Request:
        self.provider.requests.clear()  # a long run would fill the memory with them
        key = request.headers["Authorization"].removeprefix("Bearer ")
        recorded = Request(time.monotonic(), key, name, request.query.get("after"))
        self.requests.append(recorded)
        self._request_counts[key] += 1
        return recorded

    async def _job_list(self, request: web.Request) -> web.StreamResponse:
        if self._record(request, None).key in self.refused:
            return error(401, "invalid_api_key")
        return page([job(name) for name in self._items])

    def _answer_for(self, name: str) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            started, recorded = time.time(), self._record(request, name)
            if recorded.key in self.refused:
                return error(401, "invalid_api_key")
            self._record_overlaps(recorded, request, name)
            self._running[name].append((recorded.key, request))
            try:
                fault = self.faults.get(name)
                if fault is not None:
                    return fault if isinstance(fault, web.StreamResponse) else await fault(request)
                await asyncio.sleep(self.delay())  # the time that the page takes
                return await self._send(request, name, started, recorded.key)
            finally:
                self._running[name].remove((recorded.key, request))

        return answer

    def _record_overlaps(self, recorded: Request, request: web.Request, name: str) -> None:
        if _has_hung_up(request):  # the daemon gave up while this process was busy, and does not poll any more
            return
        if recorded.after is None:
            self._leader[name] = recorded.key
            self._unfinished.add(name)
        elif (leader := self._leader.get(name, "")) != recorded.key:
            self.overlaps.append(Overlap(recorded.at, recorded.key, leader, name))
        for other, earlier in self._running[name]:
            if other != recorded.key and not _has_hung_up(earlier):
                self.overlaps.append(Overlap(recorded.at, recorded.key, other, name))

    async def _send(self, request: web.Request, name: str, started: float, key: str) -> web.StreamResponse:
        """Send a page, and record it when all of it was sent."""
        items, after, limit = self._items[name], request.query.get("after"), int(request.query["limit"])
        ids = [item["id"] for item in items]
        if after is not None and after not in ids:
            return error(400, "invalid_cursor")
        start = 0 if after is None else ids.index(after) + 1
        part, has_more = items[start : start + limit], len(items) > start + limit
        started = started if after is None else self._started.get((name, after), started)
        response, sent = page(part, has_more=has_more), time.time()
        if name in self.spoilt:
            spoilt = self.spoilt[name](bytes(response.body), after is None, not has_more)
            if spoilt is not None and not isinstance(spoilt, bytes):
                return spoilt if isinstance(spoilt, web.StreamResponse) else await spoilt(request)
            response = body(spoilt) if spoilt is not None else response
        try:
            await response.prepare(request)
            await response.write_eof()
        except ConnectionResetError:  # the daemon has gone
            return response
        if has_more:
            self._started[name, part[-1]["id"]] = started
        else:
            self.complete.append(CompleteListing(name, started, sent, key))
            self._unfinished.discard(name)  # the last page may be requested again, if it came too late
        return response


def _has_hung_up(request: web.Request) -> bool:
    """Return whether the client has closed the connection, even if this process has not read that yet."""
    if request.transport is None or request.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(request.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
