"""Renew what authenticates the requests of a source: read refused secrets again, or run the command for its key."""

import asyncio
from contextlib import suppress
from typing import Final

from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.polling.source import ActiveSource, store_failure
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log

RENEW_SECONDS: Final = 1.0
"""The interval at which a source looks whether its secrets must be read again."""


async def renew_login(store: Store, health: Health, source: ActiveSource) -> None:
    """Read the secrets of a source again if that is due. New ones are used at once: the silence after a refusal ends.

    A source without a key sends no request. If its command fails, it is refused as if the provider had done it.
    """
    loop, was_refused = asyncio.get_running_loop(), source.login_refused
    if not source.key_schedule.is_due(loop.time(), is_refused=was_refused):
        return
    renewal = await source.renew()
    health.record_key(source.name, renewal.problem)
    if renewal.problem is not None:
        source.key_schedule.record_failure(loop.time())
        if not source.has_key:
            source.attribution.record_job_list(Failure(ErrorClass.REFUSED, renewal.problem), loop.time())
            health.record_source(source.name, source.attribution)
            with suppress(DatabaseUnavailableError):  # other work reports it
                await store_failure(store, source)
        return
    is_new = renewal.client is not None
    source.key_schedule.record_success(loop.time(), renewal.seconds, is_new=is_new, was_refused=was_refused)
    if renewal.client is None:
        return
    source.client, source.login_refused = renewal.client, False
    if source.attribution.failure and source.attribution.failure.refuses_login:
        source.attribution.end_silence()
    if source.has_key:
        log.info("source.key_changed", source=source.name)
    source.has_key = True
