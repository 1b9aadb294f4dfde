"""A command that prints a key: how it is run, its bounds, and that no error contains what it printed."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpointd.provider.formats.presets import PRESETS, Kind
from checkpointd.settings import key_command
from checkpointd.settings.credentials import SettingsError
from checkpointd.settings.key_command import run_key_command
from checkpointd.settings.model import Settings
from support.harness import until

CANARY = "Canary5f0e9d8c7b6a4f3e2d1c"


async def run(script: str, *arguments: str) -> str:
    """Run a script of the shell as a command, and return the printed key."""
    return (await run_key_command(["/bin/sh", "-c", script, "sh", *arguments], "its command")).key


async def problem(script: str) -> str:
    """Run such a script that prints no key, and return the error."""
    with pytest.raises(SettingsError) as caught:
        await run(script)
    return str(caught.value).removeprefix("its command: ")


async def test_arguments_are_not_read_by_a_shell() -> None:
    """Each argument reaches the program as it is written."""
    assert "a$HOME;b" == await run('printf %s "$1"', "a$HOME;b")


async def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command gets the documented variables, and neither the database's password nor a provider's key."""
    monkeypatch.setenv("AZURE_CLIENT_ID", "client")
    for name in ("PGPASSWORD", "OPENAI_API_KEY", "CHECKPOINTD_DATABASE_URL"):
        monkeypatch.setenv(name, CANARY)
    names = set((await run("env | cut -d= -f1 | tr '\\n' :")).split(":")) - {"", "PWD", "SHLVL", "_", "OLDPWD"}
    assert {"PATH", "AZURE_CLIENT_ID"} <= names
    assert not {
        name
        for name in names
        if name not in key_command.VARIABLES and not name.startswith(key_command.VARIABLE_PREFIXES)
    }


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"echo {CANARY}; exit 3", "exit status 3"),
        (f"echo {CANARY}; echo {CANARY} is bad >&2; exit 3", "exit status 3 ([secret] is bad)"),
        (f"echo 'token={CANARY} expired; log in' >&2; echo >&2; exit 1", "exit status 1 ([secret] expired; log in)"),
        (f"echo {CANARY} {CANARY}", "it printed neither a key, in one word of printable ASCII, nor a JSON object"),
        ("kill -9 $$", "it was ended by signal 9"),
        ("read line || exit 4", "exit status 4"),
        ("head -c 70000 /dev/zero | tr '\\0' x; sleep 60", "it printed more than 65536 bytes"),
    ],
)
async def test_failures(script: str, expected: str) -> None:
    """A failure is one line without anything secret. Standard input is empty, and the output is limited."""
    assert expected == await problem(script)


@pytest.mark.parametrize("program", ["/no/such/program", "no-such-program", "/etc/passwd", "/etc"])
async def test_a_program_that_cannot_be_started(program: str) -> None:
    """A program that is missing or cannot be executed is named in the error."""
    with pytest.raises(SettingsError, match=f"^its command: {program}: (No such file|Permission denied)"):
        await run_key_command([program], "its command")


def _programs(folder: Path) -> list[str]:
    """Return the ids of the processes that a script wrote into files."""
    return [file.read_text().strip() for file in folder.glob("*.pid")]


