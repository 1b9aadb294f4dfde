"""New checkpoints are seen sooner than by a fixed interval that sends as many requests: `make freshness` in small."""

import pytest

from benchmarks.freshness import ESTIMATED, NEVER_WORSE, STABLE, WORLDS, World, simulate_limit
from benchmarks.simulation import simulate

REGULAR = [world for world in WORLDS if "5%" in world.name or world.goal in (STABLE, ESTIMATED)]
OTHERS = [world for world in WORLDS if world.goal is NEVER_WORSE]


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("world", REGULAR, ids=lambda world: world.name)
def test_regular_jobs(world: World) -> None:
    """In worlds of regular jobs, median, mean and p99 of the ages are at most two fifths more than the goals."""
    outcome = simulate(world.jobs(120, seed=3))
    assert all(ratio < 1.4 * goal for ratio, goal in zip(outcome.ratios, world.goal, strict=True)), outcome


@pytest.mark.fast_cases(3)
@pytest.mark.parametrize("world", OTHERS, ids=lambda world: world.name)
def test_other_jobs(world: World) -> None:
    """In worlds that the rule does not expect, median and mean are hardly worse than with the fixed interval."""
    outcome = simulate(world.jobs(120, seed=3))
    assert 1.25 > max(outcome.ratios[:2]), outcome


def test_a_rate_limit() -> None:
    """If a rate limit permits too few requests, they go where news is expected, and not to all jobs in turn."""
    outcome = simulate_limit(WORLDS[1].jobs(120, seed=3), 25)
    assert outcome.requests < 0.6 * simulate(WORLDS[1].jobs(120, seed=3)).requests
    assert 0.8 > max(outcome.ratios[:2]), outcome
