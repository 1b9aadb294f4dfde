"""Polls cost little, whatever the machine: `make bench` in small, without its times."""

import pytest

from benchmarks.throughput import Size, measure, profile, row, works


@pytest.mark.slow
@pytest.mark.alone
def test_polls_share_statements() -> None:
    """A pass sends one request per poll, saves many polls at once, and stores what is listed."""
    chosen = [work for work in works(0) if work.is_backfill or work.news]
    for outcome in measure(chosen, Size((8, 5), (64, 3), rounds=1), own_server=True):
        floor, ours = outcome.floor[0].counters, outcome.ours[0].counters
        job_lists = 1
        assert (outcome.polls, outcome.polls + job_lists) == (floor.requests, ours.requests)
        assert outcome.work.name in row(outcome)
        if not outcome.work.is_backfill:
            assert ours.statements < outcome.polls / 2


@pytest.mark.slow
@pytest.mark.alone
def test_profile() -> None:
    """The profile of quiet polls has the shares of the packages that they use."""
    shares = dict(profile(Size(polls=(1000, 3)), own_server=True))
    assert {"checkpointd", "aiohttp", "Python"} <= shares.keys()
