"""Backup and restore by the documented commands. The database may be the only copy of what providers list no more."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.documents import Document
from support.logins import connected, login
from support.provider import JOB, Provider, checkpoint, job, page
from support.verbs import checkpointd, environment

VIEWS = "select viewname from pg_views where schemaname = 'fine_tuning' and viewname <> 'freshness' order by 1"


async def _contents(sql: asyncpg.Connection) -> dict[str, list[Any]]:
    """Return all rows of each view, except freshness, whose rows change with time."""
    views = [row["viewname"] for row in await sql.fetch(VIEWS)]
    return {view: sorted(map(repr, await sql.fetch(f"table fine_tuning.{view}"))) for view in views}


@pytest.mark.slow
async def test_backup_and_restore(
    url: str, bare: str, provider: Provider, sql: asyncpg.Connection, binaries: Path, tmp_path: Path
) -> None:
    """A database restored on a server without the roles has all rows and rights, and polls store further rows in it."""
    env = environment(tmp_path, url, provider.url)
    provider.checkpoints[JOB] = [
        page([checkpoint(1)]),
        page([checkpoint(2), checkpoint(1, valid_loss=1.0)]),
        page([{}]),
    ]
    provider.jobs = page([job()])
    await checkpointd("track", JOB, env=env)
    for _ in range(3):
        await checkpointd("sync", env=env)
    before = await _contents(sql)
    assert all(before.values())

    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute("create database restored")
    await admin.close()
    (commands,) = Document("sql/OPERATING.md").blocks("sh", "Backup")
    async with login(url, "in role checkpointd_owner") as owner:
        path = os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]])
        env = environment(tmp_path, owner, PATH=path, NEW_DATABASE_URL=bare.format("restored"))
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-eu", "-c", commands), cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE
        )
        assert (b"the schema is up to date\n", b"") == await shell.communicate()
        assert 0 == shell.returncode

    restored = await asyncpg.connect(bare.format("restored"))
    assert before == await _contents(restored)
    async with connected(bare.format("restored"), "in role checkpointd_reader") as reader:
        assert before == await _contents(reader)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("select fine_tuning.untrack('ftjob-abc123')")
    last = await restored.fetchval("select max(seq) from fine_tuning.changes")
    provider.checkpoints[JOB] = page([checkpoint(3), checkpoint(2), checkpoint(1, valid_loss=1.0)])
    async with login(bare.format("restored"), "in role checkpointd") as daemon:
        assert 0 == (await checkpointd("sync", env=environment(tmp_path, daemon, provider.url))).code
    new = await restored.fetch("select kind, checkpoint_id from fine_tuning.changes where seq > $1", last)
    assert [("new", "ftckpt_0003")] == [tuple(row) for row in new]
    await restored.close()
