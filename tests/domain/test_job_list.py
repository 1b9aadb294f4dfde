"""When a pass over a job list begins, and how much one reading may read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpointd.domain.job_list import PassState, is_pass_due, pass_gap, reading_limits

GAPS = st.floats(0.05, 86_400)


@given(took=st.floats(0, 100_000), gap=GAPS)
def test_each_place_of_a_list_is_read_in_time(took: float, gap: float) -> None:
    """A pass is due after five minutes or, if that is longer, three times what the last one took, an hour at most."""
    longest = min(max(300, 3 * took), 3600)
    assert is_pass_due(PassState(None, 0, longest, took), gap)


@given(took=st.floats(0, 100_000), gap=GAPS)
def test_a_long_list_is_read_for_a_quarter_of_the_time(took: float, gap: float) -> None:
    """A pass begins three times as long after the last one as that took, unless that is more than an hour."""
    assert pass_gap(took, gap) >= min(3 * took, 3600)


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (PassState(None, 0, None, None), True),  # no pass ever ended
        (PassState("ftjob-7", 3, 1, 1), True),  # a pass was interrupted
        (PassState(None, 0, 299, 1), False),
        (PassState(None, 0, 300, 1), True),
        (PassState(None, 0, 300, 200), False),
        (PassState(None, 0, 3600, 1e6), True),
        (PassState(None, 0, 1, -3600), False),  # the clock was set back during the pass
        (PassState(None, 0, -3600, 1), True),  # the clock was set back since the pass
    ],
)
def test_when_a_pass_is_due(state: PassState, due: bool) -> None:
    """A pass is due at once if one was interrupted or none ended, and otherwise after its gap."""
    assert due is is_pass_due(state, reading_gap=30)


@given(gap=GAPS, lease=st.floats(2, 3600), interval=st.none() | st.floats(0.001, 60))
def test_a_reading_ends_in_time(gap: float, lease: float, interval: float | None) -> None:
    """A reading begins its last page before the next reading is due and within half of its lease.

    Its requests are half of those that the rate limit permits until then.
    """
    limits = reading_limits(gap, lease, interval)
    assert limits.seconds <= min(gap, lease / 2)
    assert interval is None or limits.requests * interval == pytest.approx(limits.seconds / 2)
