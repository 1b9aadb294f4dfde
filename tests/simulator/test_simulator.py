"""The simulated provider over real HTTP on loopback, with a clock that the tests set."""

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.world import World

START = 1_790_000_000.0
AFTER_ALL = START + 86_400
KEY = {"Authorization": "Bearer sk-simulated-0123456789"}
UNKNOWN = "/fine_tuning/jobs/ftjob-unknown"


class Simulated:
    """A served world, its clock and a client."""

    def __init__(self, world: World, client: aiohttp.ClientSession) -> None:
        self.world = world
        self.client = client
        self.now = START
        self.base = ""

    async def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of an answer, which must have status 200."""
        status, body = await self.request("GET", path, params=query)
        assert status == 200, body
        return body

    async def request(self, method: str, path: str, headers: dict[str, str] = KEY, **options: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        async with self.client.request(method, self.base + path, headers=headers, **options) as response:
            assert response.headers["x-request-id"].startswith("req_")
            return response.status, await response.json()


@asynccontextmanager
async def simulated(world: World) -> AsyncIterator[Simulated]:
    """Serve a world, its clock at the start."""
    async with aiohttp.ClientSession() as client:
        provider = Simulated(world, client)
        async with serve(world, lambda: provider.now) as provider.base:
            yield provider


@pytest.fixture
async def provider() -> AsyncIterator[Simulated]:
    """Yield a provider with fifty jobs, its clock at the start."""
    async with simulated(World(seed=1, jobs=50, started_at=START)) as provider:
        yield provider


def checkpoints(world: World, t: float, count: int | None = 3) -> dict[str, dict[str, Any]]:
    """Return the newest `count` checkpoints of each job at time `t`, by id. The API lists three."""
    return {item["id"]: item for job in world.jobs(t) for item in world.checkpoints(job["id"], t)[:count]}


def long_job(world: World) -> dict[str, Any]:
    """Return the final record of a job that is created after START and succeeds after at least eight epochs."""
    return next(
        job
        for job in world.jobs(AFTER_ALL)
        if job["status"] == "succeeded" and job["hyperparameters"]["n_epochs"] >= 8 and job["created_at"] > START
    )


async def bodies(seed: int) -> list[bytes]:
    """Return every answer of a small world at three times, as bytes."""
    answers = []
    async with simulated(World(seed, jobs=4, started_at=START)) as provider:
        for provider.now in (START, START + 1800, AFTER_ALL):
            paths = ["/fine_tuning/jobs"]
            for job in (await provider.get("/fine_tuning/jobs"))["data"]:
                paths += [f"/fine_tuning/jobs/{job['id']}", f"/fine_tuning/jobs/{job['id']}/checkpoints"]
            for path in paths:
                async with provider.client.get(provider.base + path, headers=KEY) as response:
                    answers.append(await response.read())
    return answers


async def test_seed() -> None:
    """The same seed gives the same bytes, and another seed gives other bytes."""
    first = await bodies(7)
    assert first == await bodies(7)
    assert not set(first) & set(await bodies(8))


async def test_life_of_a_job(provider: Simulated) -> None:
    """A job goes through its statuses. Each step is listed at some time, at most three at once, newest first."""
    final = long_job(provider.world)
    path = f"/fine_tuning/jobs/{final['id']}"
    statuses: list[str] = []
    seen: set[int] = set()
    gone: set[int] = set()
    for provider.now in range(final["created_at"] + 1, final["created_at"] + 3 * 3600, 15):
        job = await provider.get(path)
        statuses.append(job["status"])
        ended = job["status"] == "succeeded"
        assert ended == (job["fine_tuned_model"] is not None) == (job["finished_at"] is not None)
        assert (job["status"] == "running") == (job["estimated_finish"] is not None)

        listed = [item["step_number"] for item in (await provider.get(f"{path}/checkpoints"))["data"]]
        assert len(listed) <= 3
        assert sorted(listed, reverse=True) == listed
        gone |= seen - set(listed)
        seen |= set(listed)
        assert gone.isdisjoint(listed)
        assert all(dropped < min(listed) for dropped in gone)
    assert ["validating_files", "queued", "running", "succeeded"] == [
        status for status, _ in itertools.groupby(statuses)
    ]
    epochs = final["hyperparameters"]["n_epochs"]
    assert {max(seen) // epochs * epoch for epoch in range(1, epochs + 1)} == seen


async def test_pages(provider: Simulated) -> None:
    """Pages of one item, followed by `after`, have the items of one large page, for jobs and for checkpoints."""
    provider.now = AFTER_ALL
    for path, count in (("/jobs", 50), (f"/jobs/{long_job(provider.world)['id']}/checkpoints", 3)):
        whole_list = await provider.get(f"/fine_tuning{path}", limit=100)
        assert count == len(whole_list["data"])
        assert whole_list["has_more"] is False
        page = await provider.get(f"/fine_tuning{path}", limit=1)
        items = page["data"]
        while page["has_more"] and len(items) < count:
            page = await provider.get(f"/fine_tuning{path}", limit=1, after=items[-1]["id"])
            items += page["data"]
        assert page["has_more"] is False
        assert whole_list["data"] == items


async def test_envelopes(provider: Simulated) -> None:
    """A page has 20 jobs by default, newest first. An empty list of checkpoints has null for first_id and last_id."""
    provider.now = AFTER_ALL
    page = await provider.get("/fine_tuning/jobs")
    assert (20, True, "list") == (len(page["data"]), page["has_more"], page["object"])
    created = [job["created_at"] for job in page["data"]]
    assert sorted(created, reverse=True) == created

    job = long_job(provider.world)
    path = f"/fine_tuning/jobs/{job['id']}/checkpoints"
    full = await provider.get(path)
    assert (full["data"][0]["id"], full["data"][-1]["id"]) == (full["first_id"], full["last_id"])
    provider.now = job["created_at"] + 1
    empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert empty == await provider.get(path)


async def test_cursor_that_left_the_list(provider: Simulated) -> None:
    """A checkpoint that left the list between two pages is still a cursor: the next page is empty, and not an error."""
    job_id = long_job(provider.world)["id"]
    displaced = provider.world.checkpoints(job_id, AFTER_ALL)[3]["id"]
    provider.now = AFTER_ALL
    page = await provider.get(f"/fine_tuning/jobs/{job_id}/checkpoints", after=displaced)
    assert ([], False) == (page["data"], page["has_more"])


def test_late_checkpoints_and_metrics() -> None:
    """Some checkpoints are listed minutes after created_at. Some get full_valid_* later, while they are listed."""
    world = World(seed=1, jobs=50, started_at=START)
    first: dict[str, dict[str, Any]] = {}
    last: dict[str, dict[str, Any]] = {}
    late, filled = set(), set()
    for t in range(int(START) - 3600, int(START) + 4 * 3600, 30):
        for item_id, item in checkpoints(world, t).items():
            if item_id not in first:
                first[item_id] = item
                if t - item["created_at"] > 180:
                    late.add(item_id)
            elif item != last[item_id]:
                added = dict(item["metrics"].items() - first[item_id]["metrics"].items())
                assert {"full_valid_loss", "full_valid_mean_token_accuracy"} == added.keys()
                assert first[item_id] | {"metrics": first[item_id]["metrics"] | added} == item
                filled.add(item_id)
            last[item_id] = item
    assert checkpoints(world, AFTER_ALL, count=None) == last
    assert 0.05 < len(late) / len(first) < 0.4
    assert 0.05 < len(filled) / len(first) < 0.4


def test_final_checkpoint() -> None:
    """Only the last checkpoint of a successful job has the job's model; others have their own suffix and the step."""
    world = World(seed=1, jobs=50, started_at=START)
    suffixes = []
    for job in world.jobs(AFTER_ALL):
        items = world.checkpoints(job["id"], AFTER_ALL)
        if job["status"] == "succeeded":
            assert job["hyperparameters"]["n_epochs"] == len(items)
            assert job["fine_tuned_model"] == items.pop(0)["fine_tuned_model_checkpoint"]
        for item in items:
            name, _, suffix = (
                item["fine_tuned_model_checkpoint"].removesuffix(f":ckpt-step-{item['step_number']}").rpartition(":")
            )
            assert name.startswith(f"ft:{job['model']}:")
            assert 8 == len(suffix)
            suffixes.append(suffix)
    assert len(set(suffixes)) == len(suffixes)


