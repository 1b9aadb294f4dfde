"""The simulated provider keeps to OpenAI's published specification, checked by Prism, and works with OpenAI's SDK.

`make contract` installs Prism. If it is installed, the SDK's requests go through it, too.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import openai
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from openai.types.shared import ErrorObject

from checkpointd.provider.formats.openai import OPENAI
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.simulator.server import accelerated, serve, serve_application, world_application
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import World
from support.prism import PROGRAM, prism
from support.verbs import checkpointd, environment, running

EPOCH = 1_767_225_600.0
AFTER_ALL = EPOCH + 86_400
KEY = {"Authorization": "Bearer simulated"}
with_prism = pytest.mark.skipif(PROGRAM is None, reason="needs Prism, which `make contract` installs if npm is there")


@asynccontextmanager
async def serve_checked(world: World, t: float, folder: Path) -> AsyncIterator[str]:
    """Serve a world as of time `t`, through Prism if it is installed. Prism must find no violation."""
    async with serve(world, lambda: t) as url:
        if PROGRAM is None:
            yield url
            return
        async with prism(url, folder) as proxy:
            yield proxy.url
            assert [] == await proxy.violations()


@asynccontextmanager
async def client(url: str, **headers: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """Open the official client, which raises for answers that its models do not allow, and does not retry."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=url, api_key="simulated", default_headers=headers, max_retries=0, http_client=http,
        _strict_response_validation=True,
    ) as opened:  # fmt: skip
        yield opened


