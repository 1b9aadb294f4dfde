"""What the fault tests share: a seed, which is printed and can be set, a growing provider, and the invariants."""

import os
import random

import pytest

from service.faults.daemons import track
from service.faults.invariants import Invariants
from service.faults.truth import Truth
from support.provider import Provider


@pytest.fixture
def rng() -> random.Random:
    """Return the randomness of a test. Its seed is printed, and FAULT_SEED=… repeats it."""
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"FAULT_SEED={seed}")  # noqa: T201  # shown if the test fails, and by -rP
    return random.Random(seed)


@pytest.fixture
def truth(provider: Provider, rng: random.Random) -> Truth:
    """Return the record of a provider with ten jobs, each with a first burst of checkpoints."""
    return Truth(provider, 10, rng)


@pytest.fixture
async def invariants(url: str, truth: Truth) -> Invariants:
    """Return the invariants over the test's database, in which all jobs are tracked."""
    await track(url, truth.jobs)
    return Invariants(url, truth)
