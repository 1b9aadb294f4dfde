"""Write the log in a thread, so that a reader that stops reading never blocks the event loop.

A pipe, a terminal, the socket of the journal and a file of a network file system all block a write when their other
end stands still. The event loop only puts lines into a bounded queue. Lines for which the queue has no room are
dropped and counted. Repeated lines are counted before (repetitions.py).
"""

import logging
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from threading import Thread, current_thread
from typing import Final, NamedTuple

from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import LOG_LINES_DROPPED
from checkpointd.telemetry.repetitions import REPEAT_SECONDS, Repetitions

QUEUE_LINES: Final = 1000
"""The most lines that wait for the thread. A line is some hundred bytes, so this is less than a megabyte."""

FLUSH_SECONDS: Final = 1.0
"""How long the end of the process waits for the thread to write the last lines."""


class _Line(NamedTuple):
    """A text to write, and how many lines it stands for: more than one if it says how often one was repeated."""

    text: bytes
    lines: int


class ThreadHandler(logging.Handler):
    """Formats records in the thread that logs them, and writes the lines to a file descriptor in a thread of its own.

    The thread writes to the descriptor and not to sys.stderr, whose lock Python needs when the process ends. The lock
    of the handler, which logging holds during emit(), guards the repetitions and the number of dropped lines. It is
    never held during a write, which may block.
    """

    def __init__(
        self,
        descriptor: int,
        formatter: logging.Formatter | None,
        queue_lines: int = QUEUE_LINES,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._repetitions = Repetitions(repeat_seconds)
        self._lines: Queue[_Line | None] = Queue(queue_lines)
        self._dropped = 0
        """The dropped lines that no line has reported."""
        self._reports: list[logging.LogRecord] = []
        """What the thread itself has logged and not written yet."""
        self._thread = Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line of a record into the queue, unless it is a repetition. Never blocks."""
        if current_thread() is self._thread:  # it writes its lines itself: they can be neither dropped nor repetitions
            self._reports.append(record)
            return
        try:
            records = self._repetitions.add(record, time.monotonic())
        except Exception:  # noqa: BLE001  # as every handler of the logging library
            self.handleError(record)
        else:
            self._put(records)

    def finish(self, seconds: float) -> None:
        """Write the waiting lines, as far as the reader takes them within `seconds`. Later lines are not written."""
        give_up_at = time.monotonic() + seconds
        with self._locked():
            self._put(self._repetitions.finish())
        try:
            self._lines.put(None, timeout=seconds)
        except Full:
            return
        self._thread.join(max(give_up_at - time.monotonic(), 0))

    def _put(self, records: Iterable[logging.LogRecord]) -> None:
        for record in records:
            try:
                line = self._line(record)
            except Exception:  # noqa: BLE001  # as every handler of the logging library
                self.handleError(record)
                continue
            try:
                self._lines.put_nowait(line)
            except Full:
                self._drop(line.lines)
                self._repetitions.forget(record)

    def _write_lines(self) -> None:
        while (line := self._next_line()) is not None:
            if self._has_written(line) and self._lines.empty():
                self._report_dropped()
        self._report_dropped()

    def _has_written(self, line: _Line) -> bool:
        try:
            _write(self._descriptor, line.text)
        except OSError:  # the reader has gone, or the disk is full
            with self._locked():
                self._drop(line.lines)
            return False
        return True

    def _report_dropped(self) -> None:
        """Write how many lines were dropped. If that fails, they are counted in the next report."""
        with self._locked():
            dropped, self._dropped = self._dropped, 0
        if not dropped:
            return
        log.warning("log.dropped", lines=dropped)
        reports, self._reports = self._reports, []
        try:
            for record in reports:
                _write(self._descriptor, self._line(record).text)
        except OSError:
            with self._locked():
                self._dropped += dropped

    def _next_line(self) -> _Line | None:
        """Wait for a line. Meanwhile, put the counts of repeated lines into the queue when they are due."""
        while True:
            with self._locked():
                self._put(self._repetitions.ended(time.monotonic()))
                next_end = self._repetitions.next_end()
            try:
                return self._lines.get(timeout=None if next_end is None else max(next_end - time.monotonic(), 0))
            except Empty:
                continue

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _line(self, record: logging.LogRecord) -> _Line:
        text = f"{self.format(record)}\n".encode(errors="backslashreplace")
        return _Line(text, getattr(record, "repeated", 1))

    def _drop(self, count: int) -> None:
        self._dropped += count
        LOG_LINES_DROPPED.inc(count)


@contextmanager
def written_by_thread() -> Iterator[None]:
    """Let a thread write the log to standard error during the block. Call logs.configure() before."""
    root = logging.getLogger()
    direct = root.handlers[:]
    handler = ThreadHandler(sys.stderr.fileno(), direct[0].formatter)
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        handler.finish(FLUSH_SECONDS)


def _write(descriptor: int, line: bytes) -> None:
    """Write a line, however long that takes. Raises OSError."""
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another process has made the descriptor non-blocking
            select.select([], [descriptor], [])
