"""What the fault tests share: a seed, which is printed and can be set, the amount of a play, and the invariants.

The variables FAULT_SEED, FAULT_AMOUNT, FAULT_ROUNDS and FAULT_RESULTS are described in README.md.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from service.faults.daemons import track
from service.faults.invariants import Invariants
from service.faults.play import Play, rounds_of
from service.faults.truth import Truth
from support.provider import Provider

AMOUNT = os.environ.get("FAULT_AMOUNT", "")
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
HAS_PASSED = pytest.StashKey[bool]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each test that has a seed: a play as often as the long run needs it, another test FAULT_ROUNDS times."""
    marker = metafunc.definition.get_closest_marker("play")
    rounds = max(ROUNDS, rounds_of(marker, AMOUNT) if marker else 1)
    if rounds > 1 and "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(rounds), indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether a test passed, for the line of results."""
    report = yield
    if report.when == "call":
        item.stash[HAS_PASSED] = report.passed
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of a test, which is printed: FAULT_SEED plus the number of the round, or a random one."""
    given = os.environ.get("FAULT_SEED")
    chosen = int(given) + getattr(request, "param", 0) if given else random.SystemRandom().randrange(1 << 32)
    print(f"FAULT_SEED={chosen}")  # noqa: T201  # shown if the test fails, and by -rP
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Return the randomness of a test."""
    return random.Random(seed)


@pytest.fixture
def play(request: pytest.FixtureRequest, seed: int) -> Iterator[Play]:
    """Yield a round of the play of this test. Its line of results is printed, and added to FAULT_RESULTS."""
    made, started = Play.of(request.node.get_closest_marker("play"), AMOUNT, seed), time.monotonic()
    yield made
    seconds, results = time.monotonic() - started, os.environ.get("FAULT_RESULTS")
    print(f"{made}, {seconds:.1f} s")  # noqa: T201
    if results:
        made.write(Path(results), passed=request.node.stash.get(HAS_PASSED, False), seconds=seconds)


@pytest.fixture
def violations(request: pytest.FixtureRequest) -> Counter[str]:
    """Return the counter of violated invariants: that of the play, if the test is one."""
    return request.getfixturevalue("play").violations if "play" in request.fixturenames else Counter()


@pytest.fixture
def truth(provider: Provider, rng: random.Random) -> Truth:
    """Return the record of a provider with ten jobs, each with a first burst of checkpoints."""
    return Truth(provider, 10, rng)


@pytest.fixture
async def invariants(url: str, truth: Truth, violations: Counter[str]) -> Invariants:
    """Return the invariants over the test's database, in which all jobs are tracked."""
    await track(url, truth.jobs)
    return Invariants(url, truth, violations)
