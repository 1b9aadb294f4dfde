"""The README is true: its tables are complete, its words exist, and its commands do what it says, as written."""

import ast
import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import asyncpg
import pytest
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from checkpointd import __main__
from checkpointd.cli.app import app, simulate
from checkpointd.domain.failure import ErrorClass
from checkpointd.settings.credentials import LOADED
from checkpointd.settings.model import PREFIX, Settings, Source
from checkpointd.telemetry import database_metrics as gauges
from checkpointd.telemetry.metrics import REGISTRY
from checkpointd.web import server as web
from support.paths import TOP
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import environment

README = (TOP / "README.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in re.split(r"^## ", README, flags=re.MULTILINE)[1:]}
SHELL = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  # click's type has it only on groups

LEFT_OUT = {
    "make test": "it is what runs this",
    "python3 -m pip install 'checkpointd[embedded]'": "tests/project/check_wheel.sh installs it",
    "ssh -L 8787:127.0.0.1:8787 the-machine": "needs another machine",
    **dict.fromkeys(
        "".join(re.findall(r"```sh\n(.*?)```", SECTIONS["As a service"], flags=re.DOTALL)).splitlines(),
        "tests/service/test_systemd.py runs it, under a real systemd",
    ),
}
"""The README's shell lines that no test below runs, and why."""


def _rows(section: str) -> list[list[str]]:
    """Return the cells of the tables in a section, without their heads."""
    rows = re.findall(r"^\| (.*) \|$", SECTIONS[section], flags=re.MULTILINE)
    return [cells for row in rows if (cells := row.split(" | "))[0] not in {"exit code", "key", "option"}]


def _first_cells(section: str) -> list[str]:
    """Return the code words of the first column of the tables in a section."""
    return [word for cells in _rows(section) for word in re.findall(r"`([^`]*)`", cells[0])]


def _options(command: str) -> dict[str, Any]:
    """Return the options of a command by name, but for --help."""
    return {o.opts[0]: o for o in COMMANDS[command].params if o.opts[0].startswith("--") and o.opts[0] != "--help"}


def test_settings() -> None:
    """Each setting and each key of a source stands in the README, and no other."""
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name != "sources"}
    assert settings | set(Source.model_fields) == set(_first_cells("Settings"))


def test_defaults() -> None:
    """The README tells each default."""
    for name, default in re.findall(rf"^\| `{PREFIX}(\w+)` \| (\S+) \|", README, flags=re.MULTILINE):
        value = Settings.model_fields[name.lower()].default
        assert default == {None: "json", False: "false"}.get(value, str(value)), name


def test_commands() -> None:
    """Each command stands in the README with each of its options, and no other of either."""
    assert set(COMMANDS) == {words.split()[1] for words in _first_cells("Commands")}
    for call, does in (cells for cells in _rows("Commands") if cells[0].startswith("`")):
        name = call.strip("`").split()[1]
        if name != "simulate":  # it has a table of its own
            assert _options(name).keys() - {"--config"} == set(re.findall(r"`(--[a-z-]+)", does)), name
    without_config = {name for name in COMMANDS if "--config" not in _options(name)}
    assert "Each takes `--config FILE`, but `demo` and `simulate`." in README
    assert {"demo", "simulate"} == without_config


def test_simulate() -> None:
    """Each option of `simulate` stands in the README with its default and all that it can be."""
    told = {cells[0].strip("`"): cells[1:] for cells in _rows("A provider in a box")}
    options, kinds = _options("simulate"), get_type_hints(simulate)
    assert options.keys() == told.keys()
    for name, option in options.items():
        default, says = told[name]
        assert default == ("none" if option.default is None else str(option.default)), name
        choices = get_args(kinds[option.name]) if get_origin(kinds[option.name]) is Literal else ()
        assert [] == [choice for choice in choices if not re.search(rf"(^|[ ,]){choice}\b", says)], name


def test_exit_codes() -> None:
    """Each exit code that the program sets stands in the README, and no other."""
    calls = [node for node in ast.walk(ast.parse(Path(__main__.__file__).read_text())) if isinstance(node, ast.Call)]
    exits = [call for call in calls if ast.unparse(call.func) in {"_fail", "sys.exit", "os._exit"}]
    codes = {call.args[-1].value for call in exits if isinstance(call.args[-1], ast.Constant)}
    assert {0, *codes} == {int(cells[0]) for cells in _rows("Commands") if cells[0].isdecimal()}


async def test_views(sql: asyncpg.Connection) -> None:
    """Each view stands in the README, and no other; the columns that it names are in them."""
    rows = await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'")
    assert {row["viewname"] for row in rows} == set(_first_cells("Views"))
    columns = await sql.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'fine_tuning'"
    )
    for view, says in _rows("Views"):
        named = set(re.findall(r"`([^`]*)`", says))
        assert named <= {row["column_name"] for row in columns if row["table_name"] == view.strip("`")}, view


def test_status_port() -> None:
    """The README names each path of the status port."""
    paths = re.findall(r'add_get\("(/\w+)"', Path(web.__file__).read_text())
    assert paths == re.findall(r"`(/\w+z|/metrics)`", SECTIONS["Settings"])


def test_error_classes() -> None:
    """Each class of failures stands in the README, and no other."""
    assert set(ErrorClass) == set(_first_cells("Error classes"))


