"""Whether the systemd journal reads a stream. A module of its own: commands import it without the logging library."""

import os
from typing import TextIO


def is_journal(stream: TextIO) -> bool:
    """Return whether a stream is connected to the journal (JOURNAL_STREAM in systemd.exec(5)).

    False for a stream that was redirected after systemd set the variable.
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
