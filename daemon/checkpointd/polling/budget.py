"""The budget of a source, over all daemons: a claim pays for a poll's first request, others wait for their turn."""

import asyncio
import math

from checkpointd.postgres.connection import UNAVAILABLE
from checkpointd.postgres.store import Store
from checkpointd.provider.client import Turn, at_once


def turns(store: Store, source: int, emission: float | None, *, paid: int) -> Turn:
    """Return what each request of a poll waits for. `emission`: seconds between requests; `paid`: requests paid for.

    All waits of a listing together take at most half of its time, so that one of many pages is read to its end: the
    budget is in debt then, and claims stop until it is made up for.
    """
    if emission is None:
        return at_once
    free, patience = paid, math.inf

    async def turn(deadline: float) -> None:
        nonlocal free, patience
        if free:
            free -= 1
            return
        try:
            async with asyncio.timeout_at(deadline):
                ahead = await store.charge_source(source, emission)
        except UNAVAILABLE:  # nobody can tell, and before the database is back nothing can be saved
            ahead = math.inf
        patience = min(patience, (deadline - asyncio.get_running_loop().time()) / 2)
        wait = max(min(ahead, patience), 0.0)
        patience -= wait
        await asyncio.sleep(wait)

    return turn
