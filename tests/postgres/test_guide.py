"""The reader's guide, sql/README.md: each query returns the result that the guide shows below it."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from checkpointd.cli.sync import sync_jobs
from checkpointd.polling.setup import open_event_lists, open_sources
from checkpointd.postgres import queries
from checkpointd.postgres.findings import evaluate_findings
from checkpointd.postgres.store import Store
from checkpointd.provider.http import open_session
from checkpointd.settings.model import FixedSettings
from checkpointd.settings.source import Source
from checkpointd.simulator.server import serve
from checkpointd.simulator.shapes import Shape
from checkpointd.simulator.world import World
from checkpointd.telemetry.health import Health
from support.harness import sync
from support.logins import login
from support.paths import RECORDED
from support.provider import Provider, checkpoint, error, job, page

GUIDE = Path(str(queries.folder() / "README.md"))
RECORDED = (RECORDED / "azure_ten_epochs_lists_last_three.json").read_text()
GUIDE_TEXT = GUIDE.read_text()
PAIR = re.compile(r"^```sql\n(?P<query>.*?)^```\n\n^```\n(?P<answer>.*?)^```$", re.MULTILINE | re.DOTALL)
START = 1_735_689_600.0  # 2025-01-01
MINUTES = (0, 5, 10, 15, 20, 55, 60, 65, 70, 75, 80)
"""Minutes of the syncs. In the long pause the provider lists checkpoints, and drops them again, between two polls."""
JUDGED = "ftjob-AgP2O3Xosg8CqtRDrqJdVRLn"
"""The job whose objective is set."""

MAKE_A_DAY_OLD = """
    update checkpointd.changes
    set at = ($1::date - 1 + time '08:00' + seq * interval '1 s') at time zone 'UTC'"""


def _pairs() -> list[tuple[str, str]]:
    """Return the queries of the guide, each with the result that it shows."""
    return [(match["query"], match["answer"]) for match in PAIR.finditer(GUIDE.read_text())]


def _show(answers: list[str]) -> None:
    """Write these results into the guide."""
    left = iter(answers)
    GUIDE.write_text(PAIR.sub(lambda m: f"```sql\n{m['query']}```\n\n```\n{next(left)}```", GUIDE.read_text()))


@pytest.fixture
async def filled(url: str, store: Store, sql: asyncpg.Connection, provider: Provider, tmp_path: Path) -> str:
    """Return the URL of a database that three sources have filled.

    It has 80 minutes of a simulated provider, a job of another one that was trained by reinforcement, and a recorded
    job until it ended. The events of the first two were read at the end. A person has set the objective of one job.
    """
    (tmp_path / "key").write_text("canary-key")
    syncs = []  # the seq of the feed after each sync

    def settings_of(name: str, kind: str, api: str) -> FixedSettings:
        source = Source(name=name, kind=kind, base_url=api, api_key=str(tmp_path / "key"))
        return FixedSettings(sources=(source,), discover=True)

    async def follow(name: str, kind: str, api: str) -> None:
        settings = settings_of(name, kind, api)
        fields = {name: settings.sources[0].request_fields()}
        await sync_jobs(settings, store, fields, None, None, lambda *_: None)
        syncs.append(await sql.fetchval("select max(seq) + 1 from checkpointd.changes"))

    async def read_events(name: str, kind: str, api: str) -> None:
        settings = settings_of(name, kind, api)
        keys = await store.register_sources(settings.source_kinds)
        async with open_session() as http:
            sources = open_sources(settings, keys, http, {name: settings.sources[0].request_fields()})
            for event_lists in open_event_lists(settings, store, sources, Health()):
                await event_lists.tick()

    now = [START]
    async with serve(World(5, 8, START), lambda: now[0]) as api:
        for minute in MINUTES:
            now[0] = START + 60 * minute
            await follow("openai", "openai", api)
        await read_events("openai", "openai", api)
    async with serve(World(11, 1, START, Shape("bedrock")), lambda: now[0]) as api:
        await follow("bedrock", "compatible", api)
        await read_events("bedrock", "compatible", api)
    await sql.execute("select fine_tuning.set_objective($1, 'full_valid_mean_token_accuracy', 'maximize')", JUDGED)
    listing = json.loads(RECORDED)
    of = listing["data"][0]["fine_tuning_job_id"]
    unreadable = {**listing["data"][0], "id": "ftchkpt-0", "step_number": "last"}
    provider.jobs = page([job(of, "succeeded", hyperparameters={"n_epochs": 10}, created_at=1_748_022_000)])
    provider.checkpoints[of] = [page([*listing["data"], unreadable]), error(404, "fine_tune_not_found", "not found")]
    for _ in range(3):
        await follow("azure", "azure", provider.url)
    await sql.execute("""
        update checkpointd.polling set last_complete_at = last_complete_at - interval '3 h'
        where error_class is not null""")
    # The other jobs do not become stale, even on a slow machine.
    await sql.execute("update checkpointd.polling set gap_s = 86400 where error_class is null")
    await _put_in_order(sql, syncs)
    await evaluate_findings(store)
    return url


async def _put_in_order(sql: asyncpg.Connection, syncs: list[int]) -> None:
    """Renumber the changes within each sync, given the seq after each. The order of its saves varies."""
    columns = "at, job, poll, kind, checkpoint_id, field, old_value, new_value"
    await sql.execute(f"""
        create temp table ordered as
        select row_number() over (order by width_bucket(seq, array{syncs}), job, kind, checkpoint_id, field) as seq,
          {columns}
        from checkpointd.changes;
        truncate checkpointd.changes;
        insert into checkpointd.changes (seq, {columns}) overriding system value select seq, {columns} from ordered""")


async def _answers(url: str, sql: asyncpg.Connection, binaries: Path) -> list[str]:
    """Return what psql prints to a reader for each query. All changes were made on the day before."""
    asked = [query for query, _ in _pairs()]
    async with login(url, "in role checkpointd_reader") as reader:
        while True:
            today = await sql.fetchval("select (now() at time zone 'UTC')::date")
            await sql.execute(MAKE_A_DAY_OLD, today)
            answers = [answer async for answer in _printed(binaries, reader, asked)]
            if today == await sql.fetchval("select (now() at time zone 'UTC')::date"):
                return answers


async def _printed(binaries: Path, url: str, asked: list[str]) -> AsyncIterator[str]:
    command = [binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-P", "pager=off"]
    for query in asked:
        psql = await asyncio.create_subprocess_exec(
            *command, "-c", query, url, env={"PGTZ": "UTC"}, stdout=PIPE, stderr=PIPE
        )
        out, err = await psql.communicate()
        assert b"" == err
        yield "".join(f"{line.rstrip()}\n" for line in out.decode().rstrip().splitlines())


async def test_answers(filled: str, sql: asyncpg.Connection, binaries: Path, update: bool) -> None:
    """Each query of the guide, run by a reader, returns exactly the rows that the guide shows."""
    answers = await _answers(filled, sql, binaries)
    assert 20 == len(answers)
    assert not [answer for answer in answers if "(0 rows)" in answer]
    if update:
        _show(answers)
    assert [answer for _, answer in _pairs()] == answers, "the guide is old: make catalogue"


async def test_overfitting(sql: asyncpg.Connection, store: Store, provider: Provider) -> None:
    """The guide's query for overfitting uses one loss of each job, and ignores checkpoints whose loss is late."""
    curves: dict[str, dict[str, list[float | None]]] = {
        "ftjob-sampled": {"valid_loss": [2, 1, 1.5, 1.25]},
        "ftjob-late": {"full_valid_loss": [2, 1, None, 1.5]},
        "ftjob-sound": {"valid_loss": [3, 2.5, 2, 1.5], "full_valid_loss": [None, None, None, 4]},
    }
    for of, losses in curves.items():
        points = [{name: values[n] for name, values in losses.items()} for n in range(4)]
        provider.checkpoints[of] = page([checkpoint(n, of, **point) for n, point in enumerate(points, 1)])
    await sync(store, provider, *curves)
    query = next(query for query, _ in _pairs() if "overfits" in query)
    assert [("ftjob-late", "full_valid_loss", 1, 4, 1, 1.5), ("ftjob-sampled", "valid_loss", 1, 3, 1, 1.25)] == [
        tuple(row) for row in await sql.fetch(query)
    ]


async def test_guide_names_every_view(sql: asyncpg.Connection) -> None:
    """Each view of the contract is used or named in the guide."""
    rows = await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'")
    assert {row["viewname"] for row in rows} <= set(re.findall(r"\w+", GUIDE_TEXT))
