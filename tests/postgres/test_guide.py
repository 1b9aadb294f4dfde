"""The reader's guide, sql/README.md, is true: each query answers what stands below it, asked by a reader with psql."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from checkpointd.cli.sync import sync_jobs
from checkpointd.postgres import queries
from checkpointd.postgres.store import Store
from checkpointd.settings.model import FixedSettings, Source
from checkpointd.simulator.server import serve
from checkpointd.simulator.world import World
from support.harness import sync
from support.logins import login
from support.paths import RECORDED
from support.provider import Provider, checkpoint, error, job, page

GUIDE = Path(str(queries.folder() / "README.md"))
RECORDED = (RECORDED / "azure_ten_epochs_lists_last_three.json").read_text()
GUIDE_TEXT = GUIDE.read_text()
PAIR = re.compile(r"^```sql\n(?P<query>.*?)^```\n\n^```\n(?P<answer>.*?)^```$", re.MULTILINE | re.DOTALL)
START = 1_735_689_600.0  # 2025-01-01, in the past on every machine
MINUTES = (0, 5, 10, 15, 20, 55, 60, 65, 70, 75, 80)  # a pause in which the provider drops checkpoints unseen


def _pairs() -> list[tuple[str, str]]:
    """Return the guide's queries, each with the answer that it shows."""
    return [(match["query"], match["answer"]) for match in PAIR.finditer(GUIDE.read_text())]


def _show(answers: list[str]) -> None:
    """Write these answers into the guide."""
    left = iter(answers)
    GUIDE.write_text(PAIR.sub(lambda m: f"```sql\n{m['query']}```\n\n```\n{next(left)}```", GUIDE.read_text()))


@pytest.fixture
async def filled(url: str, store: Store, sql: asyncpg.Connection, provider: Provider, tmp_path: Path) -> str:
    """Return the URL of a database that followed a made-up provider for 80 minutes, and a recorded run to its end."""
    (tmp_path / "key").write_text("canary-key")

    passes = []

    async def follow(name: str, kind: str, api: str) -> None:
        source = Source(name=name, kind=kind, base_url=api, api_key=str(tmp_path / "key"))
        settings = FixedSettings(sources=(source,), discover=True)
        await sync_jobs(settings, store, {name: source.request_headers()}, None, None, lambda *_: None)
        passes.append(await sql.fetchval("select max(seq) + 1 from checkpointd.changes"))

    now = [START]
    async with serve(World(5, 8, START), lambda: now[0]) as api:
        for minute in MINUTES:
            now[0] = START + 60 * minute
            await follow("openai", "openai", api)
    listing = json.loads(RECORDED)
    of = listing["data"][0]["fine_tuning_job_id"]
    unreadable = {**listing["data"][0], "id": "ftchkpt-0", "step_number": "last"}
    provider.jobs = page([job(of, "succeeded", hyperparameters={"n_epochs": 10}, created_at=1_748_022_000)])
    provider.checkpoints[of] = [page([*listing["data"], unreadable]), error(404, "fine_tune_not_found", "not found")]
    for _ in range(3):
        await follow("azure", "azure", provider.url)
    await sql.execute("update checkpointd.polling set last_complete_at = last_complete_at - interval '3 h'"
                      " where error_class is not null")  # fmt: skip
    # The others stay fresh, however long a slow machine takes.
    await sql.execute("update checkpointd.polling set gap_s = 86400 where error_class is null")
    await _put_in_order(sql, passes)
    return url


async def _put_in_order(sql: asyncpg.Connection, passes: list[int]) -> None:
    """Renumber the changes within each pass, given where it ended: which was saved first is up to chance."""
    await sql.execute("""
        create temp table told as select c.*,
          row_number() over (order by width_bucket(c.seq, array[{}]), c.job, c.kind, c.checkpoint_id, c.field) as place
        from checkpointd.changes c;
        truncate checkpointd.changes""".format(",".join(map(str, passes))))  # fmt: skip
    columns = "at, job, poll, kind, checkpoint_id, field, old_value, new_value"
    await sql.execute(f"""
        insert into checkpointd.changes (seq, {columns}) overriding system value select place, {columns} from told""")


async def _answers(url: str, sql: asyncpg.Connection, binaries: Path) -> list[str]:
    """Return what psql shows a reader for each query, all on one day; every change was made on the day before."""
    asked = [query for query, _ in _pairs()]
    async with login(url, "in role checkpointd_reader") as reader:
        while True:
            today = await sql.fetchval("select (now() at time zone 'UTC')::date")
            await sql.execute("""
                update checkpointd.changes
                set at = ($1::date - 1 + time '08:00' + seq * interval '1 s') at time zone 'UTC'""", today)  # fmt: skip
            answers = [answer async for answer in _shown(binaries, reader, asked)]
            if today == await sql.fetchval("select (now() at time zone 'UTC')::date"):
                return answers


async def _shown(binaries: Path, url: str, asked: list[str]) -> AsyncIterator[str]:
    for query in asked:
        psql = await asyncio.create_subprocess_exec(
            binaries / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", "-c", query, url,
            env={"PGTZ": "UTC"}, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = await psql.communicate()
        assert b"" == err
        yield "".join(f"{line.rstrip()}\n" for line in out.decode().rstrip().splitlines())


async def test_answers(filled: str, sql: asyncpg.Connection, binaries: Path, update: bool) -> None:
    """Each of the guide's twelve queries, run by a reader, answers just what the guide shows, and something."""
    answers = await _answers(filled, sql, binaries)
    assert 12 == len(answers)
    assert not [answer for answer in answers if "(0 rows)" in answer]
    if update:
        _show(answers)
    assert [answer for _, answer in _pairs()] == answers, "the guide is old: make catalogue"


async def test_overfitting(sql: asyncpg.Connection, store: Store, provider: Provider) -> None:
    """Overfitting is seen by the loss that a job has, past a value that is late, and never by two losses in one job."""
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