@with_prism
async def test_a_full_run_keeps_to_the_specification(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Prism finds no violation in a whole run of the daemon: the job list, jobs until their end, an unknown job."""
    world = World(5, 12, EPOCH, Shape(retention="all"))
    every = {item["id"] for job in world.jobs(AFTER_ALL) for item in world.checkpoints(job["id"], AFTER_ALL)}
    async with serve(world, accelerated(900, EPOCH)) as api, prism(api, tmp_path) as proxy:
        often = {f"CHECKPOINTD_{name}_SECONDS": "0.1" for name in ("MIN_POLL", "MAX_POLL", "JOB_LIST")}
        often["CHECKPOINTD_EVENTS_SECONDS"] = "0"  # thousands of pages of this size
        env = environment(tmp_path, url, proxy.url, **often, CHECKPOINTD_DISCOVER="true", CHECKPOINTD_PAGE_SIZE="4")
        assert 0 == (await checkpointd("track", "ftjob-unknown", env=env)).code
        async with running("run", env=env) as daemon, asyncio.timeout(300):
            ended = "select count(*) from fine_tuning.jobs where status in ('succeeded', 'failed', 'cancelled')"
            stored = "select count(*) from fine_tuning.checkpoints"
            while (12, len(every)) != (await sql.fetchval(ended), await sql.fetchval(stored)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the database is written by another process, without an event
            daemon.terminate()
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
        assert [] == await proxy.violations()
        forwarded = proxy.forwarded()
    assert every == {row["id"] for row in await sql.fetch("select id from fine_tuning.checkpoints")}
    failures = await sql.fetch("select fine_tuning_job_id, error_class from fine_tuning.polls where outcome = 'failed'")
    assert {("ftjob-unknown", "missing")} == {tuple(row) for row in failures}
    for part in ("/jobs?limit=4...", "/jobs?limit=4&after=ftjob-", "/checkpoints?limit=4...", "limit=4&after=ftckpt_"):
        assert any(part in query for query in forwarded), part


@with_prism
async def test_reading_events_keeps_to_the_specification(url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """Prism finds no violation in a run of the daemon that reads all events of jobs, supervised ones and others."""
    world = World(5, 4, EPOCH, Shape(reinforcement=0.5))
    events = sum(len(world.events(job["id"], AFTER_ALL)) for job in world.jobs(AFTER_ALL))
    async with serve(world, lambda: AFTER_ALL) as api, prism(api, tmp_path) as proxy:
        env = environment(tmp_path, url, proxy.url, CHECKPOINTD_JOB_LIST_SECONDS="0.1", CHECKPOINTD_DISCOVER="true")
        async with running("run", env=env) as daemon, asyncio.timeout(300):
            stored = "select (select count(*) from fine_tuning.steps) + (select count(*) from fine_tuning.events)"
            while events != await sql.fetchval(stored):  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the database is written by another process, without an event
            daemon.terminate()
            assert 0 == await asyncio.wait_for(daemon.wait(), 60)
        assert [] == await proxy.violations()
        assert any("/events?limit=100&after=ftevent-" in query for query in proxy.forwarded())


@with_prism
async def test_errors_keep_to_the_specification(tmp_path: Path) -> None:
    """Every error that a specified request can get has the body that OpenAI documents."""
    world = World(5, 3, EPOCH)
    job = f"/fine_tuning/jobs/{world.jobs(AFTER_ALL)[0]['id']}"
    no_key = {"Authorization": "Bearer no key"}  # without the header Prism would answer itself
    async with serve_checked(world, AFTER_ALL, tmp_path) as url, aiohttp.ClientSession() as http:
        for path, headers, status in (
            ("/fine_tuning/jobs", no_key, 401),
            (f"{job}/checkpoints", no_key, 401),
            ("/fine_tuning/jobs?limit=0", KEY, 400),
            ("/fine_tuning/jobs?after=ftjob-unknown", KEY, 400),
            (f"{job}/checkpoints?limit=101", KEY, 400),
            (f"{job}/events?after=ftevent-unknown", KEY, 400),
            ("/fine_tuning/jobs/ftjob-unknown/events", KEY, 404),
            (f"{job}/checkpoints?after=ftckpt_unknown", KEY, 400),
            ("/fine_tuning/jobs/ftjob-unknown", KEY, 404),
            ("/fine_tuning/jobs/ftjob-unknown/checkpoints", KEY, 404),
        ):
            async with http.get(url + path, headers=headers) as response:
                assert (status, ["error"]) == (response.status, list(await response.json())), path


def _departing(world: World) -> web.Application:
    """Return a provider that departs from the specification as the header `departure` of a request names."""

    @web.middleware
    async def depart(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        body = json.loads(answer.body)
        DEPARTURES[request.headers["departure"]][1](body)
        return web.json_response(body, status=answer.status)

    application = world_application(world, lambda: AFTER_ALL)
    application.middlewares.insert(0, depart)
    return application


CHECKPOINTS, JOBS, UNKNOWN = "/fine_tuning/jobs/{}/checkpoints", "/fine_tuning/jobs", "/fine_tuning/jobs/ftjob-unknown"
EVENTS = "/fine_tuning/jobs/{}/events"
DEPARTURES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a list without has_more": (CHECKPOINTS, lambda body: body.pop("has_more"), "required property 'has_more'"),
    "a checkpoint without its step": (CHECKPOINTS, lambda body: body["data"][1].pop("step_number"), "'step_number'"),
    "a job without its status": (JOBS, lambda body: body["data"][0].pop("status"), "'status'"),
    "a time as text": (CHECKPOINTS, lambda body: body["data"][0].update(created_at="now"), "must be integer"),
    "a metric as text": (
        CHECKPOINTS, lambda body: body["data"][0]["metrics"].update(train_loss="n/a"), "train_loss must be number",
    ),
    "an unknown status": (JOBS, lambda body: body["data"][0].update(status="pending"), "status must be equal to"),
    "an event without its message": (EVENTS, lambda body: body["data"][0].pop("message"), "'message'"),
    "an unknown level": (EVENTS, lambda body: body["data"][0].update(level="warning"), "level must be equal to"),
    "an error without param": (UNKNOWN, lambda body: body["error"].pop("param"), "'param'"),
    "an error whose message is null": (UNKNOWN, lambda body: body["error"].update(message=None), "message must be"),
    "an error of another provider": (
        UNKNOWN, lambda body: body.update({"detail": body.pop("error")}), "required property 'error'"
    ),
}  # fmt: skip


@with_prism
async def test_prism_catches_departures(tmp_path: Path) -> None:
    """Prism finds and names each planted departure, so that finding none is a proof."""
    world = World(5, 3, EPOCH)
    job = world.jobs(AFTER_ALL)[0]["id"]
    async with (
        serve_application("openai", _departing(world), "127.0.0.1", 0) as api,
        prism(api, tmp_path) as proxy,
        aiohttp.ClientSession() as http,
    ):
        for number, (departure, (path, _, message)) in enumerate(DEPARTURES.items(), 1):
            async with http.get(proxy.url + path.format(job), headers={**KEY, "departure": departure}) as response:
                assert 500 == response.status, departure
                assert message in await response.text()
            assert number == len(await proxy.violations()), departure


@pytest.mark.parametrize("departure", [name for name in DEPARTURES if name != "a list without has_more"])
async def test_the_sdk_catches_departures(departure: str) -> None:
    """The SDK's models reject the same departures, except a missing has_more, which its pager does not need."""
    path = DEPARTURES[departure][0]
    world = World(5, 3, EPOCH)
    job = world.jobs(AFTER_ALL)[0]["id"]
    async with (
        serve_application("openai", _departing(world), "127.0.0.1", 0) as api,
        client(api, departure=departure) as sdk,
    ):
        if path == UNKNOWN:
            with pytest.raises(openai.NotFoundError) as caught:
                await sdk.fine_tuning.jobs.retrieve("ftjob-unknown")
            with pytest.raises((ValueError, AssertionError)):
                _check(caught.value)
        else:
            jobs = sdk.fine_tuning.jobs
            page: Any = {JOBS: jobs.list, EVENTS: partial(jobs.list_events, job)}.get(
                path, partial(jobs.checkpoints.list, job)
            )()
            with pytest.raises(openai.APIResponseValidationError):
                await page


def _check(error: openai.APIStatusError) -> None:
    """Assert that the SDK's model accepts the body of an error: it has all four members, with their types."""
    read = ErrorObject.model_validate(error.body, strict=True)
    assert {"message", "type", "param", "code"} <= read.model_fields_set
    assert (read.type, read.param, read.code) == (error.type, error.param, error.code)


async def test_the_sdk_pages_through_a_hundred_checkpoints(tmp_path: Path) -> None:
    """The SDK's pager reads more than a hundred checkpoints in order, by pages of ten and of a hundred."""
    world = World(5, 3, EPOCH, Shape(retention="all", per_epoch=40))
    job = world.jobs(AFTER_ALL)[0]["id"]
    expected = world.checkpoints(job, AFTER_ALL)
    assert len(expected) > 100
    async with serve_checked(world, AFTER_ALL, tmp_path) as url, client(url) as sdk:
        by_default = [item async for item in sdk.fine_tuning.jobs.checkpoints.list(job)]
        assert expected == [item.to_dict() for item in by_default]
        by_hundreds = [item async for item in sdk.fine_tuning.jobs.checkpoints.list(job, limit=100)]
        assert by_default == by_hundreds


@pytest.mark.parametrize("kind", [kind for kind, preset in PRESETS.items() if preset.format.reader is OPENAI.reader])
async def test_the_sdk_reads_each_kind(kind: Kind) -> None:
    """The SDK's pager reads all checkpoints of each kind with OpenAI's format, with or without `has_more`."""
    world = World(5, 3, EPOCH, Shape(kind, retention="all", per_epoch=3))
    key = {PRESETS[kind].key_header: "Bearer simulated"}
    async with serve(world, lambda: AFTER_ALL) as url, client(url, **key) as sdk:
        for job in world.jobs(AFTER_ALL):
            read = [item async for item in sdk.fine_tuning.jobs.checkpoints.list(job["id"], limit=3)]
            assert world.checkpoints(job["id"], AFTER_ALL) == [item.to_dict() for item in read]


@pytest.mark.parametrize("kind", ["openai", "bedrock"])
async def test_the_sdk_pages_through_events(kind: Kind, tmp_path: Path) -> None:
    """The SDK's pager reads all events of a job in order, of supervised jobs and of those with rewards."""
    world = World(5, 4, EPOCH, Shape(kind, reinforcement=0.5))
    async with serve_checked(world, AFTER_ALL, tmp_path) as url, client(url) as sdk:
        for job in world.jobs(AFTER_ALL):
            expected = world.events(job["id"], AFTER_ALL)
            read = [event async for event in sdk.fine_tuning.jobs.list_events(job["id"], limit=100)]
            assert expected == [event.to_dict() for event in read]


async def test_the_sdk_reads_jobs(tmp_path: Path) -> None:
    """The SDK's models accept jobs in every status: all pages, one job alone, and those with given metadata."""
    world = World(5, 60, EPOCH)
    now = world.jobs(EPOCH + 1800)[0]["created_at"] + 15
    expected = world.jobs(now)
    statuses = {"validating_files", "queued", "running", "succeeded", "failed", "cancelled"}
    assert statuses == {job["status"] for job in expected}
    async with serve_checked(world, now, tmp_path) as url, client(url) as sdk:
        assert expected == [job.to_dict() async for job in sdk.fine_tuning.jobs.list()]
        assert expected[0] == (await sdk.fine_tuning.jobs.retrieve(expected[0]["id"])).to_dict()
        about_sql = [job.id async for job in sdk.fine_tuning.jobs.list(metadata={"purpose": "sql"})]
    assert [job["id"] for job in expected if job["metadata"]["purpose"] == "sql"] == about_sql
    assert 0 < len(about_sql) < len(expected)


async def test_the_sdk_raises_as_for_openai(tmp_path: Path) -> None:
    """Each error is raised as the SDK's own exception, with the code and param that programs rely on."""
    world = World(5, 3, EPOCH)
    job = world.jobs(AFTER_ALL)[0]["id"]
    async with (
        serve_checked(world, AFTER_ALL, tmp_path) as url,
        client(url) as sdk,
        client(url, Authorization="Bearer no key") as keyless,
    ):
        calls = {
            "an unknown job": sdk.fine_tuning.jobs.retrieve("ftjob-unknown"),
            "its checkpoints": sdk.fine_tuning.jobs.checkpoints.list("ftjob-unknown"),
            "a limit": sdk.fine_tuning.jobs.checkpoints.list(job, limit=0),
            "a cursor": sdk.fine_tuning.jobs.list(after="ftjob-unknown"),
            "a key": keyless.fine_tuning.jobs.list(),
        }
        raised = {}
        for name, call in calls.items():
            with pytest.raises(openai.APIStatusError) as caught:
                await call
            _check(caught.value)
            raised[name] = (type(caught.value), caught.value.param, caught.value.code)
    assert raised == {
        "an unknown job": (openai.NotFoundError, "fine_tune_id", "fine_tune_not_found"),
        "its checkpoints": (openai.NotFoundError, "fine_tune_id", "fine_tune_not_found"),
        "a limit": (openai.BadRequestError, "limit", None),
        "a cursor": (openai.BadRequestError, "after", None),
        "a key": (openai.AuthenticationError, None, None),
    }


async def test_the_sdk_for_azure_reads_azure() -> None:
    """The SDK's client for Azure, with its own paths and key header, reads that shape and its errors."""
    world = World(5, 3, EPOCH, Shape("azure"))
    job = world.jobs(AFTER_ALL)[0]["id"]
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with (
        serve(world, lambda: AFTER_ALL) as url,
        openai.AsyncAzureOpenAI(
            azure_endpoint=url.removesuffix("/openai/v1"), api_version="2024-10-21", api_key="simulated",
            max_retries=0, http_client=http,
        ) as sdk,
    ):  # fmt: skip
        assert world.jobs(AFTER_ALL) == [item.to_dict() async for item in sdk.fine_tuning.jobs.list()]
        listed = [item.to_dict() async for item in sdk.fine_tuning.jobs.checkpoints.list(job, limit=2)]
        assert world.checkpoints(job, AFTER_ALL)[:3] == listed
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.fine_tuning.jobs.retrieve("ftjob-unknown")
        assert ("notFound", None, None) == (caught.value.code, caught.value.type, caught.value.param)
