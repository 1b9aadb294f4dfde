"""The floor of the benchmark of throughput: the least work that mirrors checkpoints, by uvloop, aiohttp, msgspec, COPY.

It stores the newest checkpoint of each job. As the lists are newest first, a list that begins with the same checkpoint
has nothing new, and is not decoded. There are no leases, no retries, no checks and no bookkeeping, and it reads one
page of each list, so it is no mirror that one could rely on.

The ids of the jobs are read from standard input. The variables are those of checkpointd.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import asyncpg
import msgspec
import uvloop

CONNECTIONS: Final = 16
FLUSH_ROWS: Final = 5000

COLUMNS: Final = {
    "id": "text primary key",
    "fine_tuning_job_id": "text not null",
    "fine_tuned_model_checkpoint": "text not null",
    "created_at": "bigint not null",
    "step_number": "integer not null",
    "step": "float8",
    "train_loss": "float8",
    "train_mean_token_accuracy": "float8",
    "valid_loss": "float8",
    "valid_mean_token_accuracy": "float8",
    "full_valid_loss": "float8",
    "full_valid_mean_token_accuracy": "float8",
}
NAMES: Final = ", ".join(COLUMNS)
CREATE: Final = f"""
create table if not exists checkpoints ({", ".join(map(" ".join, COLUMNS.items()))});
create index if not exists checkpoints_of_job on checkpoints (fine_tuning_job_id, step_number desc);
create table if not exists newest (job text primary key, checkpoint text not null);
create temporary table new_checkpoints (like checkpoints);
create temporary table new_newest (like newest)
"""
MOVE: Final = f"""
insert into checkpoints ({NAMES}) select {NAMES} from new_checkpoints
on conflict (id) do update set {", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name != "id")};
insert into newest select * from new_newest on conflict (job) do update set checkpoint = excluded.checkpoint;
truncate new_checkpoints, new_newest
"""


class _Metrics(msgspec.Struct, gc=False):
    step: float | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class _Checkpoint(msgspec.Struct, gc=False):
    id: str
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    created_at: int
    step_number: int
    metrics: _Metrics


class _Head(msgspec.Struct):
    first_id: str


class _Page(msgspec.Struct):
    data: list[_Checkpoint]


_decode_head: Final = msgspec.json.Decoder(_Head).decode
_decode_page: Final = msgspec.json.Decoder(_Page).decode


class _Writer:
    """Rows that wait for a transaction."""

    def __init__(self, postgres: asyncpg.Connection) -> None:
        self._postgres = postgres
        self._writing = asyncio.Lock()
        self._rows: list[tuple[Any, ...]] = []
        self._newest: list[tuple[str, str]] = []

    async def add(self, job: str, newest: str, checkpoints: list[_Checkpoint]) -> None:
        self._rows += (
            (c.id, c.fine_tuning_job_id, c.fine_tuned_model_checkpoint, c.created_at, c.step_number, m.step,
             m.train_loss, m.train_mean_token_accuracy, m.valid_loss, m.valid_mean_token_accuracy, m.full_valid_loss,
             m.full_valid_mean_token_accuracy)
            for c in checkpoints
            for m in (c.metrics,)
        )  # fmt: skip
        self._newest.append((job, newest))
        if len(self._rows) >= FLUSH_ROWS:
            await self.flush()

    async def flush(self) -> None:
        async with self._writing:
            rows, self._rows, newest, self._newest = self._rows, [], self._newest, []
            if rows:
                async with self._postgres.transaction():
                    await self._postgres.copy_records_to_table("new_checkpoints", records=rows, columns=list(COLUMNS))
                    await self._postgres.copy_records_to_table("new_newest", records=newest)
                    await self._postgres.execute(MOVE)


async def _poll(http: aiohttp.ClientSession, jobs: Iterator[str], known: dict[str, str], writer: _Writer) -> None:
    for job in jobs:  # shared: each worker takes the next job
        async with http.get(
            f"{os.environ['OPENAI_BASE_URL']}/fine_tuning/jobs/{job}/checkpoints?limit=100"
        ) as response:
            response.raise_for_status()
            body = await response.read()
        newest = _decode_head(body).first_id
        if newest != (old := known.get(job)):
            checkpoints = _decode_page(body).data
            ids = [checkpoint.id for checkpoint in checkpoints]
            await writer.add(job, newest, checkpoints[: ids.index(old)] if old in ids else checkpoints)


async def _main() -> None:
    ids = sys.stdin.read().split()
    postgres = await asyncpg.connect(os.environ["CHECKPOINTD_DATABASE_URL"])
    await postgres.execute(CREATE)
    known = dict(await postgres.fetch("select job, checkpoint from newest where job = any ($1)", ids))
    writer, jobs = _Writer(postgres), iter(ids)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_poll(http, jobs, known, writer))
    await writer.flush()
    await postgres.close()


if __name__ == "__main__":
    uvloop.run(_main())
