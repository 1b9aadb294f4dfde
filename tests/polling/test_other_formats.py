"""What is special about checkpoints without steps, and about values that only the item has: over a scripted Tinker.

And what all kinds share.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from checkpointd.cli.sync import sync_jobs
from checkpointd.postgres.store import Store
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import provider_application, serve, serve_application
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from checkpointd.web.server import serve as serve_pages
from model.replay import Feed
from support.harness import row_versions

RUN = "0f6b3a1f:train:0"
Sync = Callable[[list[dict[str, Any]]], Awaitable[None]]


def checkpoint(name: str = "weights/a", **fields: Any) -> dict[str, Any]:
    """Return a checkpoint as Tinker describes it."""
    return {
        "checkpoint_id": name,
        "checkpoint_type": "training",
        "time": "2026-01-01T10:00:00Z",
        "tinker_path": f"tinker://{RUN}/{name}",
        "expires_at": "2026-01-08T10:00:00Z",
        **fields,
    }


@pytest.fixture
async def sync(store: Store, tmp_path: Path) -> AsyncIterator[Sync]:
    """Yield a function that polls a run once, of which these checkpoints are listed."""
    listed: list[dict[str, Any]] = []

    async def list_checkpoints(request: web.Request) -> web.Response:
        assert RUN == request.match_info["id"]
        return web.json_response({"checkpoints": listed})

    async def list_runs(_: web.Request) -> web.Response:
        runs = [{"training_run_id": RUN, "base_model": "Qwen/Qwen3-8B"}]
        return web.json_response({"training_runs": runs, "cursor": {"offset": 0, "limit": 100, "total_count": 1}})

    (tmp_path / "key").write_text("canary-key")
    handlers = {"/training_runs": list_runs, "/training_runs/{id}/checkpoints": list_checkpoints}
    async with serve_application("tinker", provider_application("tinker", handlers), "127.0.0.1", 0) as url:
        source = Source(name="tinker", kind="tinker", base_url=url, api_key=str(tmp_path / "key"))
        settings = FixedSettings(sources=(source,), discover=True)

        async def poll(items: list[dict[str, Any]]) -> None:
            listed[:] = items
            fields = {source.name: source.request_fields()}
            summary = await sync_jobs(settings, store, fields, None, None, lambda *_: None)
            assert (1, 0) == (summary.jobs, len(summary.failures))

        yield poll


async def _changes(sql: asyncpg.Connection) -> list[tuple[str, ...]]:
    """Return the changes of known checkpoints, and forget them."""
    rows = await sql.fetch("""
        with taken as (delete from checkpointd.changes returning *)
        select kind, field, old_value, new_value from taken where kind <> 'new' order by field""")
    return [tuple(row) for row in rows]


async def test_values_of_the_item_are_compared(sync: Sync, sql: asyncpg.Connection) -> None:
    """Another time or expiry under the same name is a change of the same checkpoint, once. Its values are the last."""
    await sync([checkpoint()])
    await sync([checkpoint()])
    assert [] == await _changes(sql)
    later = checkpoint(time="2026-01-02T10:00:00Z", expires_at="2026-01-09T10:00:00.5+00:00")
    for expected in (
        [("changed", "created_at", "1767261600", "1767348000"), ("changed", "expires_at", "1767866400", "1767952800")],
        [],
    ):
        await sync([later])
        assert expected == await _changes(sql)
    for expected in ([("regressed", "expires_at", "1767952800", None)], []):
        await sync([{**later, "expires_at": None}])
        assert expected == await _changes(sql)
    (row,) = await sql.fetch("select * from fine_tuning.checkpoints")
    assert ("weights/a", None, None) == (row["id"], row["step_number"], row["expires_at"])
    assert datetime.fromisoformat("2026-01-02T10:00:00Z") == row["created_at"]
    assert (f"tinker://{RUN}/weights/a", "training") == (row["deploy_as"], row["checkpoint_type"])


async def test_expired_checkpoints(sync: Sync, store: Store, sql: asyncpg.Connection, port: int) -> None:
    """A checkpoint that is no longer listed after its expiry is expired, others are missing, and the feed says so."""
    feed = Feed(RUN)

    async def list_and_read(*items: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
        await sync(list(items))
        rows = await sql.fetch("select * from fine_tuning.checkpoints")
        changes = await sql.fetch("select * from fine_tuning.changes where checkpoint_id is not null order by seq")
        assert {} == await feed.differences(sql, changes, rows)
        return {row["id"]: (row["missing_since"] is not None, row["is_expired"]) for row in rows}

    listed, missing, expired = (False, False), (True, False), (True, True)
    kept = checkpoint("kept", expires_at=None)
    gone = [
        checkpoint("expired", checkpoint_type="sampler", size_bytes=7),
        checkpoint("moved", expires_at="2026-01-09T10:00:00Z"),
        checkpoint("never", expires_at=None),
        checkpoint("later", expires_at="2099-01-01T00:00:00Z"),
        checkpoint("renewed"),
        checkpoint("unlimited", size_bytes=8),
    ]
    assert {listed} == set((await list_and_read(kept, *gone)).values())
    gone[1]["expires_at"] = "2026-01-10T10:00:00Z"
    gone[4] |= {"expires_at": "2099-01-01T00:00:00Z", "tinker_path": "tinker://other"}
    gone[5] |= {"expires_at": None, "size_bytes": None}
    await list_and_read(kept, *gone)
    assert listed == (await list_and_read(kept))["expired"]
    states = {"expired": expired, "moved": expired, "kept": listed}
    states |= dict.fromkeys(["never", "later", "renewed", "unlimited"], missing)
    for _ in range(2):
        assert states == await list_and_read(kept)
    kinds = "select kind, array_agg(checkpoint_id order by checkpoint_id) from fine_tuning.changes {} group by 1"
    assert {"expired": ["expired", "moved"], "missing": ["later", "never", "renewed", "unlimited"]} == dict(
        await sql.fetch(kinds.format("where kind in ('missing', 'expired')"))
    )
    async with (
        serve_pages("127.0.0.1", port, list, store, ["tinker"]),
        aiohttp.request("GET", f"http://127.0.0.1:{port}/jobs/tinker/{RUN}") as response,
    ):
        shown = await response.text()
    assert (2, 4) == (shown.count(">expired, noticed"), shown.count(">went missing"))
    assert states | {"expired": listed} == await list_and_read(kept, gone[0])
    gone[0]["expires_at"] = None  # while it is listed again
    await list_and_read(kept, gone[0])
    for _ in range(2):
        await list_and_read(kept)
    assert missing == (await list_and_read(kept))["expired"]


async def test_new_checkpoints_without_steps(sync: Sync, store: Store, sql: asyncpg.Connection, port: int) -> None:
    """Many new checkpoints without steps make no job unstable. The page of the job shows them."""
    items: list[dict[str, Any]] = []
    for day in range(1, 9):
        items += [checkpoint(f"weights/{day}-{n}", time=f"2026-01-0{day}T1{n}:00:00Z") for n in range(3)]
        await sync(items)
    assert (24, None) == tuple(await sql.fetchrow("select checkpoint_count, unstable_since from fine_tuning.jobs"))
    assert "weights/8-2" == await sql.fetchval("select latest_id from checkpointd.summaries")
    async with serve_pages("127.0.0.1", port, list, store, ["tinker"]), aiohttp.ClientSession() as http:
        for path, words in (("/", "24 checkpoints"), (f"/jobs/tinker/{RUN}", "Qwen/Qwen3-8B")):
            async with http.get(f"http://127.0.0.1:{port}{path}") as response:
                assert (200, True) == (response.status, words in await response.text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T00:00:00.5+02:00", "2026-02-28T22:00:00Z"),
        ("2026-03-01T00:00:00+0000", "2026-03-01T00:00:00Z"),
        ("2026-03-01t00:00:00z", "2026-03-01T00:00:00Z"),
        ("2120-03-01T00:00:00Z", "2120-03-01T00:00:00Z"),
        (None, None),
    ],
)
async def test_expiry_is_stored_as_it_is_read(
    sync: Sync, sql: asyncpg.Connection, text: str | None, expected: str | None
) -> None:
    """Every form of a time that is accepted reaches the view."""
    await sync([checkpoint(expires_at=text)])
    found = await sql.fetchval("select expires_at from fine_tuning.checkpoints")
    assert (expected and datetime.fromisoformat(expected)) == found


async def test_one_name_for_training_and_for_sampling(sync: Sync, sql: asyncpg.Connection) -> None:
    """SkyRL's server lists names without their folders, in any order, and times without a zone: nothing is mixed up."""
    names = {"training": "weights/000005", "sampler": "sampler_weights/000005"}
    items = [
        checkpoint("000005", checkpoint_type=type_, tinker_path=f"tinker://{RUN}/{name}", time="2026-01-01T10:00:00.5")
        for type_, name in names.items()
    ]
    for listed in (items, items[::-1], items):
        await sync(listed)
    rows = await sql.fetch("select checkpoint_type, id, deploy_as, created_at from fine_tuning.checkpoints")
    at = datetime.fromisoformat("2026-01-01T10:00:00Z")
    assert {(type_, name, f"tinker://{RUN}/{name}", at) for type_, name in names.items()} == {tuple(r) for r in rows}
    assert ["new", "new"] == [row["kind"] for row in await sql.fetch("select kind from fine_tuning.changes")]
    assert 0 == await sql.fetchval("select count(*) from fine_tuning.rejects")


