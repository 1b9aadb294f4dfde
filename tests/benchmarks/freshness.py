"""How old are new checkpoints when they are first seen, compared with a fixed interval and as many requests?

`make freshness` simulates the cadence in many worlds, and then runs the daemon in one of them.
"""

import argparse
import asyncio
import math
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import daemon, worlds
from benchmarks.simulation import Figures, Outcome, Pace, simulate
from benchmarks.worlds import SimulatedJob, make_jobs


class World(NamedTuple):
    """A world of the table, and the most that the ratios may be."""

    name: str
    gaps: worlds.Gaps
    goal: Figures
    delay: str = "none"
    pauses: str = "none"
    estimate_error: float | None = None

    def jobs(self, count: int, seed: int) -> list[SimulatedJob]:
        """Return so many jobs of this world."""
        return make_jobs(
            count, self.gaps, seed=seed, delay=self.delay, pauses=self.pauses, estimate_error=self.estimate_error
        )


STABLE: Final = Figures(0.25, 0.35, 0.75)
ESTIMATED: Final = Figures(0.25, 0.30, 0.55)
GOALS: Final = {0.02: STABLE, 0.05: STABLE, 0.10: Figures(0.32, 0.45, 0.95), 0.25: Figures(0.5, 0.75, 1.3)}
AT_END: Final = Figures(0.2, 0.2, 0.2)
NEVER_WORSE: Final = Figures(1.0, 1.0, math.inf)
WORLDS: Final = [
    *(World(f"at once, noise {noise:.0%}", worlds.regular(noise), goal) for noise, goal in GOALS.items()),
    *(
        World(f"2 to 8 min later, noise {noise:.0%}", worlds.regular(noise), goal, "job")
        for noise, goal in GOALS.items()
    ),
    *(World(f"at the end, noise {noise:.0%}", worlds.regular(noise), AT_END, "end") for noise in GOALS),
    *(
        World(f"{name}, shown by the status", worlds.regular(0.05), STABLE, pauses=f"{pauses}, shown")
        for pauses, name in worlds.PAUSES.items()
    ),
    World("estimated to within a fifth", worlds.regular(0.05), ESTIMATED, estimate_error=0.2),
    World("estimated at random", worlds.regular(0.05), STABLE, estimate_error=2.0),
    *(
        World(f"{name}, not shown", worlds.regular(0.05), NEVER_WORSE, pauses=pauses)
        for pauses, name in worlds.PAUSES.items()
    ),
    World("spacing grows by half", worlds.growing, NEVER_WORSE),
    World("spacing shrinks by half", worlds.shrinking, NEVER_WORSE),
    World("pairs, at the same time", worlds.pairs(0), NEVER_WORSE),
    World("pairs, a minute apart", worlds.pairs(60), NEVER_WORSE),
    World("pairs, five minutes apart", worlds.pairs(300), NEVER_WORSE),
    World("no regularity", worlds.random_gaps, NEVER_WORSE),
    World("two minutes or an hour", worlds.two_kinds, NEVER_WORSE),
    World("each 2 to 8 min later", worlds.regular(0.05), NEVER_WORSE, "checkpoint"),
]

LIMITS: Final = [300, 150, 75, 30]
LIMITED_JOBS: Final = 600
"""The rate limits in requests per minute, for jobs of which one starts every six seconds."""

DAEMON_WORLD: Final = WORLDS[1]
SPEED: Final = 60.0
DAEMON_JOBS: Final = 150
LONGEST_JOB: Final = 10_800.0
"""The daemon gets jobs of up to three hours, which take three minutes at this speed."""
DAEMON_START_GAP: Final = 12.0
"""The time from the start of one job to that of the next one, in seconds."""

SIMILAR: Final = 1.25
"""The daemon follows the policy if its requests and the median and mean of the ages differ by this factor at most."""


