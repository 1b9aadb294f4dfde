"""What surrounds the daemon: variables, addresses, users, and secrets that are replaced or copied wrongly."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web

from checkpointd.cli.database import database
from checkpointd.settings.load import load
from support.harness import until_true
from support.provider import JOB, Provider, checkpoint, error, job, page
from support.verbs import PROGRAM, checkpointd, environment, running, wait_for_line
from support.waiting import eventually

COMMANDS = ("run", "sync", "check", "status", "jobs", "migrate")
NEW_KEY = "canary-new-key-9876543210"


# Variables


INJECTED = {
    "CHECKPOINTD_SERVICE_HOST": "10.0.0.5",
    "CHECKPOINTD_SERVICE_PORT": "8787",
    "CHECKPOINTD_SERVICE_PORT_HTTP": "8787",
    "CHECKPOINTD_PORT": "tcp://10.0.0.5:8787",
    "CHECKPOINTD_PORT_8787_TCP": "tcp://10.0.0.5:8787",
    "CHECKPOINTD_PORT_8787_TCP_PROTO": "tcp",
    "CHECKPOINTD_PORT_8787_TCP_PORT": "8787",
    "CHECKPOINTD_PORT_8787_TCP_ADDR": "10.0.0.5",
    "CHECKPOINTD_PORT_53_UDP": "udp://[fd00::5]:53",
    "CHECKPOINTD_METRICS_SERVICE_HOST": "10.0.0.5",
    "CHECKPOINTD_METRICS_PORT_9090_TCP": "tcp://10.0.0.5:9090",
    "CHECKPOINTD_HTTP_PORT": "tcp://10.0.0.5:8787",  # of a service checkpointd-http
    "CHECKPOINTD_NAME": "/web/checkpointd",
    "CHECKPOINTD_ENV_PATH": "/usr/bin",
    "CHECKPOINTD_1_PORT_8787_TCP_ADDR": "172.17.0.5",
}
"""What Kubernetes and Docker's links set in a container if a service or a container is called checkpointd."""


async def test_injected_variables_are_ignored(url: str, tmp_path: Path) -> None:
    """Variables that Kubernetes or Docker injects for a service of this name set nothing, and are no error."""
    env = {**environment(tmp_path, url, "http://127.0.0.1:1/v1"), **INJECTED}
    assert (0, "[]\n", "") == await checkpointd("jobs", "--json", env=env)
    async with running("run", env=env) as daemon:
        assert "8787" in await wait_for_line(daemon, "web.")


