"""A database that is restored from a backup while a daemon works."""

import asyncio
from asyncio.subprocess import PIPE
from pathlib import Path

import asyncpg
import pytest

from checkpointd.postgres.connection import connect
from checkpointd.postgres.store import open_store
from service.faults.daemons import daemon, daemon_env, measure_stalls
from support.harness import until_true
from support.provider import Provider, checkpoint, held, job, page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
[[sources]]
name = "first"
api_key = "OPENAI_API_KEY"
base_url = "{url}"
[[sources]]
name = "second"
api_key = "OPENAI_API_KEY"
base_url = "{url}"
"""

STORED = "select count(*) from fine_tuning.checkpoints where source = $1 and fine_tuning_job_id = $2"
KEY = "select key from checkpointd.jobs where id = $1"


async def _run(program: Path, *arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=PIPE, stderr=PIPE)
    _, errors = await process.communicate()
    assert (0, b"") == (process.returncode, errors)


async def test_restore_during_a_poll(
    url: str, provider: Provider, sql: asyncpg.Connection, binaries: Path, tmp_path: Path
) -> None:
    """A poll in flight is not saved under the job that received its key, and the source that was lost is polled again.

    Everything that is still listed is stored again.
    """
    names = ("ftjob-kept", "ftjob-lost", "ftjob-other", "ftjob-listed")
    for name in names:
        provider.checkpoints[name] = page([{**checkpoint(1, name), "id": f"ftckpt_{name}"}])
    config, dump = tmp_path / "two.toml", tmp_path / "dump"
    config.write_text(CONFIG.format(url=provider.url))
    async with open_store(lambda: connect(url)) as store:
        keys = await store.register_sources({"first": "openai"})
        await store.track(keys["first"], ["ftjob-kept"])
        await _run(binaries / "pg_dump", "--format=custom", f"--file={dump}", f"--dbname={url}")

        keys = await store.register_sources({"first": "openai", "second": "openai"})
        answer, reached, go_on = held(provider.checkpoints["ftjob-lost"])
        provider.checkpoints["ftjob-lost"] = answer
        provider.jobs = page([job("ftjob-listed")])
        await store.track(keys["first"], ["ftjob-lost"])
        lost_key = await sql.fetchval(KEY, "ftjob-lost")
        variables = {"CHECKPOINTD_CONFIG": str(config), "CHECKPOINTD_DISCOVER": "true"}
        # The poll in flight must still hold its lease when it ends.
        variables |= {"CHECKPOINTD_LEASE_SECONDS": "120", "CHECKPOINTD_REQUEST_TIMEOUT_SECONDS": "60"}
        env = daemon_env(tmp_path, url, provider.url, **variables)
        del env["OPENAI_BASE_URL"]
        async with daemon(env) as one:
            await asyncio.wait_for(reached.wait(), 60)
            await until_true(sql, f"select ({STORED}) = 1", "second", "ftjob-listed")

            await sql.execute("drop schema fine_tuning cascade; drop schema checkpointd cascade")
            await _run(binaries / "pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={url}", dump)
            restored = asyncio.get_running_loop().time()
            assert await sql.fetchval(KEY, "ftjob-lost") is None
            other, other_reached, other_go_on = held(provider.checkpoints["ftjob-other"])
            provider.checkpoints["ftjob-other"] = other
            await store.track(keys["first"], ["ftjob-other"])
            await asyncio.wait_for(other_reached.wait(), 60)  # both jobs are leased now
            assert lost_key == await sql.fetchval(KEY, "ftjob-other")

            lines = len(one.log)
            go_on.set()
            await one.wait_for("ftjob-lost", after=lines)
            assert [] != [line for line in one.log[lines:] if "poll.dropped" in line and "ftjob-lost" in line]
            other_go_on.set()
            async with measure_stalls() as stalled:
                await one.wait_for("source.registered", 120)
                await until_true(sql, f"select ({STORED}) = 1", "second", "ftjob-listed")
                seconds = asyncio.get_running_loop().time() - restored - stalled()
            for name in ("ftjob-kept", "ftjob-other"):
                await until_true(sql, f"select ({STORED}) = 1", "first", name)
            print(f"second source polled again {seconds:.1f} s after the restore")  # noqa: T201
            assert 60 > seconds
            assert one.process.returncode is None
    wrong = "select count(*) from fine_tuning.checkpoints where id <> 'ftckpt_' || fine_tuning_job_id"
    assert 0 == await sql.fetchval(wrong)
