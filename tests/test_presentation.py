"""Values and states as text, for the terminal and the status page."""

from datetime import UTC, datetime, timedelta

import pytest

from checkpointd import presentation
from checkpointd.presentation import duration, number, plural, visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (9000, "2 h 30 min"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
        (400 * 86400, "400 d"),
        (-90, "1 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A duration has its two largest units."""
    assert text == duration(seconds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0.0000"),
        (0.12345, "0.1235"),
        (-1.5, "-1.5000"),
        (0.00001, "1.00e-05"),
        (1e308, "1.00e+308"),
        (float("nan"), "nan"),
        (12345.6789, "12345.6789"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    """A metric has four decimals, or an exponent if it is too small or too large for that."""
    assert text == number(value)


@pytest.mark.parametrize(("number", "noun"), [(0, "polls"), (1, "poll"), (2, "polls"), (1001, "polls")])
def test_plurals(number: int, noun: str) -> None:
    """Only 1 is followed by the singular."""
    assert noun == plural("poll", number)


def test_visible() -> None:
    """Control, invisible and direction characters are replaced, line breaks become blanks, other scripts stay."""
    assert "a�[31m b��c" == visible("a\x1b[31m\nb\u202e\0c")
    assert "微调 تدريب ñ" == visible("微调 تدريب ñ")


@pytest.mark.parametrize(
    ("row", "age", "label"),
    [
        ({"phase": "active"}, 5, ("good", "read 5 s ago")),
        ({"phase": "active"}, None, ("neutral", "not read yet")),
        ({"phase": "active", "is_stale": True}, 7200, ("bad", "stale, read 2 h ago")),
        ({"phase": "active", "is_stale": True}, None, ("bad", "stale, never read")),
        ({"phase": "settling", "consecutive_failures": 1}, 5, ("warn", "read 5 s ago")),
        ({"phase": "missing", "consecutive_failures": 1}, 5, ("bad", "missing, read 5 s ago")),
        ({"phase": "sealed"}, 5, ("neutral", "complete")),
        ({"phase": "untracked", "is_stale": None}, 5, ("neutral", "no longer tracked")),
    ],
)
def test_freshness(row: dict[str, object], age: float | None, label: tuple[str, str]) -> None:
    """Of several facts about the freshness of a job, the text has the worst."""
    assert label == presentation.freshness({"is_stale": False, "consecutive_failures": 0, **row}, age)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=1)
UNREADABLE = "unreadable items: see fine_tuning.rejects"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"last_complete_at": None, "last_success_at": None}, ""),
        ({"last_complete_at": NOW, "last_success_at": NOW}, ""),
        ({"last_complete_at": NOW, "last_success_at": BEFORE}, UNREADABLE),
        ({"last_complete_at": NOW, "last_success_at": None}, UNREADABLE),
        ({"consecutive_failures": 1, "last_error": "HTTP 500"}, "1 failed poll: HTTP 500"),
        (
            {"consecutive_failures": 1001, "last_error": "HTTP 500", "last_complete_at": NOW, "last_success_at": None},
            f"1,001 failed polls: HTTP 500; {UNREADABLE}",
        ),
        ({"unstable_since": NOW}, "unstable: its list differs at each request"),
    ],
)
def test_problems_of_a_job(row: dict[str, object], text: str) -> None:
    """The problems of a job are failed polls, items that cannot be read, and a list that never stabilises."""
    healthy = {"consecutive_failures": 0, "last_complete_at": None, "last_success_at": None, "unstable_since": None}
    assert text == presentation.problems({**healthy, **row})


@pytest.mark.parametrize(
    ("received", "text"),
    [
        (None, None),
        ("null", None),
        ("{}", None),
        ('{"code": null, "message": null}', None),
        ('{"code": "x", "message": "y z"}', "x: y z"),
        ('{"reason": 1}', '{"reason": 1}'),
        ('"text"', "text"),
        ("[", None),
        ("[" * 100_000, None),
    ],
)
def test_errors_of_providers(received: str | None, text: str | None) -> None:
    """A job's error becomes text, whatever form the provider gave it."""
    assert text == presentation.provider_error(received)


def test_epochs_of_a_job() -> None:
    """The number of a job's epochs is known if it is a whole number, however it is written."""
    job = {"checkpoint_count": 1, "estimated_finish": None, "finished_at": None}
    for given, epochs in (("3", 3), ("3.0", 3), ('"auto"', None), ("2.5", None)):
        assert epochs == presentation.progress({**job, "hyperparameters": f'{{"n_epochs": {given}}}'}, 1, NOW).epochs


@pytest.mark.parametrize(
    ("finish", "finished", "expected"),
    [
        (NOW + timedelta(hours=2), None, "end expected in 2 h"),
        (BEFORE, None, "end was expected 2025-12-31 23:00 UTC"),
        (NOW - timedelta(days=8), None, None),
        (BEFORE, BEFORE, None),
        (None, None, None),
    ],
)
def test_expected_end(finish: datetime | None, finished: datetime | None, expected: str | None) -> None:
    """The provider's estimate of the end is shown until the job has ended, or the estimate is a week old."""
    job = {"hyperparameters": None, "checkpoint_count": 1, "estimated_finish": finish, "finished_at": finished}
    assert expected == presentation.progress(job, None, NOW).expected