@pytest.mark.parametrize("name", INJECTED)
def test_each_injected_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Each of these variables alone is ignored."""
    (tmp_path / "empty.toml").touch()
    monkeypatch.setenv(name, INJECTED[name])
    assert 8787 == load(tmp_path / "empty.toml").http_port


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("CHECKPOINTD_PORT=8787", "CHECKPOINTD_PORT: no such setting; did you mean CHECKPOINTD_HTTP_PORT?"),
        ("CHECKPOINTD_HTTP_PORTS=8787", "did you mean CHECKPOINTD_HTTP_PORT?"),
        ("CHECKPOINTD_DATABASE_NAME=db", "CHECKPOINTD_DATABASE_NAME: no such setting"),
        ("CHECKPOINTD_MIN_POLL_SECOND=1", "did you mean CHECKPOINTD_MIN_POLL_SECONDS?"),
        ("CHECKPOINTD_HTTP_PORT=http", "CHECKPOINTD_HTTP_PORT: must be a valid integer"),
        ("PGTARGETSESSIONATTRS=standby", "PGTARGETSESSIONATTRS must be one of any, primary, read-write"),
        ("OPENAI_BASE_URL=http://litellm:4000/v1", "allow_http = true under [[sources]]"),
    ],
)
async def test_a_misspelt_variable_is_refused(url: str, tmp_path: Path, variable: str, hint: str) -> None:
    """A misspelt setting, or a wrong value of one, is still an error with its hint."""
    name, _, value = variable.partition("=")
    code, out, err = await checkpointd("jobs", env={**environment(tmp_path, url), name: value})
    assert (2, "", 1) == (code, out, len(err.splitlines()))
    assert hint in err


async def test_empty_variables_count_as_unset(url: str, provider: Provider, tmp_path: Path) -> None:
    """With every variable empty, the defaults, the file and the credentials apply."""
    names = (
        "HTTP_HOST",
        "HTTP_PORT",
        "LOG_LEVEL",
        "LEASE_SECONDS",
        "DISCOVER",
        "DATABASE_URL",
        "CONFIG",
        "POLL_SECOND",
    )
    others = ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")
    others += ("PGDATABASE", "PGPASSFILE", "PGSSLMODE", "PGSERVICE", "PGTARGETSESSIONATTRS", "SSL_CERT_FILE")
    empty = {**{f"CHECKPOINTD_{name}": "" for name in names}, **dict.fromkeys(others, "")}
    (tmp_path / "database_url").write_text(url)
    (tmp_path / "OPENAI_API_KEY").write_text(NEW_KEY)
    provider.jobs = page([])
    env = {**environment(tmp_path, api=provider.url), **empty, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    code, out, err = await checkpointd("check", env=env)
    assert (0, "") == (code, err), out
    assert [f"Bearer {NEW_KEY}"] == [request.headers["Authorization"] for request in provider.requests]
    assert {"ok"} == {line.split()[0] for line in out.splitlines() if "role:" not in line}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("variable", ["PGPASSWORD", "PGPASSFILE", "PGPORT"])
async def test_an_empty_variable_does_not_hide_the_password_file(bare: str, tmp_path: Path, variable: str) -> None:
    """The file ~/.pgpass is used although a variable of libpq is empty."""
    target = await _server_with_passwords(bare)
    (tmp_path / ".pgpass").write_text("*:*:*:reader:one")
    (tmp_path / ".pgpass").chmod(0o600)
    env = environment(tmp_path, target.format("reader"), **{variable: ""})
    assert "the schema is missing" in (await checkpointd("jobs", env=env)).err


async def _server_with_passwords(url: str) -> str:
    """Make a server require passwords, and create the login `reader`. Return its URL with {} for the login."""
    admin = await asyncpg.connect(url.format("postgres"))
    await admin.execute("create role reader login superuser password 'one'")
    hba = await admin.fetchval("show hba_file")
    rules = ("local all postgres", "host all postgres all"), ("local all all", "host all all all")
    lines = [f"{rule} {method}\n" for method, of in zip(("trust", "scram-sha-256"), rules, strict=True) for rule in of]
    Path(hba).write_text("".join(lines))  # noqa: ASYNC240  # a few lines
    await admin.execute("select pg_reload_conf()")
    await admin.close()
    return url.format("postgres").replace("postgres@", "{}@", 1)


# Addresses


async def _listening(env: dict[str, str]) -> tuple[str, list[str]]:
    """Return the address on which a daemon listens, and the addresses of its warning."""
    async with running("run", env=env) as daemon:
        address = json.loads(await wait_for_line(daemon, "web.listening"))["address"]
        line = json.loads(await wait_for_line(daemon, '"event": "'))
        return address.rpartition(":")[0], line.get("addresses", [])


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("given", ["", " ", "127.0.0.1", "localhost", "::1"])
async def test_only_loopback(url: str, tmp_path: Path, given: str) -> None:
    """Without a named address, the status port listens on loopback, and neither the log nor `check` has a warning."""
    env = environment(tmp_path, url, "http://127.0.0.1:1/v1", CHECKPOINTD_HTTP_HOST=given)
    address, warned = await _listening(env)
    assert (True, []) == (address in {"127.0.0.1", "[::1]"}, warned)
    assert "status port" not in (await checkpointd("check", env=env)).out


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(("given", "exposed"), [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("0", "0.0.0.0")])
async def test_beyond_loopback(url: str, tmp_path: Path, given: str, exposed: str) -> None:
    """If an address was named that other machines can reach, the log and `check` warn."""
    env = environment(tmp_path, url, "http://127.0.0.1:1/v1", CHECKPOINTD_HTTP_HOST=given)
    assert [exposed] == (await _listening(env))[1]
    assert f"warn  status port: other machines can reach {exposed}" in (await checkpointd("check", env=env)).out


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("given", ["", " ", "*", "a b", "http://127.0.0.1", "[::1]", "a..b"])
async def test_what_is_no_address(url: str, tmp_path: Path, given: str) -> None:
    """A text in the settings file that is no address is an error: it must not mean all addresses."""
    (tmp_path / "c.toml").write_text(f'http_host = "{given}"')
    ended = await checkpointd("run", "--config", str(tmp_path / "c.toml"), env=environment(tmp_path, url))
    assert (2, 1) == (ended.code, len(ended.err.splitlines()))
    assert "http_host: must be an IP address" in ended.err


# Users


def _as_unknown_user(*more: str) -> tuple[str, ...]:
    """Return the program, run by a user id without a name. It may read all files, because Python may be below /root."""
    keep = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
    return ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *keep, "--", *more, *PROGRAM)


@pytest.mark.fast_cases(1)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("given", "code", "expected"),
    [
        ("postgresql://u@127.0.0.1:1/x", 1, "connection refused"),
        ("postgresql://127.0.0.1:1/x", 2, "add a user to the URL"),
        ("postgresql:///x?host=/tmp", 2, "add a user to the URL"),
        ("postgresql://:secret@127.0.0.1:1/x", 2, "add a user to the URL"),
        ("", 2, "no home folder for the embedded PostgreSQL: set HOME"),
    ],
)
async def test_a_user_id_without_a_name(tmp_path: Path, given: str, code: int, expected: str) -> None:
    """Each command ends with one line if the user of the database is unknown, or there is no home folder."""
    env = environment(tmp_path, given, "http://127.0.0.1:1/v1")
    del env["HOME"]
    commands = COMMANDS if code == 2 else ("sync", "status", "jobs", "migrate")
    ends = [checkpointd(command, env=env, program=_as_unknown_user()) for command in commands]
    for ended in await asyncio.gather(*ends):
        assert (code, "", 1) == (ended.code, ended.out, len(ended.err.splitlines())), ended
        assert expected in ended.err
        assert "secret" not in ended.err


@pytest.mark.fast_cases(1)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("variable", ["PGUSER", "USER", "LOGNAME"])
async def test_a_user_from_a_variable(tmp_path: Path, variable: str) -> None:
    """A variable can name the user that the URL lacks."""
    env = environment(tmp_path, "postgresql://127.0.0.1:1/x", **{variable: "someone"})
    assert "connection refused" in (await checkpointd("jobs", env=env, program=_as_unknown_user())).err


async def test_a_password_file_that_others_can_read(tmp_path: Path) -> None:
    """The driver's warning about a password file is one line."""
    (tmp_path / ".pgpass").write_text("*:*:*:*:x")
    (tmp_path / ".pgpass").chmod(0o644)
    lines = (await checkpointd("jobs", env=environment(tmp_path, "postgresql://u@127.0.0.1:1/x"))).err.splitlines()
    assert [True, True] == [line.startswith("checkpointd: ") for line in lines]
    assert "group or world access" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/dev/null", "/proc"])
