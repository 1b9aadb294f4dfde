"""Notice what happens to the database itself: it is restored from a backup, or its clock is set.

A step of the clock delays nothing, because times that were written in the future do not count. So it is only logged.
But a clock that is ahead seals jobs too early. When it is right again, these jobs are reopened.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from checkpointd.polling.source import ActiveSource
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.objectives import set_source_objectives
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

CHECK_SECONDS: Final = 10.0
"""The interval between two checks."""

SEAL_SECONDS: Final = 60.0
"""The interval between two searches for jobs that were sealed too early. Each reads all rows, as a claim does."""

STEP_SECONDS: Final = 1.0
"""A smaller step of the clock is not logged. A clock that is only slewed gains or loses some milliseconds."""


class DatabaseChanges:
    """Checks at intervals that each source has its row, and that the database's clock runs as fast as ours."""

    def __init__(
        self,
        store: Store,
        health: Health,
        kinds: Mapping[str, str],
        sources: Sequence[ActiveSource],
        objectives: Callable[[Mapping[str, int]], Mapping[int, tuple[str, str] | None]],
    ) -> None:
        """`kinds` are those of all configured sources, by name; `sources` are those that this process polls.

        `objectives` returns the configured objectives by the keys of the sources, which it gets by name.
        """
        self._store = store
        self._health = health
        self._kinds = kinds
        self._sources = sources
        self._objectives = objectives
        self._database: object = None
        """What identified the database and its sources at the last check."""
        self._offset: tuple[float, float] | None = None
        """The lowest and the highest possible difference between the two clocks at the last check, in seconds."""

    async def check(self) -> None:
        """Register lost sources again, and log a step of the clock. While this fails, the health has a problem."""
        with suppress(DatabaseUnavailableError), self._health.unit("registration"):
            await self._register()
            await self._compare_clocks()

    async def reopen_sealed_jobs(self) -> None:
        """Reopen jobs that were sealed by a clock that was ahead. While this fails, the health has a problem."""
        with suppress(DatabaseUnavailableError), self._health.unit("seals"):
            if reopened := await self._store.reopen_sealed_jobs():
                log.warning("database.jobs_reopened", jobs=reopened, reason="the clock was ahead when they were sealed")

    async def _register(self) -> None:
        """Insert the rows of sources that are missing, and use the keys of the new rows from now on.

        If the database may have been restored, the rows get their objectives again, too. They get them only then: a
        person or another daemon, with other settings, may have set others since.
        """
        database = await self._store.identify_database()
        keys = await self._store.register_sources(self._kinds)
        for source in self._sources:
            if source.key != keys[source.name]:
                source.key = keys[source.name]
                log.warning(
                    "source.registered",
                    source=source.name,
                    reason="its row is another one: a restored database, or a renamed source?",
                )
        if self._database != (database, keys):
            await set_source_objectives(self._store, self._objectives(keys))
            for source in self._sources:
                source.restores += 1
            self._database = database, keys

    async def _compare_clocks(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        now = await self._store.read_clock()
        lowest, highest = now - loop.time(), now - before
        if self._offset is not None:
            forward, back = lowest - self._offset[1], self._offset[0] - highest
            if max(forward, back) > STEP_SECONDS:
                step = forward if forward > back else -back
                log.warning("database.clock_stepped", seconds=round(step, 1))
        self._offset = lowest, highest
