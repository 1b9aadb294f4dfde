"""Backup and restore by the documented commands. The database may be the only copy of what providers list no more."""

import asyncio
import os
import re
import stat
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from support.documents import Document
from support.history import add_events
from support.logins import as_role, connected, login, run_roles
from support.provider import JOB, Provider, checkpoint, job, page
from support.verbs import checkpointd, environment

PASSWORD = "p@ss:/w%rd"
VIEWS = "select viewname from pg_views where schemaname = 'fine_tuning' and viewname <> 'freshness' order by 1"


async def _contents(sql: asyncpg.Connection) -> dict[str, list[Any]]:
    """Return all rows of each view, except freshness, whose rows change with time."""
    views = [row["viewname"] for row in await sql.fetch(VIEWS)]
    return {view: sorted(map(repr, await sql.fetch(f"table fine_tuning.{view}"))) for view in views}


async def _run_documented(folder: Path, binaries: Path) -> None:
    """Run the documented commands, with their files in this folder. It gets `calls`: what the programs were given."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("pg_dump", "pg_restore"):
        program = programs / name
        program.write_text(f"""#!/bin/sh
echo "$0 $*
PGPASSWORD=$PGPASSWORD" >> {folder}/calls
exec {binaries}/{name} "$@"
""")
        program.chmod(0o755)
    commands = "".join(Document("sql/OPERATING.md").blocks("sh", "Backup")).replace("/etc/checkpointd", str(folder))
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-eu", "-c", commands), cwd=folder, env=environment(folder, PATH=path), stdout=PIPE, stderr=PIPE
    )
    out, err = await shell.communicate()
    assert (0, b"the schema is up to date\n") == (shell.returncode, out), err


def _name(url: str) -> str:
    return str(urlsplit(url).username)


@pytest.mark.slow
async def test_backup_and_restore(
    url: str, bare: str, provider: Provider, sql: asyncpg.Connection, binaries: Path, tmp_path: Path
) -> None:
    """A backup restored on a server without the roles has all rows and rights, and polls store further rows in it.

    A reader's large object does not prevent it. No program gets the password as an argument, and the dump is private.
    """
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
    await add_events(sql, [JOB], 3)
    await sql.execute("""
        insert into checkpointd.earlier_steps (job, step_number, id)
        select job, step_number, 'old' from checkpointd.steps where step_number = 1""")
    await sql.execute("""
        insert into checkpointd.findings (source, job, kind, since, message)
        select source, key, 'stalled', now(), 'no news' from checkpointd.jobs""")
    await sql.execute(
        "insert into checkpointd.webhooks (name, cursor) select 'slack', max(seq) from checkpointd.changes"
    )
    before = await _contents(sql)
    assert all(before.values())

    admin = await asyncpg.connect(bare.format("postgres"))
    await admin.execute("create role owner login")
    await admin.execute("create database restored owner owner")
    await admin.close()
    async with (
        login(url, "in role checkpointd_reader") as reader,
        login(url, "in role checkpointd_owner") as owner,
    ):
        await sql.execute(f"alter large object {await sql.fetchval('select lo_create(0)')} owner to {_name(reader)}")
        new_owner = as_role(bare.format("restored"), "owner")
        for file, given in (("owner_database_url", owner), ("new_owner_database_url", new_owner)):
            (tmp_path / file).write_text(
                given.replace(f"{_name(given)}@", f"{_name(given)}:{quote(PASSWORD, safe='')}@")
            )
        await _run_documented(tmp_path, binaries)
        assert 0o600 == stat.S_IMODE((tmp_path / "checkpointd.dump").stat().st_mode)
        whole = await asyncio.create_subprocess_exec(
            binaries / "pg_dump", "--file=whole", owner, cwd=tmp_path, stderr=PIPE
        )
        assert b"large object" in (await whole.communicate())[1], "the reader's object no longer prevents a whole dump"
    calls = (tmp_path / "calls").read_text()
    assert ["pg_dump", "pg_restore"] == re.findall(r"^\S*/(\w+) ", calls, flags=re.MULTILINE)
    assert 2 == len(re.findall(f"^PGPASSWORD={re.escape(PASSWORD)}$", calls, flags=re.MULTILINE))
    assert PASSWORD not in (arguments := re.sub("^PGPASSWORD=.*$", "", calls, flags=re.MULTILINE))
    assert quote(PASSWORD, safe="") not in arguments
    await run_roles(binaries, bare.format("restored"))

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