def test_metrics() -> None:
    """Each metric stands in the README with its labels, and no other."""
    section = SECTIONS["Metrics and alerts"]
    suffix = {"counter": "_total", "info": "_info"}
    shown = {
        of._name + suffix.get(of._type, ""): ", ".join(of._labelnames)
        for of in REGISTRY._collector_to_names
        if isinstance(of, MetricWrapperBase)
    }
    told = dict(re.findall(r"^\| `(checkpointd_\w+)` \| (.*?) ?\|", section, flags=re.MULTILINE))
    assert shown | {"checkpointd_build_info": "version"} == told
    assert f"read each {gauges.REFRESH_SECONDS:g} s" in section


def test_make_targets() -> None:
    """The README's make targets exist."""
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make ([\w-]+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


def test_settings_file_is_annotated_completely() -> None:
    """The annotated settings file names every setting and every key of a source."""
    text = (TOP / "config" / "checkpointd.toml").read_text()
    for name in [*Settings.model_fields, *Source.model_fields]:
        assert re.search(rf"^# \[?\[?{name}\b", text, flags=re.MULTILINE), name


def test_the_service_reads_what_the_readme_writes() -> None:
    """The lines for a service name the files (those of one folder are loaded together) and the program of its units."""
    lines = SECTIONS["As a service"].split("```sh")[1]
    units = "".join(unit.read_text() for unit in (TOP / "systemd").glob("*.service"))
    loaded = dict(re.findall(r"^LoadCredential=(\w+):/etc/checkpointd/(\S+)", units, flags=re.MULTILINE))
    assert {LOADED.removesuffix("_"): "credentials", "database_url": "owner_database_url"} == loaded
    written = ["credentials/OPENAI_API_KEY", "credentials/database_url", "owner_database_url"]
    assert written == re.findall(r"> (\S+)", lines)
    for program in re.findall(r"^ExecStart=(\S+)", units, flags=re.MULTILINE):
        assert f"{Path(program).parent}/pip install" in lines


def _lines(first_word: str = "") -> list[str]:
    """Return the README's shell lines, without comments, of the block that has this word first, or of all."""
    blocks = [block for block in SHELL if block.startswith(first_word)]
    return [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]


@asynccontextmanager
async def _typed(lines: list[str], folder: Path, **env: str) -> AsyncIterator[Process]:
    """Have a shell carry out lines; what still runs is ended."""
    bin_ = Path(sys.executable).parent
    process = await asyncio.create_subprocess_shell(
        "set -e\n" + "\n".join(lines), stdout=PIPE, stderr=STDOUT, cwd=TOP, start_new_session=True,
        env={**environment(folder), **env, "PATH": f"{bin_}:{os.environ['PATH']}", "TMPDIR": str(folder)},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, though that is not told yet
                os.killpg(process.pid, signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 60)


async def _reads(process: Process, word: str) -> str:
    """Read what a process prints up to the line with `word`; return all of it."""
    assert process.stdout is not None
    printed = ""
    async with asyncio.timeout(120):
        while word not in printed:
            line = (await process.stdout.readline()).decode()
            assert line, f"{word} never came:\n{printed}"
            printed += line
    return printed


def test_every_line_is_run_or_left_out_by_name() -> None:
    """The tests below and test_backup.py run each shell line of the README, but for those left out by name."""
    run = {"make demo", *_lines("python3 -m pip install 'checkpointd["), *_lines("export CHECKPOINTD_DATABASE_URL"),
           *_lines("checkpointd simulate"), *_lines("pg_dump")} - LEFT_OUT.keys()  # fmt: skip
    assert set(_lines()) == run | LEFT_OUT.keys()


async def test_make_demo(tmp_path: Path) -> None:
    """`make demo` shows checkpoints arriving, and how to look."""
    async with _typed(["make demo"], tmp_path) as demo:
        printed = await _reads(demo, "train loss")
        assert "psql" in printed


async def test_with_a_real_key(provider: Provider, tmp_path: Path) -> None:
    """What is to be typed with a real key tracks a job, and polls it into a PostgreSQL of its own."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    lines = [line for line in _lines("python3 -m pip install 'checkpointd[") if line not in LEFT_OUT]
    typed = [line.replace("ftjob-…", JOB).replace("KEY=…", "KEY=any") for line in lines]
    async with _typed(typed, tmp_path, OPENAI_BASE_URL=provider.url) as process:
        printed = await _reads(process, "poll.changed")
        assert "1 job tracked (1 new)" in printed
        assert "using the embedded PostgreSQL" in printed
        os.killpg(process.pid, signal.SIGTERM)
        await _reads(process, "daemon.stopped")


async def test_with_a_database(empty_url: str, tmp_path: Path) -> None:
    """What is to be typed with a database creates the schema, which the README's queries read."""
    typed = [line.replace("postgresql://…", f"'{empty_url}'") for line in _lines("export CHECKPOINTD_DATABASE_URL")]
    async with _typed(typed, tmp_path, OPENAI_API_KEY="any") as process:
        assert "applied 0001_initial" in await _reads(process, "applied")
    sql = await asyncpg.connect(empty_url)
    for query in re.findall(r"^```sql\n(select.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        assert [] == await sql.fetch(query), query
    await sql.close()


@pytest.mark.parametrize("line", _lines("checkpointd simulate"))
async def test_a_provider_in_a_box(line: str, tmp_path: Path) -> None:
    """Each way to call `simulate` says how to reach it; on a free port here, where the usual one may be taken."""
    words = "base_url" if "azure" in line else "export OPENAI_BASE_URL=http://127.0.0.1:"
    async with _typed([f"exec {line} --port 0"], tmp_path) as process:
        await _reads(process, words)
        process.terminate()
        assert 0 == await asyncio.wait_for(process.wait(), 60)