def test_metrics() -> None:
    """Metrics are finite, accuracies are in [0, 1], losses fall, and validation metrics need a validation file."""
    world = World(seed=1, jobs=200, started_at=START)
    train = {"step", "train_loss", "train_mean_token_accuracy"}
    valid = {f"{kind}_{name}" for kind in ("valid", "full_valid") for name in ("loss", "mean_token_accuracy")}
    overfitted = set()
    for job in world.jobs(AFTER_ALL):
        curve = [item["metrics"] for item in reversed(world.checkpoints(job["id"], AFTER_ALL))]
        for metrics in curve:
            assert (train | valid if job["validation_file"] else train) == metrics.keys()
            assert all(math.isfinite(value) for value in metrics.values())
            assert all(0 <= value <= 1 for name, value in metrics.items() if name.endswith("accuracy"))
            assert all(value > 0 for name, value in metrics.items() if name.endswith("loss"))
        if job["status"] == "succeeded":
            assert curve[-1]["train_loss"] < curve[0]["train_loss"]
            assert curve[-1]["train_mean_token_accuracy"] > curve[0]["train_mean_token_accuracy"]
            if job["validation_file"]:
                best = min(metrics["full_valid_loss"] for metrics in curve)
                overfitted.add(curve[-1]["full_valid_loss"] > 1.2 * best)
    assert {True, False} == overfitted


