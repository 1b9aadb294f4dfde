"""The daemon polls as the simulation of its cadence does: the second part of `make freshness` in small."""

from pathlib import Path

import pytest

from benchmarks.daemon import measure
from benchmarks.freshness import DAEMON_WORLD
from benchmarks.simulation import Pace, simulate


@pytest.mark.slow
@pytest.mark.alone
async def test_the_daemon_polls_as_simulated(url: str, tmp_path: Path) -> None:
    """Ten jobs that run fast get about as many polls from the daemon as by simulation, and are as fresh."""
    jobs = [job.faster(60) for job in DAEMON_WORLD.jobs(200, seed=1) if job.ended < 1800][:10]
    pace = Pace(start_gap=12).faster(60)
    simulated, measured = simulate(jobs, pace), await measure(jobs, pace, tmp_path, url)
    assert 1 / 1.4 < measured.requests / simulated.requests < 1.4, (simulated, measured)
    assert measured.ours.mean < 1.5 * simulated.ours.mean, (simulated, measured)
