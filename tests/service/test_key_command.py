"""The daemon, `check` and `sync` with a command that prints the key of one of two sources."""

import json
import re
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from support.provider import JOB, Provider, checkpoint, error, job, page
from support.verbs import KEY, checkpointd, environment, get, running, wait_for_line
from support.waiting import eventually

CANARIES = ("canary-first-1x2y3z", "canary-second-4x5y6z", "canary-refresh-7x8y9z")
REASON = "api_key_command of source issued: exit status 7 ([secret] please log in again)"


def _settings(folder: Path, provider: Provider) -> dict[str, str]:
    """Write settings with a source that has a key, and one whose command is a script that the test replaces."""
    (folder / "c.toml").write_text(
        f"""min_poll_seconds = 0.1
        max_poll_seconds = 0.2
        job_list_seconds = 0.2
        discover = true

        [[sources]]
        name = "plain"
        base_url = "{provider.url}"
        api_key = "OPENAI_API_KEY"

        [[sources]]
        name = "issued"
        base_url = "{provider.url}"
        api_key_command = ["{folder / "command"}", "--resource=https://ai.azure.com"]
        """
    )
    return {"CHECKPOINTD_CONFIG": str(folder / "c.toml")}


def _command(folder: Path, script: str) -> None:
    (folder / "next").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "next").chmod(0o700)
    (folder / "next").replace(folder / "command")


def _failing(folder: Path) -> None:
    _command(folder, f'echo "{CANARIES[2]}"; echo "{CANARIES[2]} please log in again" >&2; exit 7')


def _printing(folder: Path, key: str) -> None:
    printed = {"accessToken": key, "refreshToken": CANARIES[2], "expiresOn": "2099-01-01T00:00:00Z"}
    _command(folder, f"test $# = 1 && echo '{json.dumps(printed)}'")


@pytest.mark.slow
async def test_a_daemon_with_a_command(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A failing command hinders no other source. Its keys are used when it succeeds, and renewed after a 401.

    `check`, `sync`, the log, /readyz and the view `sources` say why it failed, without what it printed.
    """
    accepted = {KEY}

    async def answer(request: web.Request) -> web.Response:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        is_list = request.path.endswith("/jobs")
        listed = page([job()] if is_list else [checkpoint(1)])
        return listed if key in accepted else error(401, "expired", f"Incorrect API key provided: {key}")

    async def count(source: str) -> int:
        return int(await sql.fetchval("select count(*) from fine_tuning.checkpoints where source = $1", source))

    async def is_polled(source: str) -> None:
        assert await count(source)

    async def is_ok() -> None:
        assert ["ok", "ok"] == [row["state"] for row in await sql.fetch("select state from fine_tuning.sources")]

    provider.checkpoints[JOB], provider.jobs = answer, answer
    env = environment(tmp_path, url, provider.url, **_settings(tmp_path, provider))
    _failing(tmp_path)
    checked = await checkpointd("check", env=env)
    assert (1, True) == (checked.code, REASON.replace(" of source issued", "") in " ".join(checked.out.split()))
    async with running("run", env=env) as daemon:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", await wait_for_line(daemon, "web.listening"))[0])
        texts = [await wait_for_line(daemon, "source.key_failed")]
        assert REASON in texts[-1]
        await eventually(lambda: is_polled("plain"))
        assert ("refused", REASON) == tuple(
            await sql.fetchrow("select state, last_error from fine_tuning.sources where source = 'issued'") or ()
        )
        assert (200, f"ok\nsource issued refused\n{REASON}\n") == await get(port, "/readyz")
        assert {f"Bearer {KEY}"} == {request.headers["Authorization"] for request in provider.requests}
        accepted.add(CANARIES[0])
        _printing(tmp_path, CANARIES[0])
        texts += [await wait_for_line(daemon, "source.key_recovered")]
        await eventually(lambda: is_polled("issued"))
        await eventually(is_ok)
        accepted.remove(CANARIES[0])
        accepted.add(CANARIES[1])
        _printing(tmp_path, CANARIES[1])
        texts += [await wait_for_line(daemon, "source.key_changed")]
        await eventually(is_ok)
        daemon.terminate()
        _, err = await daemon.communicate()
        texts += [err.decode()]
    checked = await checkpointd("check", env=env)
    assert (0, True) == (checked.code, "from api_key_command, expires in" in checked.out)
    _failing(tmp_path)
    synced = await checkpointd("sync", "--source", "issued", "--json", env=env)
    assert [REASON] == [failure["error"] for failure in json.loads(synced.out)["failures"]]
    rows = await sql.fetch(
        "select s::text from checkpointd.sources s union all select p::text from checkpointd.polls p"
    )
    texts += [*(row[0] for row in rows), checked.out, checked.err, synced.out, synced.err]
    assert not [canary for canary in CANARIES if any(canary in text for text in texts)]
