"""Read a source's list of models once a day: it says which models the provider shuts down, and when."""

import asyncio
from contextlib import suppress
from typing import Final

from checkpointd.domain.model import read_models
from checkpointd.polling.source import ActiveSource, RateLimiter
from checkpointd.postgres import models
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.provider import heavy_work
from checkpointd.provider.http import ApiError
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import REQUESTS

MODEL_LIST_SECONDS: Final = 30.0
"""Within this time a list must be read."""


class ModelList:
    """The list of models of one source. All daemons together request it once a day.

    That it cannot be read is not reported: many providers have none, and nothing else depends on it.
    """

    def __init__(self, store: Store, source: ActiveSource, health: Health) -> None:
        """Nothing is read before the first tick."""
        self._store = store
        self._source = source
        self._health = health

    async def tick(self) -> None:
        """Read the list if it is due."""
        now = asyncio.get_running_loop().time()
        if not self._source.has_key or self._source.is_silent(now):
            return
        with suppress(DatabaseUnavailableError), self._health.unit("model list"):
            if not await models.claim(self._store, self._source.key):
                return
            with suppress(ApiError):
                await self._read(now + MODEL_LIST_SECONDS)

    async def _read(self, deadline: float) -> None:
        source = self._source
        limiter = RateLimiter(self._store, source.key, source.request_interval, paid=0)
        REQUESTS.labels(source.name).inc()
        items = await source.client.list_models(deadline, limiter.wait)
        found = await heavy_work.run(read_models, items, source.client.holds_secret)
        if left_out := await models.save(self._store, source.key, found):
            log.warning("model_list.left_out", source=source.name, models=left_out)
