"""Find out what people want to be told of the jobs and sources."""

from contextlib import suppress

from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.findings import evaluate_findings, read_findings
from checkpointd.postgres.store import Store
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.logs import log


async def find(store: Store, health: Health) -> None:
    """Evaluate the findings, unless another daemon just did, and log those that fired or were resolved.

    If the database is unavailable, the next call makes up for it.
    """
    with suppress(DatabaseUnavailableError), health.unit("findings"):
        fired, resolved = await evaluate_findings(store)
        for row in await read_findings(store, fired + resolved) if fired or resolved else ():
            event = "finding.fired" if row["until"] is None else "finding.resolved"
            log.info(event, source=row["source"], job=row["job"], kind=row["kind"], message=row["message"])
