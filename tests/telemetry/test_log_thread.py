"""The log is written by a thread: a reader that stops reading delays nothing."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from checkpointd.telemetry import logs
from checkpointd.telemetry.log_thread import ThreadHandler
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import LOG_LINES_DROPPED

QUEUE_LINES = 50
LINES = 2000
"""More than fit into the pipe and the queue together."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield a pipe, the end to read first."""
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


@pytest.fixture
def handler(pipe: tuple[int, int]) -> Iterator[ThreadHandler]:
    """Yield a handler that writes the whole log of this test to the pipe."""
    root = logging.getLogger()
    before = root.handlers[:]
    logs.configure("json", "info")
    opened = ThreadHandler(pipe[1], root.handlers[0].formatter, QUEUE_LINES)
    root.handlers[:] = [opened]
    yield opened
    root.handlers[:] = before
    with suppress(OSError):  # the test has closed it
        os.close(pipe[0])
    opened.finish(5)  # its thread counts dropped lines, as the next test's does


class Reader(Thread):
    """Reads the pipe to its end, from its start on. `lines` are those read by now."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.lines: list[bytes] = []
        self._end = end
        self.start()

    def run(self) -> None:
        """Read."""
        with os.fdopen(os.dup(self._end), "rb") as stream:
            self.lines.extend(stream)

    def events(self) -> list[dict[str, Any]]:
        """Return the events read by now."""
        return [json.loads(line) for line in list(self.lines)]

    def reported(self) -> int:
        """Return how many lines were dropped, as the log says."""
        return sum(event["lines"] for event in self.events() if event["event"] == "log.dropped")


def dropped_lines() -> float:
    """Return how many log lines this process has dropped."""
    return next(sample.value for family in LOG_LINES_DROPPED.collect() for sample in family.samples)


def fill_queue() -> float:
    """Log so many long lines that neither the pipe nor the queue takes another one. Returns dropped_lines()."""
    before = dropped_lines()
    for number in range(4 * QUEUE_LINES):
        log.info("x" * 2000, number=number)
    assert dropped_lines() > before
    return dropped_lines()


def test_a_reader_that_stops_reading(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """Logging goes on, the lines beyond the queue are counted, and the log says how many when the reader goes on."""
    before = dropped_lines()
    for number in range(LINES):
        log.info("line", number=number)
    dropped = dropped_lines() - before
    assert 0 < dropped < LINES

    reader = Reader(pipe[0])
    while reader.reported() < dropped:
        reader.join(0.01)
    handler.finish(5)
    os.close(pipe[1])
    reader.join()
    numbers = [event["number"] for event in reader.events() if event["event"] == "line"]
    assert sorted(set(numbers)) == numbers, "in order"
    assert dropped == reader.reported()
    assert LINES == len(numbers) + dropped


def test_lines_that_are_logged_faster_than_read(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """If the queue is full whenever dropped lines are reported, each line is still either written or reported."""
    before = dropped_lines()
    own = ThreadHandler(pipe[1], handler.formatter, queue_lines=1)
    logging.getLogger().handlers[:] = [own]
    reader = Reader(pipe[0])
    for number in range(10 * LINES):
        log.info("line", number=number)
    own.finish(30)
    os.close(pipe[1])
    reader.join()
    written = sum(event["event"] == "line" for event in reader.events())
    assert 10 * LINES == written + reader.reported()
    assert 0 < dropped_lines() - before == reader.reported()


def test_the_end_does_not_wait_for_a_reader_that_stopped(handler: ThreadHandler) -> None:
    """The process can end while nobody reads its log."""
    for number in range(LINES):
        log.info("line", number=number)
    handler.finish(0.05)  # returns


def test_the_last_lines_are_written(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """Lines that wait at the end are written before the process ends."""
    log.info("the last line")
    handler.finish(5)
    assert b"the last line" in os.read(pipe[0], 4096)


def test_a_reader_that_has_gone(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """If nobody can read the log any more, its lines are counted as dropped, and nothing fails."""
    before = dropped_lines()
    os.close(pipe[0])
    log.info("line")
    handler.finish(5)
    assert 1 == dropped_lines() - before


@pytest.mark.usefixtures("handler")
def test_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    """A descriptor that another process has made non-blocking loses no line, and no part of one."""
    os.set_blocking(pipe[1], False)
    text = "x" * 300_000
    log.info(text)
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(pipe[0], 65536)
    assert text == json.loads(received)["event"]


def test_a_count_for_which_the_queue_has_no_room(handler: ThreadHandler) -> None:
    """If the line that says how often another one was repeated is dropped, each repetition counts."""
    log.info("repeated")
    before = fill_queue()
    for _ in range(7):
        log.info("repeated")
    handler.finish(0.05)
    assert 7 == dropped_lines() - before


def test_a_count_that_nobody_can_read(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """The same is true if nobody can read the log any more."""
    before = dropped_lines()
    os.close(pipe[0])
    for _ in range(1 + 7):
        log.info("repeated")
    handler.finish(5)
    assert 1 + 7 == dropped_lines() - before


def test_a_traceback_for_which_the_queue_has_no_room(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """If the first line of an error is dropped, the next one has the traceback."""

    def crash() -> None:
        try:
            1 / 0  # noqa: B018  # it raises
        except ZeroDivisionError:
            log.exception("crashed")

    before = fill_queue()
    crash()
    dropped = dropped_lines() - before
    assert 1 == dropped
    reader = Reader(pipe[0])
    while not reader.reported():
        reader.join(0.01)
    crash()
    crash()
    handler.finish(5)
    os.close(pipe[1])
    reader.join()
    crashes = [event for event in reader.events() if event["event"] == "crashed"]
    assert [(None, True), (1, False)] == [(event.get("repeated"), "exception" in event) for event in crashes]


def test_a_full_disk() -> None:
    """Lines that a full disk does not take are counted as dropped, and the thread goes on."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    before = dropped_lines()
    full = os.open("/dev/full", os.O_WRONLY)
    opened = ThreadHandler(full, logging.Formatter("%(message)s"))
    for line in ("first", "second", "third"):
        opened.emit(logging.LogRecord("x", logging.INFO, "", 0, line, (), None))
    opened.finish(5)
    os.close(full)
    assert 3 == dropped_lines() - before


