"""Many jobs: `make scale` in small, without its times."""

from pathlib import Path

import pytest

from benchmarks import costs, month
from benchmarks.scale import PHASES, measure_phases, row


@pytest.mark.slow
@pytest.mark.alone
async def test_polls_write_no_index(tmp_path: Path) -> None:
    """Polls update their rows in place, and the table of the schedule keeps its size; also with three daemons."""
    async for figures in measure_phases(tmp_path, jobs=1_000, gap=5, seconds=12, phases=[PHASES[2]]):
        assert figures.name in row(figures)
        assert figures.polls_per_second > 0
        assert figures.claims
        assert figures.hot_share >= 0.95
        assert figures.table_after < 1.5 * figures.table_before
        assert figures.memory < 120


@pytest.mark.slow
@pytest.mark.alone
async def test_costs(tmp_path: Path) -> None:
    """The costs of the statements can be measured."""
    await costs.measure(tmp_path, [(200, 3, 2)])


@pytest.mark.slow
@pytest.mark.alone
async def test_only_history_grows(tmp_path: Path) -> None:
    """While jobs are polled, and new checkpoints arrive, only the tables of history grow."""
    early, late = await month.play(tmp_path, jobs=20, polls=10, days=8, every=4)
    assert late <= 1.1 * early