async def test_a_state_folder_that_cannot_be_used(tmp_path: Path, place: str) -> None:
    """If the embedded database has no folder, each command ends with one line."""
    env = environment(tmp_path, api="http://127.0.0.1:1/v1", STATE_DIRECTORY=place)
    for command in ("run", "sync", "jobs"):
        ended = await checkpointd(command, env=env)
        last = ended.err.splitlines()[-1]
        assert (1, "") == (ended.code, ended.out)
        assert last.startswith(f"checkpointd: the embedded PostgreSQL cannot use {place}")
        assert "Traceback" not in ended.err


# Values that were copied wrongly

IN_QUOTES = "is in quotes: remove them"


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('"sk-abc"', IN_QUOTES),
        ("'sk-abc'", IN_QUOTES),
        ("\u201csk-abc\u201d", IN_QUOTES),
        ("`sk-abc`", IN_QUOTES),
        ('sk-abc"', IN_QUOTES),
        ("Bearer sk-abc", "begins with Bearer"),
        ("OPENAI_API_KEY=sk-abc", "begins with a name and ="),
        ("export OPENAI_API_KEY='sk-abc'", "is in quotes"),
        ("sk-abc\\n", "ends with a backslash"),
        ("${OPENAI_API_KEY}", "is a placeholder"),
        ("$abc_API_KEY", "is a placeholder"),
        ("<sk-abc>", "is a placeholder"),
        ("sk-abc sk-def", "does not contain a key"),
    ],
)
async def test_a_key_that_was_copied_wrongly(url: str, tmp_path: Path, given: str, problem: str) -> None:
    """`check` says what is wrong with a key, and the daemon refuses it in one line. Neither shows it."""
    env = {**environment(tmp_path, url, "http://127.0.0.1:1/v1"), "OPENAI_API_KEY": given}
    checked, started = await asyncio.gather(checkpointd("check", env=env), checkpointd("run", env=env))
    line = next(line for line in checked.out.splitlines() if "source openai:" in line)
    assert (1, 2, 1) == (checked.code, started.code, len(started.err.splitlines()))
    for shown in (line, started.err):
        assert "OPENAI_API_KEY" in shown
        assert problem in shown
        assert "abc" not in shown


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("CHECKPOINTD_DATABASE_URL", "'postgresql://u:canary@h/d'"),
        ("CHECKPOINTD_DATABASE_URL", '"postgresql://u:canary@h/d"'),
        ("CHECKPOINTD_DATABASE_URL", "postgresql://u:canary@h/d?sslmode=require'"),
        ("CHECKPOINTD_DATABASE_URL", "DATABASE_URL=postgresql://u:canary@h/d"),
        ("OPENAI_BASE_URL", '"https://canary.example/v1"'),
        ("OPENAI_BASE_URL", "https://canary.example:443/v1\u201d"),
        ("CHECKPOINTD_LEASE_SECONDS", '"60"'),
    ],
)
async def test_a_variable_in_quotes(url: str, tmp_path: Path, name: str, given: str) -> None:
    """A variable whose value has quotes or its own name in it is refused in one line, which does not show the value."""
    ended = await checkpointd("check", env={**environment(tmp_path, url, "http://127.0.0.1:1/v1"), name: given})
    assert (2, "", 1) == (ended.code, ended.out, len(ended.err.splitlines()))
    assert f"{name}: its value " in ended.err
    assert "canary" not in ended.err


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("text", ["\ufeffsk-abc\r\n", " sk-abc \n\n", "sk-abc==", "a.b_c~d+e/f="])
async def test_keys_that_are_good(url: str, provider: Provider, tmp_path: Path, text: str) -> None:
    """A byte order mark and the line ends of Windows do not belong to a key. Padding does."""
    provider.jobs = page([])
    (tmp_path / "OPENAI_API_KEY").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "database_url").write_text(f"\ufeff{url}\r\n", encoding="utf-8", newline="")
    env = environment(tmp_path, api=provider.url, CREDENTIALS_DIRECTORY=str(tmp_path))
    del env["OPENAI_API_KEY"]
    assert 0 == (await checkpointd("check", env=env)).code
    expected = f"Bearer {text.strip().strip(chr(0xFEFF)).strip()}"
    assert [expected] == [request.headers["Authorization"] for request in provider.requests]


