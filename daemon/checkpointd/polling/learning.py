"""Learn when the checkpoints of the sources arrive."""

from collections.abc import Sequence
from contextlib import suppress

from checkpointd.domain.arrivals import Prior
from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.arrivals import learn_arrivals
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health


async def learn(store: Store, sources: Sequence[ActiveSource], usual: Prior, health: Health) -> None:
    """Give each source what is known of its arrivals. If the database is unavailable, nothing changes.

    `usual` is what is expected of a source without ended jobs.
    """
    intervals = {source.key: source.request_interval for source in sources}
    with suppress(DatabaseUnavailableError), health.unit("learning"):
        known = await learn_arrivals(store, intervals, usual)
        for source in sources:
            source.cadence = known.get(source.key, source.cadence)
