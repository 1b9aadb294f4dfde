"""Find the values that the database rejects."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from checkpointd.postgres.errors import DATA_ERRORS

T = TypeVar("T")
R = TypeVar("R")


async def isolate(
    run: Callable[[Sequence[T]], Awaitable[R]], items: Sequence[T]
) -> tuple[list[R], list[tuple[T, Exception]]]:
    """Run a transaction for items. If the database rejects a value, halve them until the item with it is alone.

    Returns the results, and the items that were rejected alone, each with its error.
    """
    try:
        return [await run(items)], []
    except DATA_ERRORS as e:
        if len(items) <= 1:
            return [], [(item, e) for item in items]
    half = len(items) // 2
    results, rejected = await isolate(run, items[:half])
    more_results, more_rejected = await isolate(run, items[half:])
    return results + more_results, rejected + more_rejected
