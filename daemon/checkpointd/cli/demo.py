"""The command demo: an embedded PostgreSQL, an accelerated simulated provider, and the daemon, shown at work."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from checkpointd.cli import event_loop
from checkpointd.postgres import overview
from checkpointd.postgres.connection import connect
from checkpointd.postgres.embedded import EmbeddedPostgres
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.postgres.store import Store, open_store
from checkpointd.presentation import plural
from checkpointd.service import daemon
from checkpointd.service.signals import Stop, stop_on_signals
from checkpointd.settings.model import FixedSettings, Settings
from checkpointd.settings.source import Source
from checkpointd.simulator.server import accelerated, serve
from checkpointd.simulator.shapes import RequestError, Shape
from checkpointd.simulator.troubles import RefusingWorld, TroubledWorld
from checkpointd.simulator.world import EPOCH, World
from checkpointd.telemetry.logs import configure

SEED, JOB_COUNT, SPEED = 7, 24, 120.0
SHAPE: Final = Shape(reinforcement=0.2)
SHUTDOWN_IN: Final = timedelta(days=30)
SHOWN: Final = 16
REFUSING_SOURCES: Final = {
    "without-quota": RequestError(429, "You exceeded your current quota.", code="insufficient_quota"),
    "refused": RequestError(401, "Incorrect API key provided.", code="invalid_api_key"),
}
"""The other sources of the demo, and what each answers to polls."""

EXAMPLE_QUERY: Final = "table fine_tuning.checkpoints"


def show_demo(seconds: float | None) -> None:
    """Run the demo until a signal, or for this many seconds."""
    configure("console", "error")

    async def work() -> None:
        with stop_on_signals() as stop:
            await run(Console(), seconds, stop)

    event_loop.run(work())


async def run(console: Console, seconds: float | None, stop: Stop) -> None:
    """Run the demo until `stop`, or for this many seconds. Everything that it started is stopped at the end."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="checkpointd-demo-")))
        embedded = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres", sync=False))
        url = await embedded.start_or_connect()
        # Unlike the other times of the simulation, this day is compared with the real one.
        shape = replace(SHAPE, shutdown_date=f"{datetime.now(UTC) + SHUTDOWN_IN:%Y-%m-%d}")
        worlds: dict[str, World] = {"simulated": TroubledWorld(SEED, JOB_COUNT, EPOCH, shape)}
        worlds |= {name: RefusingWorld(SEED, EPOCH, error) for name, error in REFUSING_SOURCES.items()}
        clock = accelerated(SPEED, EPOCH)
        addresses = {name: await stack.enter_async_context(serve(world, clock)) for name, world in worlds.items()}
        (folder / "key").write_text("simulated")
        settings = FixedSettings(
            min_poll_seconds=0.5,
            max_poll_seconds=2,
            job_list_seconds=1,
            events_seconds=1,
            discover=True,
            drain_seconds=1,
            http_port=free_status_port(),
            sources=tuple(
                Source(name=name, base_url=address, api_key=str(folder / "key")) for name, address in addresses.items()
            ),
        )
        fields_by_source = {source.name: source.request_fields() for source in settings.sources}
        provider = addresses["simulated"]
        say(f"A simulated provider at {provider}, {SPEED:g} times real time, polled into an embedded PostgreSQL.")
        say(f"Query the data: {embedded.psql} -c '{EXAMPLE_QUERY}'")
        say(f"See the curves: http://{settings.http_host}:{settings.http_port}/")
        store = await stack.enter_async_context(open_store(lambda: connect(url)))
        async with asyncio.TaskGroup() as group:
            group.create_task(daemon.run(settings, lambda: connect(url), fields_by_source, {}, migrate=True, stop=stop))
            group.create_task(_show(store, console, say, stop))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.asked.wait(), seconds)
            stop.asked.set()
        totals = dict.fromkeys(("jobs", "checkpoints", "changes"), 0)
        try:
            totals |= await overview.count_everything(store)
        except DatabaseUnavailableError as e:
            if e.kind != "UndefinedTableError":  # the demo ended before the schema was created
                raise
        say("{jobs} jobs, {checkpoints} checkpoints, {changes} changes".format(**totals))


def free_status_port() -> int:
    """Return the default number of the status port, or a free one if it is in use."""
    for port in (Settings.model_fields["http_port"].default, 0):
        with closing(socket.socket()) as tried, suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return int(tried.getsockname()[1])
    return 0


async def _show(store: Store, console: Console, say: Callable[[str], None], stop: Stop) -> None:
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            async for rows in _rows(store, stop):
                live.update(_table(rows), refresh=True)
        return
    printed: dict[str, Any] = {}
    async for rows in _rows(store, stop):
        for row in rows:
            count = row["checkpoint_count"]
            if printed.get(row["id"]) != row and count:
                printed[row["id"]] = row
                words = ["{id}  {status:10}".format(**row), f"{count} {plural('checkpoint', count)}", *_losses(row)]
                say("  ".join(words))


async def _rows(store: Store, stop: Stop) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
    """Yield the jobs and their latest losses twice a second, until `stop`."""
    while not stop.asked.is_set():
        with suppress(DatabaseUnavailableError):  # the schema has not been created yet
            yield await overview.list_latest_losses(store, SHOWN)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.asked.wait(), 0.5)


def _losses(row: Mapping[str, Any]) -> list[str]:
    known = {"train": row["train_loss"], "valid": row["valid_loss"]}
    return [
        f"step {row['latest_step']}",
        *(f"{name} loss {loss:.4f}" for name, loss in known.items() if loss is not None),
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="fine-tuning jobs, the latest change first", title_justify="left", box=None, pad_edge=False)
    # On a narrow terminal only the ids are cut: rich narrows columns that may wrap, and an id has no place to wrap.
    table.add_column("job", overflow="ellipsis", min_width=12)
    table.add_column("status", no_wrap=True, min_width=16)
    for name in ("checkpoints", "latest step", "train loss", "valid loss"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for row in rows:
        losses = ["" if row[name] is None else f"{row[name]:.4f}" for name in ("train_loss", "valid_loss")]
        cells = [row["id"], row["status"] or "", str(row["checkpoint_count"]), str(row["latest_step"] or ""), *losses]
        table.add_row(*map(Text, cells))
    return table
