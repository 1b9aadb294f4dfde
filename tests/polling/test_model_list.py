"""The list of models: read once a day by all daemons together, and silent if it cannot be read."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from checkpointd.polling.model_list import ModelList
from checkpointd.postgres import models
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.world import EPOCH, World
from checkpointd.telemetry.health import Health
from support.harness import open_source, read_job_list
from support.provider import Provider, body, error, job, page

TODAY = datetime.now(UTC).date()
SOON = TODAY + timedelta(days=40)
TOMORROW = "update checkpointd.sources set models_claimed_at = models_claimed_at - interval '1 day'"


def model(name: str, day: object) -> dict[str, Any]:
    """Return a model as OpenAI describes it."""
    shown = str(day) if isinstance(day, type(TODAY)) else day
    return {"id": name, "object": "model", "created": 1, "owned_by": "system", "shutdown_date": shown}


def listing(*found: Any) -> web.Response:
    """Return a list of models."""
    return web.json_response({"object": "list", "data": list(found)})


async def read(store: Store, provider: Provider, daemons: int = 1) -> Health:
    """Let daemons look whether the list is due, at the same time. Returns the health of one of them."""
    health = Health()
    async with open_source(store, provider) as source:
        await asyncio.gather(*(ModelList(store, source, health).tick() for _ in range(daemons)))
    return health


async def shown(sql: asyncpg.Connection) -> dict[str, object]:
    """Return the shutdown_date of each job."""
    return dict(await sql.fetch("select id, shutdown_date from fine_tuning.jobs"))


@pytest.fixture
async def known(store: Store, provider: Provider) -> None:
    """Discover three jobs: two on the model `a`, of which one has made `ft:a`, and one on `b`."""
    provider.jobs = page(
        [job("ftjob-1", model="a"), job("ftjob-2", model="a", fine_tuned_model="ft:a"), job("ftjob-3", model="b")]
    )
    await read_job_list(store, provider, discover=True)


async def test_once_a_day(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """Daemons read the list once a day, all together, and not before the job list was read."""
    provider.models = listing(model("a", SOON))
    await store.register_sources({"test": "openai"})
    await read(store, provider)
    assert [] == provider.model_requests
    provider.jobs = page([job("ftjob-1", model="a")])
    await read_job_list(store, provider, discover=True)
    for day in range(1, 3):
        for _ in range(2):
            await read(store, provider, daemons=5)
            assert day == len(provider.model_requests)
        assert {"ftjob-1": SOON} == await shown(sql)
        await sql.execute(TOMORROW)
    await sql.execute("update checkpointd.sources set state = 'failing', state_since = now()")
    await read(store, provider)
    assert 2 == len(provider.model_requests)
    await sql.execute("""update checkpointd.sources set state = 'ok',
        models_claimed_at = now() + interval '10 days'""")  # by a clock that was set back since
    await read(store, provider)
    assert 3 == len(provider.model_requests)


@pytest.mark.usefixtures("known")
async def test_dates(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """A job shows the earlier day of its two models. An absent or odd value changes nothing, and null removes a day.

    A name that is too long for the index is left out, and the other models of the list are stored.
    """
    later, first = SOON + timedelta(days=1), SOON - timedelta(days=1)
    days: dict[str, object] = {"ftjob-1": None, "ftjob-2": None, "ftjob-3": None}
    for answer, expected in (
        (listing(model("a", None), model("b", "2026-02-30"), {"id": "ft:a"}), {}),
        (listing(model("a", SOON), model("ft:a", later), model("unused", SOON)), {"ftjob-1": SOON, "ftjob-2": SOON}),
        (listing(model("ft:a", first), model("a" * 257, SOON)), {"ftjob-2": first}),
        (listing(model("a", "soon"), model("ft:a", "2027-W02-4"), {"id": "a"}, {"shutdown_date": "2027-01-14"}, 7), {}),
        (listing(model("b", SOON), {**model("b", later), "x": "\x00"}), {"ftjob-3": later}),
        (error(500), {}),
        (listing(model("ft:a", None), model("b", None)), {"ftjob-2": SOON, "ftjob-3": None}),
    ):
        provider.models = answer
        await sql.execute(TOMORROW)
        await read(store, provider)
        days |= expected
        assert days == await shown(sql)
    assert 0 == await sql.fetchval("select count(*) from checkpointd.models where length(id) > 256")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    "answer",
    [
        error(404), error(401), error(429), error(500), page([]), body("<html>", "text/html"), body("[]"), body("{"),
        body('{"object": "list", "data": [1, "x", null, {"id": 7}]}'), page([model("a", None)], has_more=True),
    ],
)  # fmt: skip
async def test_unreadable_lists(
    store: Store, provider: Provider, sql: asyncpg.Connection, answer: web.Response
) -> None:
    """A list that does not exist or cannot be read costs one request a day, and nothing is reported."""
    provider.models = answer
    with capture_logs() as logs:
        for _ in range(3):
            health = await read(store, provider)
            assert [] == health.problems()
    assert ([], 1) == (logs, len(provider.model_requests))
    assert ("ok", None) == tuple(await sql.fetchrow("select state, last_error from fine_tuning.sources"))
    assert {None} == set((await shown(sql)).values())


async def test_the_simulated_provider(store: Store, provider: Provider, sql: asyncpg.Connection) -> None:
    """The list of the simulated provider is read: the base models of all jobs are shut down, and no other."""
    async with serve(World(1, 5, EPOCH, Shape(shutdown_date=str(SOON))), lambda: EPOCH + 20_000) as url:
        provider.url = url
        await read_job_list(store, provider, discover=True)
        await read(store, provider)
    assert 5 * [SOON] == list((await shown(sql)).values())
    used = "select array_agg(distinct model) from fine_tuning.jobs"
    assert sorted(await sql.fetchval(used)) == [
        row["id"] for row in await sql.fetch("select id from checkpointd.models order by id")
    ]


@pytest.mark.usefixtures("known")
async def test_too_many_models(
    store: Store, provider: Provider, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a list that invents names a limited number is stored, with a warning, and known models are followed."""
    monkeypatch.setattr(models, "MOST_MODELS", 5)
    provider.models = listing(*(model(f"a{n}", SOON) for n in range(3)), model("a", SOON))
    await read(store, provider)
    provider.models = listing(*(model(f"b{n}", SOON) for n in range(9)), model("a", TODAY))
    await sql.execute(TOMORROW)
    with capture_logs() as logs:
        await read(store, provider)
    assert [("model_list.left_out", 8)] == [(line["event"], line["models"]) for line in logs]
    assert 5 == await sql.fetchval("select count(*) from checkpointd.models")
    assert TODAY == (await shown(sql))["ftjob-1"]


