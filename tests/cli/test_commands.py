"""The commands as processes: what they do and print, and their exit codes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest

from checkpointd.cli import demo
from support.provider import JOB, Provider, checkpoint, error, job, page
from support.verbs import KEY, SILENCED, checkpointd, environment, running, wait_for_line, wait_for_output


@pytest.mark.fast_cases(6)
@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["track", "ftjob-x/../../y"], {}, "not the id of a fine-tuning job"),
        (["track", "ftjob-a b"], {}, "not the id of a fine-tuning job"),
        (["track", "ftjob-a\x1b[2J"], {}, "not the id of a fine-tuning job"),
        (["track", ""], {}, "not the id of a fine-tuning job"),
        (["track", "ftckpt_abc"], {}, "not the id of a fine-tuning job"),
        (["sync", "ftjob-x/../../y"], {}, "not the id of a fine-tuning job"),
        (["track", JOB, "--source", "other"], {}, "--source other"),
        (["track"], {}, "Missing argument"),
        (["objective", JOB, "reward"], {}, "give a metric with --maximize or --minimize, or --default"),
        (["objective", JOB, "reward", "--maximize", "--minimize"], {}, "give a metric with --maximize or --minimize"),
        (["objective", JOB, "--default", "--maximize"], {}, "give a metric with --maximize or --minimize"),
        (["objective", JOB, "a\x1b[2J", "--maximize"], {}, "is not the name of a metric"),
        (["nonsense"], {}, "No such command"),
        (
            ["simulate", "--kind", "x"],
            {},
            "'tinker', 'foundry'. Try checkpointd",
        ),
        (
            ["simulate", "--jobs", "x"],
            {},
            "'--jobs': Input should be a valid integer, unable to parse string as an integer. Try checkpointd",
        ),
        (["sync", "--nonsense"], {}, "No such option"),
        (["sync"], {"CHECKPOINTD_MIN_POL_SECONDS": "1"}, "did you mean CHECKPOINTD_MIN_POLL_SECONDS?"),
        (["sync"], {"CHECKPOINTD_MIN_POLL_SECONDS": "soon"}, "CHECKPOINTD_MIN_POLL_SECONDS"),
        (["sync"], {"OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),
        (["run"], {"OPENAI_API_KEY": ""}, "OPENAI_API_KEY"),
        (["sync"], {"OPENAI_BASE_URL": "http://example.org/v1"}, "OPENAI_BASE_URL"),
        (["sync"], {"CHECKPOINTD_DATABASE_URL": "mysql://u:canary-key-0123456789@h/db"}, "CHECKPOINTD_DATABASE_URL"),
        (["sync"], {"CHECKPOINTD_CONFIG": "/nowhere.toml"}, "/nowhere.toml: no such file"),
    ],
)
async def test_wrong_usage(
    arguments: list[str], variables: dict[str, str], words: str, url: str, provider: Provider, tmp_path: Path
) -> None:
    """Wrong usage and wrong settings exit with 2 and one line without traceback or secret, before any request."""
    ended = await checkpointd(*arguments, env={**environment(tmp_path, url, provider.url), **variables})
    assert 2 == ended.code
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert KEY not in ended.err
    assert "\x1b" not in ended.err
    assert [] == provider.requests
    assert 1 == len(ended.err.splitlines())


async def test_a_database_without_schema_or_server(empty_url: str, provider: Provider, tmp_path: Path) -> None:
    """If the schema is missing or the server is down, a command exits with 1 and one line that says what to do."""
    ended = await checkpointd("track", JOB, env=environment(tmp_path, empty_url, provider.url))
    assert (1, "checkpointd: the schema is missing or old: run `checkpointd migrate`\n") == (ended.code, ended.err)
    nowhere = "postgresql://u:canary-key-0123456789@127.0.0.1:1/db"
    ended = await checkpointd("status", env=environment(tmp_path, nowhere, provider.url))
    assert 1 == ended.code
    assert 1 == len(ended.err.splitlines())
    assert KEY not in ended.err
    assert "Traceback" not in ended.err


async def test_missing_job(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A job that the provider does not find any more fails in `sync`, is shown as missing, and keeps its rows."""
    env = environment(tmp_path, url, provider.url)
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await checkpointd("track", JOB, env=env)
    await checkpointd("sync", env=env)
    stored = await sql.fetch("select * from fine_tuning.checkpoints")
    provider.checkpoints[JOB] = error(404, "fine_tune_not_found")
    ended = await checkpointd("sync", env=env)
    assert 1 == ended.code
    assert f"{JOB}: missing: HTTP 404 fine_tune_not_found no" in ended.err
    shown = await checkpointd("status", env=env)
    assert re.search(rf"{JOB}\s+openai\s+missing", shown.out)
    listed = json.loads((await checkpointd("jobs", "--json", env=env)).out)
    assert [(JOB, "missing", 1)] == [(row["id"], row["phase"], row["checkpoint_count"]) for row in listed]
    assert stored == await sql.fetch("select * from fine_tuning.checkpoints")