REPEAT_SECONDS = 0.05


def read_events(pipe: tuple[int, int]) -> list[dict[str, Any]]:
    """Wait for one or more lines of JSON, and return them."""
    return [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]


def test_repeated_lines(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """Of equal lines the first is written at once; at the end one line says how often it was repeated.

    This is true of our own lines and of those of libraries, and other lines keep their order.
    """
    library = logging.getLogger("some.library")
    log.info("poll.changed", job="a")
    library.error("out of files: %s", "fd 1")
    for _ in range(5):
        log.info("poll.changed", job="a")
        library.error("out of files: %s", "fd 2")
    log.info("poll.changed", job="b")
    handler.finish(5)
    events = read_events(pipe)
    written = [(e["event"], e.get("job"), e.get("repeated")) for e in events]
    times = [str(event["timestamp"]) for event in events]
    assert sorted(times) == times
    firsts = [("poll.changed", "a", None), ("out of files: fd 1", None, None), ("poll.changed", "b", None)]
    assert [*firsts, ("poll.changed", "a", 5), ("out of files: fd 2", None, 5)] == written


def test_a_count_is_written_when_it_is_due(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """The thread writes the count at the end of the period, although nothing else is logged."""
    own = ThreadHandler(pipe[1], handler.formatter, repeat_seconds=REPEAT_SECONDS)
    for _ in range(3):
        own.handle(logging.LogRecord("x", logging.INFO, "", 0, "line", (), None))
    events = read_events(pipe)
    while len(events) < 2:
        events += read_events(pipe)
    assert [None, 2] == [event.get("repeated") for event in events]
    own.finish(5)
