"""When the secrets of a source are read again, and when the command that prints its key is run. Pure.

A command is run at the start, before the expiry that it printed, and after the provider has refused the key. The gap
between two runs doubles if the last one failed or printed a key that is refused or expires at once. Files are read
again as often as asked while they are refused. Times are on the event loop's clock, in seconds.
"""

import math
from typing import Final

FIRST_GAP: Final = 1.0
LONGEST_GAP: Final = 300.0
"""The shortest and the longest gap between two runs of a command, if the key is refused or the command fails."""

RENEWAL_MARGIN: Final = 120.0
"""A command is run so long before the expiry of its key, or after three quarters of a time that is shorter."""

SHORTEST_WAIT: Final = 10.0
"""If a key must be renewed sooner than this, the gap grows as after a failure."""


class KeySchedule:
    """When the key of one source is renewed."""

    def __init__(self, *, is_command: bool) -> None:
        """`is_command` is true if a command prints the key: then the first run is due at once."""
        self._is_command = is_command
        self._due = -math.inf if is_command else math.inf
        self._last = -math.inf
        self._gap = 0.0

    def is_due(self, now: float, *, is_refused: bool) -> bool:
        """Return whether the secrets are read now. `is_refused` is true if the key was refused since the last time."""
        return now >= self._due or (is_refused and now >= self._last + self._gap)

    def hurry(self) -> None:
        """Let a command that failed run at once."""
        if self._is_command:
            self._due = -math.inf

    def record_success(self, now: float, seconds: float | None, *, is_new: bool, was_refused: bool) -> None:
        """Record that the secrets were read. The key expires after `seconds`, or at an unknown time.

        `is_new` is true if the key differs from the last one, and `was_refused` if that one was refused.
        """
        wait = math.inf if seconds is None else seconds - min(RENEWAL_MARGIN, seconds / 4)
        self._record(now, was_good=is_new and not was_refused and wait >= SHORTEST_WAIT)
        self._due = now + max(wait, self._gap)

    def record_failure(self, now: float) -> None:
        """Record that the secrets could not be read."""
        self._record(now, was_good=False)
        self._due = now + self._gap if self._is_command else math.inf

    def _record(self, now: float, *, was_good: bool) -> None:
        if self._is_command:
            is_first = was_good or now >= self._last + 2 * LONGEST_GAP
            self._gap = FIRST_GAP if is_first else min(2 * self._gap, LONGEST_GAP)
        self._last = now
