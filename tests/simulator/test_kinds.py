"""What all kinds of providers have in common, each read by the client of the daemon in its own format."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.job import read_jobs
from checkpointd.domain.listing import Listing, RawListing, read_listing
from checkpointd.provider.client import Client
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.provider.http import Limits, open_session
from checkpointd.simulator import foundry, tinker, together
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World

AFTER_ALL = EPOCH + 86_400
each_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def client(
    kind: Kind, world: World, t: float, key: str = "canary-key", page_size: int = 100
) -> AsyncIterator[Client]:
    """Serve a world as of time `t`, and open a client as the settings of its kind would."""
    preset = PRESETS[kind]
    headers = {**preset.headers, preset.key_header: f"Bearer {key}" if preset.key_header == "Authorization" else key}
    async with serve(world, lambda: t) as url, open_session() as http:
        limits = Limits(page_size, request_timeout=60, backoff=0)
        yield Client(http, url, headers, preset.query, limits, [], wire_format=preset.format)


async def checkpoints(opened: Client, job: str) -> tuple[RawListing, Listing]:
    """Return the checkpoint list of a job, as received and as read."""
    raw = await opened.list_checkpoints(job, asyncio.get_running_loop().time() + 60)
    return raw, read_listing(job, raw.pages, reader=raw.reader)


def ids(kind: Kind, world: World, job: str) -> set[str]:
    """Return the ids of all checkpoints of a job."""
    made = world.checkpoints(job, AFTER_ALL)
    if kind == "together":
        return {item["path"] for record in made for item in together.checkpoints(record, world.job(job, AFTER_ALL))}
    if kind in {"tinker", "foundry"}:
        module = tinker if kind == "tinker" else foundry
        return {item["checkpoint_id"] for record in made for item in module.checkpoints(record)}
    return {record["id"] for record in made}


@each_kind
@pytest.mark.parametrize("page_size", [2, 100])
async def test_lists(kind: Kind, page_size: int) -> None:
    """Each list is read to its end, whatever the size of its pages, and every item of it can be read."""
    world = World(5, 3, EPOCH, Shape(kind, retention="all"))
    jobs = [job["id"] for job in world.jobs(AFTER_ALL)]
    async with client(kind, world, AFTER_ALL, page_size=page_size) as opened:
        for job in jobs:
            raw, listing = await checkpoints(opened, job)
            assert (None, []) == (raw.failure, listing.rejects)
            assert ids(kind, world, job) == {item.id for item in listing.checkpoints}
        if KINDS[kind].lists_jobs:
            pages = [page.items async for page in opened.list_jobs(asyncio.get_running_loop().time() + 60)]
            read = [read_jobs(items, read_record=opened.format.read_record) for items in pages]
            assert jobs == [record.id for page in read for record in page.records]
            assert [] == [reject for page in read for reject in page.rejects]


@each_kind
async def test_a_job_without_checkpoints(kind: Kind) -> None:
    """The list of a job that has just been created is complete, and empty."""
    world = World(5, 3, EPOCH, Shape(kind))
    job = world.jobs(AFTER_ALL)[0]
    async with client(kind, world, job["created_at"] + 1) as opened:
        raw, listing = await checkpoints(opened, job["id"])
    assert (None, [], []) == (raw.failure, listing.checkpoints, listing.rejects)


@each_kind
async def test_refusals(kind: Kind) -> None:
    """A refused key and an unknown job are failures of their classes, and no empty lists."""
    world = World(5, 3, EPOCH, Shape(kind))
    found: Mapping[str, ErrorClass | None] = {}
    for key, job in (("", world.jobs(AFTER_ALL)[0]["id"]), ("canary-key", "ft-unknown")):
        async with client(kind, world, AFTER_ALL, key) as opened:
            raw, _ = await checkpoints(opened, job)
            found = {**found, key: raw.failure and raw.failure.error_class}
    assert {"": ErrorClass.REFUSED, "canary-key": ErrorClass.MISSING} == found


@each_kind
async def test_probes(kind: Kind) -> None:
    """A key is tested with the job list, if the kind has one, or with the checkpoint list of a job."""
    world = World(5, 3, EPOCH, Shape(kind))
    async with client(kind, world, AFTER_ALL) as opened:
        deadline = asyncio.get_running_loop().time() + 60
        by_list = (await opened.probe(deadline)).failure
        by_job = (await opened.probe(deadline, world.jobs(AFTER_ALL)[0]["id"])).failure
    assert (None if KINDS[kind].lists_jobs else 404, None) == (by_list and by_list.status, by_job)
    assert KINDS[kind].lists_jobs == PRESETS[kind].lists_jobs
