"""The simulated providers whose format is not OpenAI's are read by their own SDKs, item by item.

`make contract` installs the SDKs into an environment of their own, and names its Python in TEST_SDKS.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from checkpointd.provider.formats.openai import OPENAI
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.simulator import coreweave, foundry, tinker, together
from checkpointd.simulator.kinds import KINDS
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Kind, Shape
from checkpointd.simulator.world import EPOCH, World
from support import sdks

AFTER_ALL = EPOCH + 86_400
PYTHON = os.environ.get("TEST_SDKS")

with_sdks = pytest.mark.skipif(PYTHON is None, reason="needs the SDKs, which `make contract` installs")


async def read_with_sdk(kind: Kind, url: str, *jobs: str) -> Any:
    """Return what the SDK of a kind reads."""
    program = await asyncio.create_subprocess_exec(
        str(PYTHON), str(Path(sdks.__file__)), kind, url, *jobs, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await program.communicate()
    assert 0 == program.returncode
    return json.loads(output)


def test_every_kind_is_read_by_an_sdk() -> None:
    """Each kind whose format is not OpenAI's has a reader here. test_contract.py has the others."""
    others = {kind for kind, preset in PRESETS.items() if preset.format.reader is not OPENAI.reader}
    assert others == sdks.READERS.keys()
    assert PRESETS.keys() == KINDS.keys()


@with_sdks
async def test_coreweave() -> None:
    """The client of OpenPipe's ART reads all pages of a model's checkpoints, oldest first."""
    world = World(5, 2, EPOCH, Shape("coreweave", retention="all"))
    jobs = [job["id"] for job in world.jobs(AFTER_ALL)]
    async with serve(world, lambda: AFTER_ALL) as url:
        found = await read_with_sdk("coreweave", url, *jobs)
    assert {job: list(map(coreweave.checkpoint, world.checkpoints(job, AFTER_ALL)[::-1])) for job in jobs} == found


@with_sdks
async def test_together() -> None:
    """Together's SDK reads the jobs, and all checkpoints and metrics of each."""
    world = World(5, 2, EPOCH, Shape("together", retention="all"))
    jobs = {job["id"]: job for job in world.jobs(AFTER_ALL)}
    async with serve(world, lambda: AFTER_ALL) as url:
        found = await read_with_sdk("together", url, *jobs)
    for job_id, job in jobs.items():
        events = [event for event in world.events(job_id, AFTER_ALL)[::-1] if event["type"] == "metrics"]
        checkpoints = world.checkpoints(job_id, AFTER_ALL)
        assert found.pop(job_id) == {
            "record": together.job(job),
            "checkpoints": [item for record in checkpoints for item in together.checkpoints(record, job)],
            "metrics": [item for event in events for item in together.metrics(event)] or None,
        }
    assert {} == found


@with_sdks
async def test_tinker() -> None:
    """Tinker's SDK reads all pages of the training runs, and all checkpoints of each."""
    world = World(5, 3, EPOCH, Shape("tinker", retention="all"))
    jobs = {job["id"]: job for job in world.jobs(AFTER_ALL)}
    async with serve(world, lambda: AFTER_ALL) as url:
        found = await read_with_sdk("tinker", url, *jobs)
    assert found == {
        job_id: {
            "record": tinker.run(job, AFTER_ALL),
            "checkpoints": [item for made in world.checkpoints(job_id, AFTER_ALL) for item in tinker.checkpoints(made)],
        }
        for job_id, job in jobs.items()
    }


@with_sdks
async def test_foundry() -> None:
    """Microsoft's SDK reads all pages of the sessions, and all checkpoints of each."""
    world = World(5, 3, EPOCH, Shape("foundry", retention="all"))
    jobs = {job["id"]: job for job in world.jobs(AFTER_ALL)}
    async with serve(world, lambda: AFTER_ALL) as url:
        found = await read_with_sdk("foundry", url, *jobs)
    assert found == {
        job_id: {
            "record": foundry.session(job, AFTER_ALL),
            "checkpoints": [
                item for made in world.checkpoints(job_id, AFTER_ALL) for item in foundry.checkpoints(made)
            ],
        }
        for job_id, job in jobs.items()
    }