async def test_standard_input(url: str, provider: Provider, tmp_path: Path) -> None:
    """With - the ids are read from standard input, one per line; an empty standard input means no job."""
    env = environment(tmp_path, url, provider.url)
    ended = await checkpointd("track", "-", env=env, stdin="ftjob-1\n\nftjob-2\nftjob-1\n")
    assert (0, "2 jobs tracked (2 new)\n", "") == ended
    ended = await checkpointd("sync", "-", env=env)
    assert (0, "0 jobs: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == ended
    assert [] == provider.requests
    provider.checkpoints["ftjob-2"] = page([])
    ended = await checkpointd("sync", "-", env=env, stdin="ftjob-2\n")
    assert (0, "1 job: 0 new checkpoints, 0 changed, 0 rejected items, 0 failed\n", "") == ended
    await checkpointd("untrack", "ftjob-2", env=env)
    ended = await checkpointd("track", "ftjob-1", "ftjob-2", env=env)
    assert (0, "2 jobs tracked (1 new)\n", "") == ended
    ended = await checkpointd("sync", "ftjob-3", env=env)
    assert (1, "checkpointd: ftjob-3 is not tracked: run `checkpointd track ftjob-3`\n") == (ended.code, ended.err)


async def test_refused_key(url: str, provider: Provider, tmp_path: Path) -> None:
    """With a refused key `sync` ends after a few requests and reports every job as failed, without the key."""
    env = environment(tmp_path, url, provider.url)
    for n in range(40):
        provider.checkpoints[f"ftjob-{n}"] = error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}")
    await checkpointd("track", "-", env=env, stdin="".join(f"ftjob-{n}\n" for n in range(40)))
    ended = await checkpointd("sync", "--json", env=env)
    result = json.loads(ended.out)
    assert (1, 40, {"refused"}) == (ended.code, result["failed"], {f["error_class"] for f in result["failures"]})
    assert KEY not in ended.out + ended.err
    assert len(provider.requests) <= 17


async def test_two_sources(url: str, provider: Provider, tmp_path: Path) -> None:
    """For an id that is in two sources, a command requires --source, and each source has rows of its own."""
    config = tmp_path / "two.toml"
    (tmp_path / "key").write_text(KEY)
    source = f'[[sources]]\nname = "{{}}"\nkind = "{{}}"\nbase_url = "{provider.url}"\napi_key = "{tmp_path}/key"\n'
    config.write_text(source.format("one", "openai") + source.format("two", "azure"))
    env = {**environment(tmp_path, url), "CHECKPOINTD_CONFIG": str(config)}
    provider.checkpoints[JOB] = page([checkpoint(1)])
    ended = await checkpointd("track", JOB, env=env)
    assert (2, "checkpointd: several sources are configured: choose one with --source (one, two)\n") == (
        ended.code,
        ended.err,
    )
    for name in ("one", "two"):
        assert 0 == (await checkpointd("track", JOB, "--source", name, env=env)).code
    ended = await checkpointd("resync", JOB, env=env)
    assert 2 == ended.code
    assert "--source (one, two)" in ended.err
    assert "2 jobs: 2 new checkpoints" in (await checkpointd("sync", env=env)).out
    headers = [
        (r.headers.get("Authorization"), r.headers.get("api-key")) for r in provider.requests if "job" in r.match_info
    ]
    assert {(f"Bearer {KEY}", None), (None, KEY)} == set(headers)
    assert "1 job: 0 new" in (await checkpointd("sync", "--source", "two", env=env)).out
    provider.checkpoints[JOB] = error(404, "unknown")
    failed = (await checkpointd("sync", env=env)).err.splitlines()
    assert [f"{JOB} ({name}): missing: HTTP 404 unknown no" for name in ("one", "two")] == sorted(failed)
    failures = json.loads((await checkpointd("sync", "--json", env=env)).out)["failures"]
    assert {("one", JOB), ("two", JOB)} == {(failure["source"], failure["job"]) for failure in failures}
    assert (0, "1 job untracked\n", "") == await checkpointd("untrack", JOB, "--source", "one", env=env)