def main() -> None:
    """Print the tables. Exits with 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description="Measures the cadence, and compares it with a fixed interval.")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of each simulated world")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--world", default="", help="only the simulated worlds whose names contain this")
    parser.add_argument("--only", choices=["simulation", "daemon"], help="only this part")
    args = parser.parse_args()
    is_met = True
    if args.only != "daemon":
        chosen = [world for world in WORLDS if args.world in world.name]
        is_met &= _print_worlds(chosen, args.jobs, args.seed)
    if args.only != "daemon" and not args.world:
        is_met &= _print_limits(args.seed)
    if args.only != "simulation" and not args.world:
        is_met &= _print_daemon(args.seed)
    sys.exit(not is_met)


def _print_worlds(chosen: list[World], jobs: int, seed: int) -> bool:
    """Simulate worlds. Returns whether all goals are met."""
    _print_row("world", "requests per job", "median", "mean", "p99", "ratios to a fixed interval", "goal", "")
    _print_row(*8 * ["---"])
    are_met = True
    for world in chosen:
        outcome = simulate(world.jobs(jobs, seed))
        is_met = all(ratio <= goal for ratio, goal in zip(outcome.ratios, world.goal, strict=True))
        are_met &= is_met
        _print_row(*_cells(world.name, outcome), _join(world.goal), "met" if is_met else "missed")
    return are_met


def _print_limits(seed: int) -> bool:
    """Simulate rate limits. Returns whether the ages are never longer than those of a fixed interval."""
    print(f"\n{DAEMON_WORLD.name}, {LIMITED_JOBS} jobs, with a rate limit:\n")
    _print_row("requests per minute", "requests per job", "median", "mean", "p99", "ratios to polls every 15 s", "")
    _print_row(*7 * ["---"])
    jobs, are_met = DAEMON_WORLD.jobs(LIMITED_JOBS, seed), True
    for limit in LIMITS:
        outcome = simulate_limit(jobs, limit)
        is_met = max(outcome.ratios[:2]) <= 1
        are_met &= is_met
        _print_row(*_cells(f"{limit}", outcome), "met" if is_met else "missed")
    return are_met


def simulate_limit(jobs: list[SimulatedJob], limit: float) -> Outcome:
    """Simulate a rate limit. The outcome compares with polling each job every 15 s, as far as the limit permits it."""
    pace = Pace(start_gap=6.0)
    fixed = pace._replace(settings=pace.settings._replace(longest=pace.settings.shortest))
    ours, theirs = (simulate(jobs, given, requests_per_minute=limit) for given in (pace, fixed))
    return ours._replace(fixed=theirs.ours)


def _print_daemon(seed: int) -> bool:
    """Run the daemon, and simulate the same jobs at the same speed. Returns whether both have similar figures."""
    print(f"\n{DAEMON_WORLD.name}, jobs of up to three hours, {SPEED:.0f} times as fast as life:\n")
    _print_row("", "requests per job", "median", "mean", "p99", "ratios to a fixed interval")
    _print_row(*6 * ["---"])
    jobs = [job for job in DAEMON_WORLD.jobs(3 * DAEMON_JOBS, seed) if job.ended < LONGEST_JOB][:DAEMON_JOBS]
    fast, pace = [job.faster(SPEED) for job in jobs], Pace(start_gap=DAEMON_START_GAP).faster(SPEED)
    simulated = simulate(fast, pace)
    _print_row(*_cells("simulation", simulated, SPEED))
    with tempfile.TemporaryDirectory() as home:
        measured = asyncio.run(daemon.measure(fast, pace, Path(home)))
    _print_row(*_cells("daemon", measured, SPEED))
    return are_similar(simulated, measured)


def are_similar(simulated: Outcome, measured: Outcome) -> bool:
    """Return whether the figures of the daemon are those of the simulation, as far as a busy machine permits."""
    pairs = [(simulated.requests, measured.requests), *zip(simulated.ours[:2], measured.ours[:2], strict=True)]
    return all(1 / SIMILAR < measured / simulated < SIMILAR for simulated, measured in pairs)


def _cells(name: str, outcome: Outcome, speed: float = 1.0) -> tuple[str, ...]:
    ages = [f"{speed * age:.1f} s" for age in outcome.ours]
    return name, f"{outcome.requests:.0f}", *ages, _join(outcome.ratios)


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _join(figures: Figures) -> str:
    return ", ".join("any" if math.isinf(figure) else f"{figure:.2f}" for figure in figures)


if __name__ == "__main__":
    main()
