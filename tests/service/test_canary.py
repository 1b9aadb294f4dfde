"""Canaries: the daemon works with a key, a gateway's keys and a password, and none of them appears anywhere else."""

import asyncio
import json
import resource
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from support.echoes import echoes
from support.harness import until_true
from support.provider import JOB, Answer, Provider, body, checkpoint, error, job, page
from support.servers import Server, free_port, serving
from support.verbs import PROGRAM, checkpointd, environment, running, wait_for_line

KEY = "sk-proj-cAnArY0123456789/+kEy_-xyzQ"
CODE = "cAnArYcOdE0123456789abcdefXYZ-_w=="
SUBSCRIPTION = "subscription/cAnArY&sOn"
SENT = (KEY, CODE, SUBSCRIPTION)
"""The secrets that a provider receives: in a header, and as parameters of the query."""

PASSWORD = "p4ss/W0rd+of@the:cAnArY"


def _traces(secret: str) -> set[str]:
    """Return the texts that reveal a secret: itself, its two halves, and its encodings."""
    whole = {text for text in echoes(secret).values() if text}
    return {secret[: len(secret) // 2], secret[len(secret) // 2 :], *whole, b64encode(secret.encode()).decode()}


TRACES = set().union(*map(_traces, (*SENT, PASSWORD)))


def _traces_in(text: str) -> set[str]:
    return {trace for trace in TRACES if trace in text}


def _items(job_id: str, secret: str) -> str:
    """Return a page whose items contain a secret in every encoding, in ids, values and names. The last one is clean."""
    texts = []
    for number, encoded in enumerate(echoes(secret).values(), start=1):
        item = json.dumps(checkpoint(number, job_id, ECHO=0.5))
        texts += [
            item.replace("ft:", f"ft:{encoded}"),
            item.replace("ECHO", encoded).replace("ftckpt_", "ftckpt_n"),
            item.replace("ftckpt_", f"ftckpt_{encoded}"),
        ]
    texts.append(json.dumps(checkpoint(999, job_id)))
    return '{"object":"list","data":[' + ",".join(texts) + '],"has_more":false}'


def _records(secret: str) -> str:
    """Return a page of job records that contain a secret in every encoding, in ids, values and documents."""
    texts = []
    for number, encoded in enumerate(echoes(secret).values(), start=1):
        record = json.dumps(job(f"ftjob-r{number}", metadata={"echo": "ECHO"}))
        texts += [record.replace(word, encoded) for word in ("ECHO", "running", "gpt-4o-mini", f"r{number}")]
    texts.append(json.dumps(job("ftjob-t", error={"message": secret})))
    return '{"object":"list","data":[' + ",".join(texts) + '],"has_more":false}'


async def _url_in_message(request: web.Request) -> web.StreamResponse:
    return error(400, "bad_request", message=f"no: {request.url} {request.raw_path}")


def _after_a_page(job_id: str, answer: Answer) -> Answer:
    """Return an answer that follows a good page. So the provider does not seem to be down, and each job is polled."""

    async def send(request: web.Request) -> web.StreamResponse:
        if "after" not in request.query:
            return page([checkpoint(999, job_id)], has_more=True)
        if isinstance(answer, web.Response):
            return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
        assert callable(answer)
        return await answer(request)

    return send


def _answers() -> dict[str, Answer]:
    """Return answers that contain the secrets of the request, by job id."""

    def error_body(encoded: str) -> str:
        return '{"error":{"message":"no: ' + encoded + '","type":"x","code":"' + encoded + '"}}'

    answers: dict[str, Answer] = {JOB: body(_items(JOB, KEY)), "ftjob-u": _url_in_message}
    for which, secret in enumerate(SENT):
        answers[f"ftjob-c{which}"] = body(_items(f"ftjob-c{which}", secret))
        for number, encoded in enumerate(echoes(secret).values()):
            headers = dict.fromkeys(("Location", "Retry-After", "X-Echo", "x-request-id"), encoded)
            answers[f"ftjob-e{which}-{number}"] = web.Response(status=400, text=error_body(encoded), headers=headers)
    for number, encoded in enumerate(echoes(KEY).values()):
        answers[f"ftjob-h{number}"] = body("{}", f"text/{encoded}")
        answers[f"ftjob-i{number}"] = body(error_body(encoded))
        answers[f"ftjob-o{number}"] = body('{"object":"' + encoded + '","data":[],"has_more":false}')
    for status in (302, 401, 403, 404, 429, 500):
        headers = {"Location": f"http://127.0.0.1/{KEY}", "Retry-After": KEY, "WWW-Authenticate": KEY, "X-Echo": KEY}
        answers[f"ftjob-s{status}"] = web.Response(status=status, text=f"<p>{KEY}", headers=headers)
    answers["ftjob-t"] = body("{}", f"text/{KEY}")
    return answers


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_no_sink_has_a_canary(provider: Provider, tmp_path: Path) -> None:
    """No secret is in the log at level debug, in the output of a command, in a column, in the server's log or in /proc.

    The provider sends the secrets back in every encoding, and the server logs every statement.
    """
    answers = _answers()
    silencing = {"ftjob-s401", "ftjob-s403", "ftjob-s429"}  # they stop all requests to their source
    pages = {JOB, *(f"ftjob-c{which}" for which in range(len(SENT)))}
    provider.checkpoints = {
        name: answer if name in silencing | pages else _after_a_page(name, answer) for name, answer in answers.items()
    }
    provider.jobs = [body(_records(secret)) for secret in SENT]
    async with _server_that_logs_all(tmp_path / "server") as (server, url):
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "THE_KEY").write_text(KEY)
        (credentials / "the_subscription").write_text(SUBSCRIPTION)
        (credentials / "database_url").write_text(url)
        source = f"""
            [[sources]]
            name = 'NAME'
            api_key = 'THE_KEY'
            base_url = '{provider.url}'
            query = {{ code = '{CODE}', subscription = {{ credential = 'the_subscription' }} }}
            """
        (tmp_path / "config.toml").write_text(source.replace("NAME", "main") + source.replace("NAME", "silenced"))
        settings = {
            "LOG_LEVEL": "debug",
            "CONFIG": str(tmp_path / "config.toml"),
            "MIN_POLL_SECONDS": "0.1",
            "HTTP_PORT": str(free_port()),
            "JOB_LIST_SECONDS": "0.2",
            "LEASE_SECONDS": "8",
            "CONCURRENCY": "64",
        }
        env = environment(
            tmp_path,
            CREDENTIALS_DIRECTORY=str(credentials),
            **{f"CHECKPOINTD_{name}": value for name, value in settings.items()},
        )
        ended = [
            await checkpointd("migrate", env=env),
            await checkpointd("track", "--source", "main", *answers.keys() - silencing, env=env),
            await checkpointd("track", "--source", "silenced", *silencing, env=env),
        ]
        sql = await asyncpg.connect(url)
        for log_format in ("console", "json"):
            await sql.execute("""
                update checkpointd.polling set failures = 0, digest = null, next_poll_at = now(),
                  last_complete_at = null, error_class = null, lease_expires_at = null""")
            await _assert_daemon_reveals_nothing({**env, "CHECKPOINTD_LOG_FORMAT": log_format}, sql)
        verbs = (
            "sync",
            "sync --json",
            "status",
            "status --json",
            "jobs",
            "jobs --json",
            "resync ftjob-t",
            "untrack no",
        )
        ended += [await checkpointd(*verb.split(), env=env) for verb in verbs]
        for wrong in (url.replace("p4ss", "wr0ng"), url.replace("%40", "@"), url.replace("%2F", "/")):
            (credentials / "database_url").write_text(wrong)
            ended.append(await checkpointd("status", env=env))
            assert ended[-1].code in {1, 2}
        assert set() == _traces_in(" ".join(out + err for _, out, err in ended))
        stored = await sql.fetch("select distinct step_number from fine_tuning.checkpoints")
        assert [999] == [row[0] for row in stored]
        kept = await sql.fetch(
            "select distinct reason, raw from fine_tuning.rejects where fine_tuning_job_id = $1", JOB
        )
        assert [("it contains a secret", None)] == [tuple(row) for row in kept]
        assert set() == _traces_in(await _dump(sql))
        await sql.close()
    log = server.log.read_text()
    assert "ftckpt_0999" in log, "the server does not log the statements"
    assert set() == _traces_in(log)


@asynccontextmanager
async def _server_that_logs_all(folder: Path) -> AsyncIterator[tuple[Server, str]]:
    """Run a server that requires the password and logs everything. Yields it, and its URL with the password."""
    with serving(folder) as server:
        admin = await asyncpg.connect(server.url)
        await admin.execute(f"create role canary superuser login password '{PASSWORD}'")
        await admin.close()
        (folder / "data" / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        server.configure(
            log_statement="all", log_connections="on", log_min_messages="debug1", log_min_error_statement="debug1"
        )
        server.stop()
        server.log.unlink()
        server.start()
        yield server, server.url.replace("postgres@", f"canary:{quote(PASSWORD, safe='')}@")


def _process_files(pid: int) -> list[str]:
    return [Path(f"/proc/{pid}/{file}").read_text() for file in ("environ", "cmdline")]


async def _assert_daemon_reveals_nothing(env: dict[str, str], sql: asyncpg.Connection) -> None:
    """Run the daemon until every job was polled, read its port, its process and its log, and let it crash."""
    all_polled = """
        select not exists (select from checkpointd.polling p join checkpointd.sources s on s.key = p.source
        where s.name = 'main' and p.failures = 0 and p.last_complete_at is null)"""
    async with running("run", env=env, program=PROGRAM) as daemon:
        ready = await wait_for_line(daemon, "daemon.ready")
        await until_true(sql, all_polled, seconds=240)
        async with aiohttp.ClientSession() as http:
            for path in ("livez", "readyz", "metrics", ""):
                async with http.get(f"http://127.0.0.1:{env['CHECKPOINTD_HTTP_PORT']}/{path}") as response:
                    assert set() == _traces_in(await response.text() + str(response.headers))
        if sys.platform.startswith("linux"):
            assert set() == _traces_in("".join(_process_files(daemon.pid)))
            assert (0, 0) == resource.prlimit(daemon.pid, resource.RLIMIT_CORE)
        daemon.send_signal(signal.SIGABRT)
        out, err = await asyncio.wait_for(daemon.communicate(), 60)
    assert b"Fatal Python error: Aborted" in err
    assert b"poll.failed" in err
    assert set() == _traces_in(ready + out.decode() + err.decode())


async def _dump(sql: asyncpg.Connection) -> str:
    """Return all columns of our tables and views as text, bytea also decoded, and the last query of each session."""
    found = await sql.fetch(
        """select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname = 'checkpointd'
        union all select format('%I.%I', schemaname, viewname) from pg_views where schemaname = 'fine_tuning'"""
    )
    text = ""
    for row in found:
        rows = await sql.fetch(f"select t::text from {row['name']} t")
        text += "\n".join(r[0] for r in rows)
        columns = await sql.fetch(
            "select attname from pg_attribute where attrelid = $1::text::regclass and atttypid = 'bytea'::regtype",
            row["name"],
        )
        for column in columns:
            rows = await sql.fetch(f"select {column[0]} from {row['name']} where {column[0]} is not null")
            text += "\n".join(r[0].decode("latin-1") for r in rows)
    return text + "\n".join(r[0] or "" for r in await sql.fetch("select query from pg_stat_activity"))


async def test_a_short_key_is_not_stored(provider: Provider, url: str, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A key of six characters, the shortest that counts as a secret, is found in items like a long one."""
    provider.checkpoints[JOB] = body(_items(JOB, "k7-xyz"))
    env = environment(tmp_path, url, provider.url, OPENAI_API_KEY="k7-xyz")
    await checkpointd("track", JOB, env=env)
    await checkpointd("sync", env=env)
    assert 999 == await sql.fetchval("select max(step_number) from fine_tuning.checkpoints")
    assert "k7-xyz" not in await _dump(sql)


@pytest.mark.parametrize("name", ["code", "api-key", "sig"])
async def test_a_short_secret_parameter_is_not_revealed(
    provider: Provider, url: str, sql: asyncpg.Connection, tmp_path: Path, name: str
) -> None:
    """A parameter with the name of a secret is one, even if its value looks like a word; api-version is none."""
    word, version = "sesame-open", "2024-07-18"
    (tmp_path / "config.toml").write_text(
        f"[[sources]]\nname = 'a'\nkind = 'azure'\napi_key = 'OPENAI_API_KEY'\nbase_url = '{provider.url}'\n"
        f"query = {{ {name} = '{word}', api-version = '{version}' }}\n"
    )
    env = environment(tmp_path, url, provider.url, CHECKPOINTD_CONFIG=str(tmp_path / "config.toml"))
    await checkpointd("track", JOB, "ftjob-u", env=env)
    provider.checkpoints = {JOB: body(_items(JOB, word)), "ftjob-u": _url_in_message}
    ended = await checkpointd("sync", env=env)
    assert "HTTP 400" in ended.err
    assert word not in ended.out + ended.err
    assert {name: word, "api-version": version} == {n: provider.requests[0].query[n] for n in (name, "api-version")}
    assert 999 == await sql.fetchval("select max(step_number) from fine_tuning.checkpoints")
    assert version in await _dump(sql)
    assert word not in await _dump(sql)


async def test_the_organization_is_no_secret(
    provider: Provider, url: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """A job record that names its organization, as OpenAI's do, is read, even if the settings name it, too."""
    provider.jobs = page([job(organization_id="org-AbCdEf0123456789AbCdEf", status="succeeded")])
    provider.checkpoints[JOB] = page([])
    env = environment(tmp_path, url, provider.url, OPENAI_ORG_ID="org-AbCdEf0123456789AbCdEf")
    await checkpointd("track", JOB, env=env)
    assert 0 == (await checkpointd("sync", env=env)).code
    assert "succeeded" == await sql.fetchval("select status from fine_tuning.jobs")
