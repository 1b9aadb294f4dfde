"""How many examples Hypothesis makes up for a test: all of them in `make test-slow`, and a fifth in other runs."""

import os

_ALL = os.environ.get("EXAMPLES") == "all"


def tries(count: int) -> int:
    """Return how many of `count` examples this run tries: all if the variable EXAMPLES is `all`, else a fifth."""
    return count if _ALL else count // 5
