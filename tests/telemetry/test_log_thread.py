"""The log is written by a thread: a reader that stops reading delays nothing."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import structlog

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
def handler(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadHandler]:
    """Yield a handler that writes the whole log of this test to the pipe."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    logs.configure("json", "info")
    opened = ThreadHandler(pipe[1], root.handlers[0].formatter, QUEUE_LINES)
    root.handlers[:] = [opened]
    yield opened
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def dropped_lines() -> float:
    """Return how many log lines this process has dropped."""
    return next(sample.value for family in LOG_LINES_DROPPED.collect() for sample in family.samples)


def test_a_reader_that_stops_reading(pipe: tuple[int, int], handler: ThreadHandler) -> None:
    """Logging goes on, the lines beyond the queue are counted, and the log says how many when the reader goes on."""
    before = dropped_lines()
    for number in range(LINES):
        log.info("line", number=number)
    dropped = dropped_lines() - before
    assert 0 < dropped < LINES

    received: list[bytes] = []

    def read() -> None:
        with os.fdopen(os.dup(pipe[0]), "rb") as reader:
            received.extend(reader)

    reading = Thread(target=read)
    reading.start()
    while not any(b"log.dropped" in line for line in list(received)):
        reading.join(0.01)
    handler.finish(5)
    os.close(pipe[1])
    reading.join()
    events = [json.loads(line) for line in received]
    numbers = [event["number"] for event in events if event["event"] == "line"]
    assert sorted(set(numbers)) == numbers, "in order"
    assert dropped == sum(event["lines"] for event in events if event["event"] == "log.dropped")
    assert LINES == len(numbers) + dropped


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


def test_a_full_disk() -> None:
    """Lines that a full disk does not take are counted as dropped, and the thread goes on."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    before = dropped_lines()
    full = os.open("/dev/full", os.O_WRONLY)
    opened = ThreadHandler(full, logging.Formatter("%(message)s"))
    for _ in range(3):
        opened.emit(logging.LogRecord("x", logging.INFO, "", 0, "line", (), None))
    opened.finish(5)
    os.close(full)
    assert 3 == dropped_lines() - before
