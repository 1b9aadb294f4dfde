"""The jobs of the demo in which something goes wrong, compared with those of the same world without troubles."""

import math

import aiohttp
import pytest

from checkpointd.cli import demo
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.troubles import EXPLOSION, RefusingWorld, TroubledWorld
from checkpointd.simulator.world import EPOCH, Record, UnknownJobError, World

LATER = EPOCH + 86400.0


def _steps(items: list[Record]) -> list[object]:
    return [item["step_number"] for item in items]


def test_each_trouble() -> None:
    """One job hangs, one explodes, one lacks a checkpoint, one has unreadable ones, one is unknown."""
    sound = World(demo.SEED, demo.JOB_COUNT, EPOCH, demo.SHAPE)
    troubled = TroubledWorld(demo.SEED, demo.JOB_COUNT, EPOCH, demo.SHAPE)
    found = []
    for record in sound.jobs(LATER):
        name = record["id"]
        expected = sound.checkpoints(name, LATER)
        try:
            items = troubled.checkpoints(name, LATER)
        except UnknownJobError:
            found.append("unknown")
            continue
        if troubled.job(name, LATER)["status"] == "running":
            losses = [item["metrics"]["full_valid_loss"] for item in items[:3]]
            assert sorted(losses, reverse=True) == losses
            assert troubled.events(name, LATER) == troubled.events(name, math.inf) != sound.events(name, LATER)
            found.append("hangs")
        elif len(items) < len(expected):
            assert set(_steps(expected)) - set(_steps(items)) == {expected[-3]["step_number"]}
            found.append("gap")
        elif "unknown" in _steps(items):
            assert [*["unknown"] * (len(items) - 2), *_steps(expected)[-2:]] == _steps(items)
            found.append("unreadable")
        elif items != expected:
            last, sound_last = items[0]["metrics"]["train_loss"], expected[0]["metrics"]["train_loss"]
            assert EXPLOSION * sound_last == last
            assert max(event["data"].get("train_loss", 0) for event in troubled.events(name, LATER)) >= last
            found.append("explodes")
        else:
            assert record == troubled.job(name, LATER)
            assert sound.events(name, LATER) == troubled.events(name, LATER)
    assert ["explodes", "gap", "hangs", "unknown", "unreadable"] == sorted(found)


def test_a_world_that_is_too_small() -> None:
    """A world without enough long jobs says so."""
    with pytest.raises(ValueError, match="too small"):
        TroubledWorld(1, 3, EPOCH, Shape())


@pytest.mark.parametrize("name", demo.REFUSING_SOURCES)
async def test_refusals(name: str) -> None:
    """A source of the demo lists its job, and answers requests for its checkpoints with an error."""
    async with (
        serve(RefusingWorld(demo.SEED, EPOCH, demo.REFUSING_SOURCES[name]), lambda: EPOCH) as url,
        aiohttp.ClientSession(url + "/", headers={"Authorization": "Bearer any"}) as http,
    ):
        (job,) = (await (await http.get("fine_tuning/jobs")).json())["data"]
        answer = await http.get(f"fine_tuning/jobs/{job['id']}/checkpoints")
        assert demo.REFUSING_SOURCES[name].status == answer.status
        assert demo.REFUSING_SOURCES[name].code == (await answer.json())["error"]["code"]