@pytest.mark.usefixtures("known")
async def test_findings(store: Store, sql: asyncpg.Connection) -> None:
    """A model of a tracked job that is shut down within 60 days is found once, until that day is over or has moved."""
    await sql.execute("""insert into checkpointd.models (source, id, shutdown_date)
        select key, model, null from checkpointd.sources, unnest(array['a', 'b', 'ft:a', 'unused']) as model""")
    found = "select model from fine_tuning.findings where kind = 'shutting_down' and until is null order by 1"
    for days, expected in (
        (61, []),
        (60, ["a", "b", "ft:a"]),
        (0, ["a", "b", "ft:a"]),
        (-1, []),
        (1, ["a", "b", "ft:a"]),
    ):
        await sql.execute(
            "update checkpointd.models set shutdown_date = (now() at time zone 'UTC')::date + $1::int", days
        )
        for _ in range(2):
            await evaluate_findings(store, 0, 0)
            assert expected == [row["model"] for row in await sql.fetch(found)], days
    await sql.execute("update checkpointd.jobs set untracked_at = now() where model = 'a'")
    await evaluate_findings(store, 0, 0)
    assert ["b"] == [row["model"] for row in await sql.fetch(found)]
    kinds = await sql.fetch("""select kind, count(*) from fine_tuning.changes where field = 'shutting_down'
        and fine_tuning_job_id is null group by 1 order by 1""")
    assert [("fired", 6), ("resolved", 5)] == [tuple(row) for row in kinds]
    (row,) = await sql.fetch("""select f.message, j.shutdown_date from fine_tuning.findings f
        join fine_tuning.jobs j on j.model = f.model where f.until is null""")
    assert f"The provider shuts the model b down on {row['shutdown_date']}." == row["message"]
