"""The daemon, with each claim of due jobs timed. At its end it prints the times and the memory, for scale.py."""

import json
import time
from pathlib import Path

import asyncpg

from checkpointd.cli.run import run_daemon
from checkpointd.postgres import queries
from checkpointd.postgres.store import Store
from checkpointd.settings.load import load


def server_seconds(connection: asyncpg.Connection) -> float:
    """Return the processor time of the server's process for a connection (Linux)."""
    return int(Path(f"/proc/{connection.get_server_pid()}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    """Run the daemon until SIGTERM."""
    claims: list[tuple[float, float]] = []
    fetch = Store.fetch

    async def timed(self: Store, query: str, *args: object) -> list[asyncpg.Record]:
        if query != queries.CLAIM_DUE_JOBS:
            return await fetch(self, query, *args)
        async with self.connection() as lent:
            before, started = server_seconds(lent), time.perf_counter()
            rows: list[asyncpg.Record] = await lent.fetch(query, *args)
            claims.append((time.perf_counter() - started, server_seconds(lent) - before))
        return rows

    Store.fetch = timed  # type: ignore[method-assign]
    run_daemon(load())
    # Unlike getrusage(), this does not count the process that has started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"claims": claims, "megabytes": int(status["VmHWM"].split()[0]) / 1000}))


if __name__ == "__main__":
    main()