def _is_gone(pid: str) -> bool:
    """Return whether a process has ended, even if nobody has asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("end", ["timeout", "cancelled"])
async def test_all_its_programs_are_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str) -> None:
    """At the end of its time, and at a stop of the daemon, the command and the programs that it started are killed."""
    monkeypatch.setattr(key_command, "COMMAND_SECONDS", 1.5 if end == "timeout" else 60)
    script = (
        f"trap '' TERM; sleep 600 & echo $! >{tmp_path}/child.pid; echo $$ >{tmp_path}/own.pid; echo {CANARY}; wait"
    )
    running = asyncio.create_task(run(script))
    await until(lambda: len(list(filter(None, _programs(tmp_path)))) == 2)
    if end == "cancelled":
        running.cancel()
    with pytest.raises(asyncio.CancelledError if end == "cancelled" else SettingsError):
        await running
    await until(lambda: all(map(_is_gone, _programs(tmp_path))))


@pytest.mark.parametrize("steps", range(8))
async def test_cancelled_while_it_starts(tmp_path: Path, steps: int) -> None:
    """A stop at any step of its start does not wait for the programs that it started, and kills them."""
    running = asyncio.create_task(run(f"sleep 600 & echo $! >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/a.pid; wait"))
    for _ in range(1 + steps):
        await asyncio.sleep(0)
    while not _programs(tmp_path):
        time.sleep(0.001)  # noqa: ASYNC251  # the event loop must not go on
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=60)
    assert {running} == done
    assert running.cancelled()
    await until(lambda: all(map(_is_gone, _programs(tmp_path))))


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
async def test_a_program_of_another_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command that may not be killed, as with sudo, is an error of its source, and is not waited for."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(key_command, "COMMAND_SECONDS", 0.1)
    monkeypatch.setattr(key_command, "KILL_SECONDS", 0.1)
    with monkeypatch.context() as refused:
        refused.setattr("os.killpg", refuse)
        refused.setattr("os.kill", refuse)
        assert await problem(f"echo $$ >{tmp_path}/own.pid; exec sleep 600") == "it did not end within 0.1 s"
    (pid,) = map(int, _programs(tmp_path))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222  # it is killed
    gc.collect()


async def test_a_program_that_holds_the_output(tmp_path: Path) -> None:
    """A key counts although a program in the background holds the output, and that program is killed."""
    assert CANARY == await run(f"sleep 600 & echo $! >{tmp_path}/child.pid; echo {CANARY}")
    await until(lambda: all(map(_is_gone, _programs(tmp_path))))


async def test_a_program_that_is_left_behind(tmp_path: Path) -> None:
    """A key counts although the command left a program in the background, and that program is killed."""
    assert CANARY == await run(f"sleep 600 >/dev/null 2>&1 & echo $! >{tmp_path}/child.pid; echo {CANARY}")
    await until(lambda: all(map(_is_gone, _programs(tmp_path))))


async def test_a_program_in_a_session_of_its_own(tmp_path: Path) -> None:
    """A program that moved to a session of its own is not waited for, and is left alone."""
    script = f"setsid sh -c 'echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/own.pid; exec sleep 600' &"
    assert CANARY == await run(f"{script} while ! test -f {tmp_path}/own.pid; do :; done; echo {CANARY}")
    (pid,) = _programs(tmp_path)
    assert not _is_gone(pid)
    os.kill(int(pid), signal.SIGKILL)
    await until(lambda: _is_gone(pid))


SOURCE = '[[sources]]\nname = "a"\n'


def test_setting(load: Callable[..., Settings]) -> None:
    """The setting is a list of a program and its arguments, which repr() omits."""
    (source,) = load(f'{SOURCE}api_key_command = ["az", "account", "get-access-token"]').sources
    assert ("az", "account", "get-access-token") == source.api_key_command
    assert "get-access-token" not in repr(source)
    assert {} == source.request_fields().headers, "no key before the command has printed one"
    assert {"Authorization": "Bearer issued"} == source.request_fields("issued").headers


@pytest.mark.parametrize("kind", PRESETS)
def test_header(load: Callable[..., Settings], kind: Kind) -> None:
    """The key of a command is sent as the keys of its kind are, but Azure and Foundry get it as a token of Entra."""
    url = "https://provider.example/v1"
    (source,) = load(f'{SOURCE}kind = "{kind}"\nbase_url = "{url}"\napi_key_command = ["issue"]').sources
    expected = {"X-API-Key": "issued"} if kind == "tinker" else {"Authorization": "Bearer issued"}
    assert {**PRESETS[kind].headers, **expected} == source.request_fields("issued").headers


@pytest.mark.parametrize(
    "words",
    [
        ["issue", "--client=123456789012-a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6.apps.googleusercontent.com"],
        ["issue", "123456789012-a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6.apps.googleusercontent.com"],
        ["issue", "507f1f77bcf86cd799439011"],
        ["issue", "6f9619ff-8b86-d011-b42d-00c04fc964ff"],
        ["sk-issue"],
        ["issue", "sk-of-the-team", "--sk-2"],
    ],
)
def test_arguments_that_are_no_keys(load: Callable[..., Settings], words: list[str]) -> None:
    """Ids of clients and of accounts, and programs whose names begin as a key does, are accepted."""
    (source,) = load(f"{SOURCE}api_key_command = {words}").sources
    assert tuple(words) == source.api_key_command


@pytest.mark.parametrize(
    "key", [CANARY, "sk-proj-abc-def-ghi-jkl-mno1", "sk_a1b2c3d4e5f6g7h8i9j0k", "eyJ" + "a" * 40 + ".eyJ.abc"]
)
@pytest.mark.parametrize("prefix", ["", "--key=", "Authorization: Bearer "])
def test_arguments_that_are_keys(load_error: Callable[..., str], key: str, prefix: str) -> None:
    """A key is refused, also within an argument."""
    error = load_error(f"{SOURCE}api_key_command = {['issue', prefix + key]}")
    assert "must not contain a key" in error
    assert key not in error


LIST = "must be a list of a program and its arguments, such as ['az', 'account', 'get-access-token']"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('api_key_command = "az account"', f"source a: api_key_command: {LIST}"),
        ("api_key_command = []", f"source a: api_key_command: {LIST}"),
        ('api_key_command = ["az", 1]', f"source a: api_key_command: {LIST}"),
        ('api_key_command = ["az", "a\\u0000"]', f"source a: api_key_command: {LIST}"),
        (f'api_key_command = ["echo", "{CANARY}"]', "source a: api_key_command: must name a program, and must not"),
        ('api_key_command = [""]', "source a: api_key_command: must name a program, and must not contain a key"),
        ('api_key_command = ["az"]\napi_key = "KEY"', "source a: api_key and api_key_command exclude each other"),
        ("", "source a: api_key: required, but missing (or give an api_key_command)"),
    ],
)
def test_wrong_settings(load_error: Callable[..., str], lines: str, expected: str) -> None:
    """A wrong setting is refused, and the message does not contain it."""
    error = load_error(SOURCE + lines)
    assert error.startswith(expected)
    assert CANARY not in error
