"""The slots of a source: which polls count against its concurrency, when it is tested, and which polls are cut off."""

import pytest

from checkpointd.polling.slots import RunningPoll, Slots

TIMEOUT = 10.0
CONCURRENCY = 4
MOST = 20


@pytest.fixture
def slots() -> Slots:
    """Return four slots, with at most twenty polls."""
    return Slots(CONCURRENCY, MOST, TIMEOUT)


def _start(slots: Slots, jobs: range, now: float) -> list[RunningPoll]:
    """Start polls, whose requests are sent at once."""
    polls = [slots.start(job, now) for job in jobs]
    for poll in polls:
        poll.sent = now
    return polls


def _read(slots: Slots, job: int, started: float, ended: float) -> None:
    """Let a poll read its list."""
    poll = slots.start(job, started)
    slots.end(poll, ended, was_read=True)
    slots.finish(poll)


def test_each_poll_takes_a_slot(slots: Slots) -> None:
    """As many polls may start as slots are free."""
    _start(slots, range(3), 0)
    assert 1 == slots.room(0)
    _start(slots, range(3, 4), 0)
    assert 0 == slots.room(0)


def test_overtaken_polls_give_their_slots_up(slots: Slots) -> None:
    """Slow polls give up their slots when another one has read its list, but not at once."""
    _start(slots, range(4), 0)
    _read(slots, 9, 0.1, 0.11)
    assert (0, 0) == (slots.overtaken(0.124), slots.room(0.124))
    assert (4, 4) == (slots.overtaken(0.125), slots.room(0.125))


def test_slow_poll_overtakes_none(slots: Slots) -> None:
    """A poll overtakes none that started after its end, or that has not been running four times as long."""
    _read(slots, 8, 0, 0.01)
    _start(slots, range(4), 0.1)
    _read(slots, 9, 1, 2.5)
    assert (0, 4) == (slots.overtaken(6), slots.overtaken(6.1))


def test_failed_poll_overtakes_none(slots: Slots) -> None:
    """A poll that fails does not show that the source answers others."""
    _start(slots, range(4), 0)
    failed = slots.start(9, 1)
    slots.end(failed, 1.1, was_read=False)
    assert 0 == slots.overtaken(9)


def test_slow_source_gets_few_more_requests(slots: Slots) -> None:
    """If no poll ends, tests start at growing gaps: a dozen within a request timeout."""
    _start(slots, range(4), 0)
    tests = 0
    for tick in range(1, 100):
        if slots.may_test(tick / 10):
            tests += 1
            _start(slots, range(10 + tests, 11 + tests), tick / 10)
    assert 8 <= tests <= 14


def test_answered_test_frees_all_slots(slots: Slots) -> None:
    """If a test is answered, all other polls are overtaken."""
    _start(slots, range(4), 0)
    assert (False, True, 0) == (slots.may_test(0.1), slots.may_test(0.2), slots.room(0.2))
    _read(slots, 9, 0.2, 0.21)
    assert CONCURRENCY == slots.room(0.22)


def _fill(slots: Slots) -> list[RunningPoll]:
    """Start as many polls as may run, four each half second from 0 on. At 3 all are overtaken, and there is no room."""
    polls = [poll for n in range(5) for poll in _start(slots, range(4 * n, 4 * n + 4), n / 2)]
    _read(slots, 99, 2.5, 2.51)
    assert (MOST, 0) == (slots.overtaken(3), slots.room(3))
    return polls


def test_longest_running_are_cut_off(slots: Slots) -> None:
    """If too many polls are overtaken, as many of the longest running are cut off as jobs can start."""
    polls = _fill(slots)
    assert polls[:4] == slots.make_room(3)
    assert not slots.make_room(3)


def test_not_cut_off(slots: Slots) -> None:
    """Polls are not cut off that wait for the rate limit, that read page after page, or that are known to be slow."""
    _read(slots, 0, -20, -19.1)
    _read(slots, 3, -20, -17)
    polls = _fill(slots)
    polls[1].sent = float("inf")
    polls[2].sent = 2.9
    assert [0, 4, 5, 6] == [poll.job for poll in slots.make_room(3)]


def test_no_cut_off_without_need(slots: Slots) -> None:
    """No poll is cut off while there is room for others, or while the whole source is slow."""
    _start(slots, range(MOST), 0)
    assert not slots.make_room(9)
    few = Slots(CONCURRENCY, 2 * MOST, TIMEOUT)
    _start(few, range(MOST), 0)
    _read(few, 99, 1, 1.1)
    assert not few.make_room(9)


def test_a_job_is_polled_again_before_its_poll_ends(slots: Slots) -> None:
    """If a lease expires before its poll ends, the next poll of the job takes a slot of its own."""
    old, new = slots.start(1, 0), slots.start(1, 61)
    assert 2 == slots.running
    slots.finish(old)
    assert 1 == slots.running
    slots.finish(new)
    assert 0 == slots.running