def test_population() -> None:
    """Most jobs succeed. Failed jobs have an error. Failed and cancelled jobs have no model and no later checkpoint."""
    world = World(seed=1, jobs=200, started_at=START)
    jobs = world.jobs(AFTER_ALL)
    assert {"succeeded", "failed", "cancelled"} == {job["status"] for job in jobs}
    assert sum(job["status"] == "succeeded" for job in jobs) > 140
    for job in jobs:
        assert (job["status"] == "failed") == (job["error"] is not None)
        assert (job["status"] == "succeeded") == (job["fine_tuned_model"] is not None)
        assert all(item["created_at"] <= job["finished_at"] for item in world.checkpoints(job["id"], AFTER_ALL))
    assert {"training_file", None} == {job["error"]["param"] for job in jobs if job["error"]}


@pytest.mark.parametrize("seed", range(5))
def test_something_happens_soon(seed: int) -> None:
    """Twenty jobs have checkpoints at the start, a new one within 3 minutes, and a new success within 20 minutes."""
    world = World(seed, jobs=20, started_at=START)

    def succeeded(t: float) -> set[str]:
        return {job["id"] for job in world.jobs(t) if job["status"] == "succeeded"}

    at_start = checkpoints(world, START).keys()
    assert at_start
    assert checkpoints(world, START + 180).keys() - at_start
    assert succeeded(START + 1200) - succeeded(START)
    assert 0 < len(world.jobs(START)) < len(world.jobs(AFTER_ALL)) == 20


@pytest.mark.parametrize(
    ("call", "headers", "status", "param_and_code"),
    [
        ("GET /fine_tuning/jobs", {}, 401, (None, None)),
        ("GET /fine_tuning/jobs", {"Authorization": "Bearer "}, 401, (None, None)),
        ("GET /fine_tuning/jobs", {"Authorization": "Bearer no key"}, 401, (None, None)),
        ("GET /fine_tuning/jobs", {"Authorization": "Basic c2VjcmV0"}, 401, (None, None)),
        (f"GET {UNKNOWN}", KEY, 404, ("fine_tune_id", "fine_tune_not_found")),
        (f"GET {UNKNOWN}/checkpoints", KEY, 404, ("fine_tune_id", "fine_tune_not_found")),
        ("GET /fine_tuning/jobs?limit=ten", KEY, 400, ("limit", None)),
        ("GET /fine_tuning/jobs?limit=1.5", KEY, 400, ("limit", None)),
        ("GET /fine_tuning/jobs?limit=0", KEY, 400, ("limit", None)),
        ("GET /fine_tuning/jobs?limit=-1", KEY, 400, ("limit", None)),
        ("GET /fine_tuning/jobs?limit=101", KEY, 400, ("limit", None)),
        ("GET /fine_tuning/jobs?after=ftjob-unknown", KEY, 400, ("after", None)),
        ("GET /fine_tuning/elsewhere", KEY, 404, (None, None)),
        ("DELETE /fine_tuning/jobs", KEY, 405, (None, None)),
    ],
)
async def test_errors(
    provider: Simulated, call: str, headers: dict[str, str], status: int, param_and_code: tuple[str | None, str | None]
) -> None:
    """An error has its status and OpenAI's body with four members, and repeats no secret."""
    method, path = call.split()
    actual, body = await provider.request(method, path, headers)
    message = body["error"].pop("message")
    param, code = param_and_code
    assert (status, {"error": {"type": "invalid_request_error", "param": param, "code": code}}) == (actual, body)
    assert message
    assert "c2VjcmV0" not in message


async def test_not_yet_created(provider: Simulated) -> None:
    """A job that is not yet created is neither listed nor found."""
    job = provider.world.jobs(AFTER_ALL)[0]
    provider.now = job["created_at"] - 1
    assert job["id"] not in [item["id"] for item in (await provider.get("/fine_tuning/jobs", limit=100))["data"]]
    assert 404 == (await provider.request("GET", f"/fine_tuning/jobs/{job['id']}"))[0]


async def test_closed_on_exit() -> None:
    """After the context ends, the port is closed."""
    async with simulated(World(seed=1, jobs=1, started_at=START)) as provider:
        await provider.get("/fine_tuning/jobs")
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(provider.base)


def test_accelerated() -> None:
    """The clock shows its start first, and then runs at its speed."""
    now = 50.0
    clock = accelerated(speed=60, start=START, monotonic=lambda: now)
    assert START == clock()
    now += 2.5
    assert START + 150 == clock()