async def test_odd_details_are_null(sync: Sync, sql: asyncpg.Connection) -> None:
    """A size or a type that the daemon rejects is null in the views, and makes none of them unreadable."""
    largest = 2**63 - 1
    odd = [{"size_bytes": 1e30}, {"size_bytes": 12.7}, {"size_bytes": "12"}, {"checkpoint_type": {"a": 1}}]
    sizes = [12, largest, 2**53 + 1]
    await sync(
        [checkpoint(f"weights/odd-{n}", **fields) for n, fields in enumerate(odd)]
        + [checkpoint(f"weights/size-{n}", size_bytes=size) for n, size in enumerate(sizes)]
    )
    rows = await sql.fetch("select checkpoint_type, size_bytes from fine_tuning.checkpoints order by id")
    types = ["training", "training", "training", None, *["training"] * 3]
    assert [*zip(types, [*[None] * 4, *sizes], strict=True)] == [tuple(row) for row in rows]
    initial = await sql.fetch("select initial_values ->> 'size_bytes' from fine_tuning.changes order by checkpoint_id")
    assert [*[None] * 4, *map(str, sizes)] == [row[0] for row in initial]
    assert len(odd) == await sql.fetchval("select count(*) from fine_tuning.rejects")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_reading_writes_nothing(
    kind: Kind, store: Store, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """If the lists have the same content as before, no row of a job, a checkpoint or the feed is written again."""
    (tmp_path / "key").write_text("canary-key")
    world, versions = World(5, 4, EPOCH, Shape(kind)), []
    jobs = world.jobs(EPOCH)
    assert (jobs, True) == (world.jobs(EPOCH + 1), "running" in {job["status"] for job in jobs})
    if not KINDS[kind].lists_jobs:
        await store.track((await store.register_sources({"test": kind}))["test"], [job["id"] for job in jobs])
    for seconds in (0, 1):
        async with serve(world, lambda seconds=seconds: EPOCH + seconds) as url:
            source = Source(name="test", kind=kind, base_url=url, api_key=str(tmp_path / "key"))
            settings, fields = FixedSettings(sources=(source,), discover=True), {"test": source.request_fields()}
            summary = await sync_jobs(settings, store, fields, None, None, lambda *_: None)
        assert (len(jobs), []) == (summary.jobs, summary.failures)
        versions.append(await row_versions(sql))
    assert versions[0] == versions[1]
