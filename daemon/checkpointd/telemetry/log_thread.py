"""Write the log in a thread, so that a reader that stops reading never blocks the event loop.

A pipe, a terminal, the socket of the journal and a file of a network file system all block a write when their other
end stands still. The event loop only puts lines into a bounded queue. Lines for which the queue has no room are
dropped and counted.
"""

import logging
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Lock, Thread
from typing import Final

from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import LOG_LINES_DROPPED

QUEUE_LINES: Final = 1000
"""The most lines that wait for the thread. A line is some hundred bytes, so this is less than a megabyte."""

FLUSH_SECONDS: Final = 1.0
"""How long the end of the process waits for the thread to write the last lines."""


class ThreadHandler(logging.Handler):
    """Formats records in the thread that logs them, and writes the lines to a file descriptor in a thread of its own.

    The thread writes to the descriptor and not to sys.stderr, whose lock Python needs when the process ends.
    """

    def __init__(self, descriptor: int, formatter: logging.Formatter | None, queue_lines: int = QUEUE_LINES) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._descriptor = descriptor
        self._lines: Queue[bytes | None] = Queue(queue_lines)
        self._dropped = 0
        self._dropped_lock = Lock()
        self._thread = Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Put the line of a record into the queue. Never blocks."""
        try:
            self._lines.put_nowait(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except Full:
            self._drop()
        except Exception:  # noqa: BLE001  # as every handler of the logging library
            self.handleError(record)

    def finish(self, seconds: float) -> None:
        """Write the waiting lines, as far as the reader takes them within `seconds`. Later lines are not written."""
        give_up_at = time.monotonic() + seconds
        try:
            self._lines.put(None, timeout=seconds)
        except Full:
            return
        self._thread.join(max(give_up_at - time.monotonic(), 0))

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                _write(self._descriptor, line)
            except OSError:  # the reader has gone, or the disk is full
                self._drop()
                continue
            if self._dropped and self._lines.empty():
                with self._dropped_lock:
                    dropped, self._dropped = self._dropped, 0
                log.warning("log.dropped", lines=dropped)

    def _drop(self) -> None:
        with self._dropped_lock:
            self._dropped += 1
        LOG_LINES_DROPPED.inc()


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
