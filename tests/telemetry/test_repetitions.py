"""Equal log lines are written once in each period, with a count. Time is moved by the test."""

import logging
import sys

import pytest

from checkpointd.telemetry.repetitions import LINES, Repetitions

SECONDS = 10.0


def event(job: str, *, time: str = "12:00:00", level: int = logging.WARNING) -> logging.LogRecord:
    """Return a record as structlog makes it."""
    fields = {"event": "poll.failed", "job": job, "timestamp": time}
    return logging.LogRecord("checkpointd", level, "", 0, fields, (), None)


def library(text: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    """Return a record as a library makes it, with a traceback if there is an error."""
    information = None
    if error:
        try:
            raise error
        except type(error):
            information = sys.exc_info()
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, arguments, information)


def count(record: logging.LogRecord) -> int:
    """Return how often a record was repeated, or 0 if it is a first line."""
    return getattr(record, "repeated", 0)


@pytest.fixture
def repetitions() -> Repetitions:
    """Return new counts."""
    return Repetitions(SECONDS)


def test_a_flood(repetitions: Repetitions) -> None:
    """Of a line that is repeated for half a minute, the first is written, and one count for each period."""
    written = [
        (now / 100, count(record)) for now in range(3000) for record in repetitions.add(event("a"), now=now / 100)
    ]
    assert [(0, 0), (10, 999), (20, 1000)] == written
    assert [(1000, "a")] == [(count(record), record.msg["job"]) for record in repetitions.finish()]


def test_the_count_is_written_without_another_line(repetitions: Repetitions) -> None:
    """The period ends by itself: its end is known, and after it the count is due once."""
    repetitions.add(event("a", time="12:00:00"), now=0)
    repetitions.add(event("a", time="12:00:03"), now=3)
    assert SECONDS == repetitions.next_end()
    assert [] == repetitions.ended(9.9)
    assert [(1, False)] == [(count(record), "timestamp" in record.msg) for record in repetitions.ended(10)]
    assert [] == repetitions.ended(20)
    assert repetitions.next_end() is None


def test_a_line_after_its_period(repetitions: Repetitions) -> None:
    """A line that comes again after its period is written, because it is no repetition."""
    assert [0, 0] == [count(record) for now in (0, 10) for record in repetitions.add(event("a"), now)]


@pytest.mark.parametrize(
    "other",
    [
        event("b"),
        event("a", level=logging.ERROR),
        library("poll.failed"),
        library("other"),
        library("poll.failed", error=OSError("too many files")),
    ],
)
def test_different_lines(repetitions: Repetitions, other: logging.LogRecord) -> None:
    """Lines that differ in a field, the level, the logger, the text or the error are all written, in their order."""
    lines = [event("a"), library("text"), other]
    assert lines == [record for line in lines for record in repetitions.add(line, now=0)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (event("a", time="12:00:00"), event("a", time="12:00:01")),
        (library("<Task at 0x7f3c>"), library("<Task at 0x81be>")),
        (library("missed by %s", "0:00:03.1"), library("missed by %s", "0:00:12.7")),
        (library("no", error=OSError("fd 17")), library("no", error=OSError("fd 18"))),
    ],
)
def test_times_and_addresses_do_not_count(
    repetitions: Repetitions, first: logging.LogRecord, second: logging.LogRecord
) -> None:
    """Lines that differ in the time only are equal, and so are those of libraries that differ in numbers."""
    assert [first] == repetitions.add(first, now=0)
    assert [] == repetitions.add(second, now=1)


def test_errors_of_different_kinds(repetitions: Repetitions) -> None:
    """The same message with an error of another kind is another line."""
    assert repetitions.add(library("no", error=OSError("x")), now=0)
    assert repetitions.add(library("no", error=ValueError("x")), now=0)


def test_a_count_holds_no_objects(repetitions: Repetitions) -> None:
    """A repetition that waits to be written keeps neither its traceback nor its arguments, which may be open files."""
    for _ in range(2):
        repetitions.add(library("missed %s", object(), error=OSError("x")), now=0)
    (record,) = repetitions.finish()
    assert (None, ()) == (record.exc_info, record.args)


def test_the_memory_is_bounded(repetitions: Repetitions) -> None:
    """Beyond LINES different lines, the oldest period ends early, and its count is written."""
    repetitions.add(event("first"), now=0)
    repetitions.add(event("first"), now=0)
    for number in range(LINES - 1):
        assert [0] == [count(record) for record in repetitions.add(event(f"{number}"), now=1)]
    assert [1, 0] == [count(record) for record in repetitions.add(event("last"), now=1)]
    assert [] == repetitions.finish()