# Keys that are replaced


def _only(
    *keys: str, answer: Callable[[], web.Response], status: int = 401
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return an answer that refuses every key but these, and repeats it."""

    async def check(request: web.Request) -> web.Response:
        key = request.headers.get("Authorization", request.headers.get("api-key", "")).removeprefix("Bearer ")
        return answer() if key in keys else error(status, "denied", f"Incorrect API key provided: {key}")

    return check


def _toml(folder: Path, provider: Provider, more: str = "") -> dict[str, str]:
    """Write settings with the key in the file `key`. Return the variables that select them."""
    (folder / "c.toml").write_text(
        f"""min_poll_seconds = 0.1
        max_poll_seconds = 0.2
        job_list_seconds = 0.2
        {more}
        [[sources]]
        name = "openai"
        base_url = "{provider.url}"
        api_key = "{folder / "key"}"
        """
    )
    return {"CHECKPOINTD_CONFIG": str(folder / "c.toml")}


async def _is_polled(sql: asyncpg.Connection) -> None:
    assert await sql.fetchval("select count(*) from fine_tuning.checkpoints")


def _replace(file: Path, text: str) -> None:
    (file.parent / "next").write_text(text)
    (file.parent / "next").replace(file)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("between", [None, "", "canary-half", "two words", '"quoted"'])
async def test_a_key_that_is_replaced(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path, between: str | None
) -> None:
    """After a refusal, a new key in the file is used without a restart, also if it was missing or odd meanwhile."""
    provider.checkpoints[JOB] = _only(NEW_KEY, answer=lambda: page([checkpoint(1)]))
    provider.jobs = _only(NEW_KEY, answer=lambda: page([job()]))
    key = tmp_path / "key"
    key.write_text("canary-old-key-0123456789")
    env = environment(tmp_path, url, **_toml(tmp_path, provider))
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "job_list.failed")
        await eventually(lambda: _is_refused(sql))
        key.unlink() if between is None else key.write_text(between)
        await asyncio.sleep(1.5)  # the key is read again every second
        _replace(key, NEW_KEY + "\n")
        line = await wait_for_line(daemon, "source.key_changed")
        await eventually(lambda: _is_polled(sql), seconds=10)
        await eventually(lambda: _has_status(sql), seconds=10)
        await eventually(lambda: _is_ok(sql), seconds=10)
    assert "canary" not in line


@pytest.mark.slow
async def test_a_key_that_is_refused_with_403(
    url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    """Some gateways answer 403 instead of 401 for a wrong key: its file is read again, too."""
    provider.checkpoints[JOB] = _only(NEW_KEY, answer=lambda: page([checkpoint(1)]), status=403)
    key = tmp_path / "key"
    key.write_text("canary-old-key-0123456789")
    env = environment(tmp_path, url, **_toml(tmp_path, provider))
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "poll.failed")
        _replace(key, NEW_KEY)
        await wait_for_line(daemon, "source.key_changed")
        await eventually(lambda: _is_polled(sql), seconds=20)


async def _is_refused(sql: asyncpg.Connection) -> None:
    assert "refused" == await sql.fetchval("select state from fine_tuning.sources")


async def _is_ok(sql: asyncpg.Connection) -> None:
    assert "ok" == await sql.fetchval("select state from fine_tuning.sources")


async def _has_status(sql: asyncpg.Connection) -> None:
    assert "running" == await sql.fetchval("select status from fine_tuning.jobs")


@pytest.mark.slow
async def test_a_key_in_a_credential(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A key in a folder of credentials that is replaced is used; neither key is ever logged."""
    provider.checkpoints[JOB] = _only(
        NEW_KEY, answer=lambda: error(500, "down", f"{NEW_KEY} canary-old-key-0123456789")
    )
    (tmp_path / "OPENAI_API_KEY").write_text("canary-old-key-0123456789")
    env = environment(tmp_path, url, provider.url, CREDENTIALS_DIRECTORY=str(tmp_path))
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await eventually(lambda: _is_refused(sql))
        _replace(tmp_path / "OPENAI_API_KEY", NEW_KEY)
        await wait_for_line(daemon, "source.key_changed")
        line = await wait_for_line(daemon, "poll.failed")
    assert "[secret] [secret]" in line
    assert "[secret] [secret]" in await sql.fetchval("select last_error from fine_tuning.freshness")


@pytest.mark.slow
async def test_replicas_with_two_keys(url: str, provider: Provider, sql: asyncpg.Connection, tmp_path: Path) -> None:
    """A daemon with a refused key does not hinder one with the new key, and polls too when it has got the new one."""
    provider.checkpoints[JOB] = _only(NEW_KEY, answer=lambda: page([checkpoint(1)]))
    env = []
    for name, key in (("a", "canary-old-key-0123456789"), ("b", NEW_KEY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(key)
        env.append(environment(tmp_path / name, url, **_toml(tmp_path / name, provider)))
    await checkpointd("track", JOB, env=env[0])
    async with running("run", env=env[0]) as old:
        await eventually(lambda: _is_refused(sql))
        async with running("run", env=env[1]) as new:
            await eventually(lambda: _is_polled(sql))
            await eventually(lambda: _is_ok(sql))
            polls = await sql.fetchval("select quiet_polls from fine_tuning.freshness")
            await eventually(lambda: _has_polled(sql, polls + 5))
            new.terminate()
            await new.wait()
        _replace(tmp_path / "a" / "key", NEW_KEY)
        await wait_for_line(old, "source.key_changed")
        polls = await sql.fetchval("select quiet_polls from fine_tuning.freshness")
        await eventually(lambda: _has_polled(sql, polls + 2), seconds=20)


async def _has_polled(sql: asyncpg.Connection, polls: int) -> None:
    assert polls <= await sql.fetchval("select quiet_polls from fine_tuning.freshness")


# Passwords that are replaced


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("place", ["credential", "file", "passfile"])
async def test_a_database_password_that_is_replaced(bare: str, provider: Provider, tmp_path: Path, place: str) -> None:
    """A new password of the database is used at the next connection, without a restart, wherever it is stored."""
    target = await _server_with_passwords(bare)
    admin = await asyncpg.connect(bare.format("postgres"))

    def store_password(word: str) -> dict[str, str]:
        url = target.format(f"reader:{word}")
        if place == "credential":
            _replace(tmp_path / "database_url", url)
            return {"CREDENTIALS_DIRECTORY": str(tmp_path)}
        if place == "file":
            return _toml(tmp_path, provider, f'database_url = "{url}"')
        (tmp_path / "pass").touch(mode=0o600)
        (tmp_path / "pass").write_text(f"*:*:*:reader:{word}")
        return {"CHECKPOINTD_DATABASE_URL": target.format("reader") + f"&passfile={tmp_path / 'pass'}"}

    provider.checkpoints[JOB] = page([checkpoint(1)])
    (tmp_path / "key").write_text(NEW_KEY)
    (tmp_path / "OPENAI_API_KEY").write_text(NEW_KEY)
    env = environment(tmp_path, api=provider.url, **store_password("one"))
    await checkpointd("migrate", env=env)
    await checkpointd("track", JOB, env=env)
    async with running("run", env=env) as daemon:
        await wait_for_line(daemon, "poll.changed")
        await admin.execute("alter role reader password 'canary-two'")
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reader'")
        line = await wait_for_line(daemon, "database.unavailable")
        store_password("canary-two")
        await admin.execute("update checkpointd.polling set next_poll_at = now()")
        provider.checkpoints[JOB] = page([checkpoint(2), checkpoint(1)])
        line += await wait_for_line(daemon, "database.recovered")
        await until_true(admin, "select count(*) = 2 from checkpointd.checkpoints")
    assert "canary" not in line
    await admin.close()


@pytest.mark.slow
async def test_a_url_of_another_database_needs_a_restart(
    bare: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running daemon uses a new URL only if it differs in the user or the password."""
    target = await _server_with_passwords(bare)
    (tmp_path / "empty.toml").touch()
    (tmp_path / "database_url").write_text(target.format("reader:one"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    async with database(load(tmp_path / "empty.toml")) as connect:
        connection = await connect()
        await connection.execute("alter role reader password 'two'")
        for wrong in (target.replace("/postgres?", "/template1?").format("reader:two"), "", "postgres"):
            (tmp_path / "database_url").write_text(wrong)
            with pytest.raises(asyncpg.InvalidPasswordError):
                await connect()
        (tmp_path / "database_url").write_text(target.format("reader:two"))
        for opened in (connection, await connect()):
            assert "postgres" == await opened.fetchval("select current_database()")
            await opened.close()