async def test_embedded_database(provider: Provider, tmp_path: Path) -> None:
    """Without a database URL the embedded PostgreSQL is used; one line says so; a second command can share it."""
    env = environment(tmp_path, None, provider.url, CHECKPOINTD_MIN_POLL_SECONDS="0.1")
    provider.checkpoints[JOB] = page([checkpoint(1)])
    ended = await checkpointd("track", JOB, env=env)
    assert 0 == ended.code
    assert 1 == len(ended.err.splitlines())
    assert "using the embedded PostgreSQL" in ended.err
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "poll.changed")
        rows = json.loads((await checkpointd("jobs", "--json", env=env)).out)
        assert [(JOB, 1)] == [(row["id"], row["checkpoint_count"]) for row in rows]
        daemon.terminate()
        assert 0 == await asyncio.wait_for(daemon.wait(), 60)
    rows = json.loads((await checkpointd("jobs", "--json", env=env)).out)
    assert [(JOB, 1)] == [(row["id"], row["checkpoint_count"]) for row in rows]


async def test_standard_error_is_closed(url: str, provider: Provider, tmp_path: Path) -> None:
    """With `2>&-` commands do their work, and messages do not appear in their standard output."""
    env = environment(tmp_path, url, provider.url)
    provider.jobs = page([job()])
    provider.checkpoints[JOB] = page([checkpoint(1)])
    await checkpointd("track", JOB, "ftjob-unknown", env=env)
    ended = await checkpointd("sync", env=env, program=SILENCED)
    assert (1, "2 jobs: 1 new checkpoint, 0 changed, 0 rejected items, 1 failed\n", "") == ended
    ended = await checkpointd("check", "--json", env=env, program=SILENCED)
    assert (0, True) == (ended.code, json.loads(ended.out)["ok"])
    assert (2, "", "") == await checkpointd("nonsense", env=env, program=SILENCED)


LOGS_THE_KEY = """
import os
from checkpointd import __main__
from checkpointd.cli import sync
from checkpointd.telemetry.logs import log

async def log_the_key(*_):
    log.error("planted", key=os.environ["OPENAI_API_KEY"])
    raise OSError("planted, too")

sync.sync_jobs = log_the_key
__main__.main()
"""


async def test_sync_logs_no_key(url: str, provider: Provider, tmp_path: Path) -> None:
    """The log of `sync` contains no key, even if a mistake in the program logs one."""
    env = environment(tmp_path, url, provider.url)
    ended = await checkpointd("sync", env=env, program=(sys.executable, "-c", LOGS_THE_KEY))
    assert (1, True) == (ended.code, '"key": "[secret]"' in ended.err)
    assert KEY not in ended.err


@pytest.mark.slow
async def test_demo_with_standard_error_closed(tmp_path: Path) -> None:
    """The demo works without standard error."""
    ended = await checkpointd("demo", "--seconds", "1", env=environment(tmp_path), program=SILENCED)
    assert (0, True) == (ended.code, " checkpoints, " in ended.out)


