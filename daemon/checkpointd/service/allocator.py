"""Make the C library give memory back that was used for a while.

By default the GNU C library has memory of its own for each thread, an arena. Large answers of a provider are read in
one thread, compared in another one, and sent to the database by a third. What one of them has freed, the others cannot
use: after many large answers the process had 193 MiB more than at its start, and with one arena 141 MiB
(tests/service/test_huge_answers.py).
"""

import ctypes
from contextlib import suppress
from typing import Final

M_ARENA_MAX: Final = -8
"""From malloc.h."""


def use_one_arena() -> None:
    """Let all threads that are started from now on use the same memory. Other C libraries do so anyway."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
