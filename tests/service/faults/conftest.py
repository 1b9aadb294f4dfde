"""What the fault tests share: a seed, which is printed and can be given, a provider with its truth, and a judge."""

import os
import random

import pytest

from service.faults.daemons import track
from service.faults.invariants import Judge
from service.faults.truth import Truth
from support.provider import Provider


@pytest.fixture
def rng() -> random.Random:
    """Return the randomness of a test. Its seed is printed; FAULT_SEED=… repeats it."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"FAULT_SEED={seed}")  # noqa: T201  # shown where the test fails, and by -rP
    return random.Random(seed)


@pytest.fixture
def truth(provider: Provider, rng: random.Random) -> Truth:
    """Return the truth of a provider with ten jobs, each with a first burst."""
    made = Truth(provider, 10, rng)
    for name in made.jobs:
        made.grow(name)
    return made


@pytest.fixture
async def judge(url: str, truth: Truth) -> Judge:
    """Return the judge over the test's database, in which all jobs are tracked."""
    await track(url, truth.jobs)
    return Judge(url, truth)