@pytest.mark.slow
async def test_demo(tmp_path: Path) -> None:
    """The demo prints how to query, shows checkpoints whatever variables are set, ends in time and leaves no files."""
    env = environment(tmp_path, TMPDIR=str(tmp_path), CHECKPOINTD_DISCOVER="false", CHECKPOINTD_MIN_POLL_SECONDS="60")
    for seconds in ("5", "30", "90"):  # a slow machine may still create the schema after 5 s
        ended = await checkpointd("demo", "--seconds", seconds, env=env)
        assert (0, "") == (ended.code, ended.err)
        if int(ended.out.splitlines()[-1].split()[2]) > 5:
            break
    lines = ended.out.splitlines()
    assert any(line.startswith("Query the data: ") and "psql" in line for line in lines)
    assert any(re.fullmatch(r"See the curves: http://127\.0\.0\.1:\d+/", line) for line in lines)
    assert not [line for line in lines[:-1] if re.search(r"\b1 checkpoints", line)]
    found = re.fullmatch(r"(\d+) jobs, (\d+) checkpoints, (\d+) changes", lines[-1])
    assert found is not None
    jobs, checkpoints, changes = map(int, found.groups())
    assert jobs > 5
    assert 5 < checkpoints < changes
    assert {"empty.toml"} == set(os.listdir(tmp_path))  # noqa: PTH208  # async code may not use Path.iterdir


def test_demo_has_a_port_of_its_own() -> None:
    """If the default number of the status port is in use, the demo uses a free one."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # in use already, which is as good
            other.bind(("127.0.0.1", 8787))
            other.listen()
        assert demo.free_status_port() not in {0, 8787}


async def test_demo_query(tmp_path: Path) -> None:
    """The query that the demo prints shows the checkpoints, typed as it is; Ctrl-C ends the demo with 0."""
    async with running("demo", env=environment(tmp_path, TMPDIR=str(tmp_path))) as demo:
        query = await wait_for_output(demo, "Query the data: ")
        await wait_for_output(demo, "checkpoint")
        shell = await asyncio.create_subprocess_shell(query.removeprefix("Query the data: "), stdout=PIPE)
        shown = (await shell.communicate())[0].decode()
        assert 0 == shell.returncode
        assert "fine_tuned_model_checkpoint" in shown
        assert "ftckpt_" in shown
        demo.send_signal(signal.SIGINT)
        assert 0 == await asyncio.wait_for(demo.wait(), 60)


@pytest.mark.slow
async def test_demo_has_each_finding(tmp_path: Path) -> None:
    """The demo finds something of each kind. It takes about a minute; a loaded machine may take longer."""
    kinds = "select count(distinct kind) from fine_tuning.findings"
    async with running("demo", "--seconds", "300", env=environment(tmp_path)) as demo:
        query = (await wait_for_output(demo, "Query the data: ")).removeprefix("Query the data: ")
        command = query.replace("'table fine_tuning.checkpoints'", f'"{kinds}" -At')
        await wait_for_output(demo, "checkpoint")
        found = ""
        while found != "12\n":
            shell = await asyncio.create_subprocess_shell(command, stdout=PIPE)
            found = (await shell.communicate())[0].decode()
            assert 0 == shell.returncode, f"the demo ended with {found} kinds"
            await asyncio.sleep(1)  # the database sends no event when a finding fires
        demo.send_signal(signal.SIGINT)
        assert 0 == await asyncio.wait_for(demo.wait(), 60)


async def test_simulate(url: str, tmp_path: Path) -> None:
    """The simulated provider prints the variables that connect other commands to it, and they work."""
    env = environment(tmp_path, url)
    async with running("simulate", "--port", "0", "--jobs", "5", env=env) as provider:
        line = await wait_for_output(provider, "export ")
        given = dict(word.split("=", 1) for word in line.removeprefix("export ").split())
        ended = await checkpointd("sync", env={**env, **given, "CHECKPOINTD_DISCOVER": "true"})
        assert (0, "") == (ended.code, ended.err)
        assert re.match(r"[1-9]\d* jobs: [1-9]\d* new checkpoints", ended.out)
        provider.terminate()
        assert 0 == await asyncio.wait_for(provider.wait(), 60)


async def test_hostile_text_does_not_reach_the_terminal(url: str, provider: Provider, tmp_path: Path) -> None:
    """Control characters from a provider are not printed."""
    env = environment(tmp_path, url, provider.url)
    provider.checkpoints[JOB] = page([])
    provider.jobs = page([job(fine_tuned_model="[red]x[/red]", status="running"), job("ftjob-2", status="\x1b[2Jx")])
    await checkpointd("track", JOB, "ftjob-2", env=env)
    await checkpointd("sync", env=env)
    shown = (await checkpointd("jobs", env=env)).out
    assert "\x1b" not in shown
    assert "[red]x[/red]" in shown
