"""Write a log line once, however often it is repeated, and say how often.

The first of several equal lines is written at once. Those that follow within REPEAT_SECONDS are counted. When that
time is over, the last of them is written, with the field `repeated`, and a new period begins. So a fault that repeats
a line thousands of times a second writes one line in each period.
"""

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Final, NamedTuple

REPEAT_SECONDS: Final = 10.0
"""How long equal lines are counted before one line says how often there were."""

LINES: Final = 256
"""For how many different lines repetitions are counted at the same time. One more ends the oldest period early."""

_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


class _Period(NamedTuple):
    """The end of the time in which a line is counted, how often it was repeated, and the last repetition, if any."""

    end: float
    repeated: int = 0
    last: logging.LogRecord | None = None


class Repetitions:
    """Decides which records are written. `now` is the time of a monotonic clock in seconds. Not for several threads."""

    def __init__(self, seconds: float = REPEAT_SECONDS) -> None:
        self._seconds = seconds
        self._periods: dict[tuple[object, ...], _Period] = {}
        """The periods of the lines that were written lately, the first to end first."""

    def add(self, record: logging.LogRecord, now: float) -> list[logging.LogRecord]:
        """Return the records to write now: the counts of ended periods, and this record unless it is a repetition."""
        ready = self.ended(now)
        line = _line(record)
        if period := self._periods.get(line):
            self._periods[line] = period._replace(repeated=period.repeated + 1, last=_without_objects(record))
            return ready
        if len(self._periods) >= LINES:
            ready += _count(self._periods.pop(next(iter(self._periods))))
        self._periods[line] = _Period(now + self._seconds)
        return [*ready, record]

    def forget(self, record: logging.LogRecord) -> None:
        """Let the next equal line be a first one, with its traceback, because this one was dropped."""
        line = _line(record)
        if (period := self._periods.get(line)) and not period.repeated:
            del self._periods[line]

    def ended(self, now: float) -> list[logging.LogRecord]:
        """Return a record with `repeated` for each line that was repeated in a period that has ended."""
        ready = []
        while self._periods and (period := self._periods[line := next(iter(self._periods))]).end <= now:
            del self._periods[line]
            if period.repeated:
                ready += _count(period)
                self._periods[line] = _Period(now + self._seconds)
        return ready

    def next_end(self) -> float | None:
        """Return when the next period ends, or None if no period is running."""
        return next((period.end for period in self._periods.values()), None)

    def finish(self) -> list[logging.LogRecord]:
        """End all periods, and return a record with `repeated` for each line that was repeated."""
        ready = [record for period in self._periods.values() for record in _count(period)]
        self._periods.clear()
        return ready


def _line(record: logging.LogRecord) -> tuple[object, ...]:
    """Return what equal lines have in common: logger, level, event, and all fields except the time.

    The messages of libraries contain times, addresses of objects and names of tasks. So their numbers do not count.
    """
    if isinstance(record.msg, Mapping):  # an event of structlog
        fields = {name: value for name, value in record.msg.items() if name != "timestamp"}
        return record.name, record.levelno, repr(fields)
    text = record.getMessage()
    if record.exc_info:
        text += "".join(traceback.format_exception(record.exc_info[1]))
    return record.name, record.levelno, _NUMBER.sub("0", text)


def _without_objects(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy without the traceback, which the first line has. The traceback would keep objects alive.

    The copy has no time either: it gets the time at which it is written, so that the times in the log are in order.
    """
    if isinstance(record.msg, Mapping):
        message = {name: value for name, value in record.msg.items() if name not in {"exception", "timestamp"}}
        return logging.makeLogRecord({**vars(record), "msg": message})
    return logging.makeLogRecord({**vars(record), "msg": record.getMessage(), "args": (), "exc_info": None})


def _count(period: _Period) -> list[logging.LogRecord]:
    """Return the record that says how often a line was repeated, or nothing if it was not."""
    if period.last is None:
        return []
    period.last.repeated = period.repeated
    return [period.last]
