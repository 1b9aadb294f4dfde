"""The documents are true: their tables are complete, and their commands and examples work as written."""

import ast
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
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
from checkpointd.cli.app import app
from checkpointd.domain.failure import ErrorClass
from checkpointd.domain.job_filter import ALL_FILTERS
from checkpointd.provider.formats.presets import PRESETS
from checkpointd.settings.credentials import FOLDER_PREFIX
from checkpointd.settings.environment import PREFIX
from checkpointd.settings.load import load
from checkpointd.settings.model import Settings
from checkpointd.settings.source import Source
from checkpointd.settings.webhook import CHANGE_KINDS, FINDING_KINDS, Webhook
from checkpointd.telemetry import database_metrics
from checkpointd.telemetry.metrics import REGISTRY
from checkpointd.web import server as web
from project.planted import Edit, try_out
from project.test_layout import IMPORTS
from support.documents import Document
from support.paths import PACKAGE, TOP
from support.provider import JOB, Provider, checkpoint, page
from support.verbs import environment

README = Document("README.md")
SETTINGS = Document("config/README.md")
METRICS = Document("config/prometheus/README.md")
PAGE = Document("daemon/checkpointd/web/README.md")
DAEMON = Document("daemon/README.md")
SIMULATOR = Document("daemon/checkpointd/simulator/README.md")
READING = Document("sql/README.md")
SERVICE = Document("systemd/README.md")
WEBHOOK_KEYS = [field.alias or name for name, field in Webhook.model_fields.items()]
TABLES = {"sources", "webhooks"}
COMMANDS: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  # click's type has it only on groups


def _options(command: str) -> dict[str, Any]:
    """Return the options of a command by name, but for --help."""
    return {o.opts[0]: o for o in COMMANDS[command].params if o.opts[0].startswith("--") and o.opts[0] != "--help"}


def _settings() -> dict[str, str]:
    """Return the documented default of each setting."""
    sections = ("Database", "Polling", "Requests", "Status port and log")
    return {cells[0].strip("`"): cells[1] for section in sections for cells in SETTINGS.rows(section)}


def test_settings() -> None:
    """Each setting and each key of a source or a webhook is documented, and no other; so is each kind of events."""
    assert {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name not in TABLES} == set(_settings())
    assert set(Source.model_fields) == set(SETTINGS.first_words("Sources", "key"))
    assert set(WEBHOOK_KEYS) == set(SETTINGS.first_words("Webhooks", "key"))
    kinds = {*CHANGE_KINDS, *FINDING_KINDS}
    (events,) = (cells[2] for cells in SETTINGS.rows("Webhooks", "key") if cells[0] == "`events`")
    assert [] == [kind for kind in kinds if not re.search(rf"\b{kind}\b", events)]


def test_defaults() -> None:
    """Each default is documented."""
    documented = {name.removeprefix(PREFIX).lower(): default for name, default in _settings().items()}
    assert "the embedded PostgreSQL" == documented.pop("database_url")
    for name, default in documented.items():
        value = Settings.model_fields[name].default
        assert default == {None: "json", False: "false"}.get(value, str(value)), name


def test_filters_of_kinds() -> None:
    """Each filter of discovery is documented with the kinds that lack it, and the kind without a job list is named."""
    kinds = {kind: preset.format for kind, preset in PRESETS.items()}
    with_list = {kind: wire_format for kind, wire_format in kinds.items() if wire_format.jobs}
    lacking = {
        name: sorted(kind for kind, wire_format in with_list.items() if name not in wire_format.filters)
        for name in ALL_FILTERS
    }
    documented = {cells[0].strip("`"): cells[2] for cells in SETTINGS.rows("Discovery", "filter")}
    assert {name: ", ".join(found) for name, found in lacking.items()} == documented
    assert all(f"The kind {kind} has no job list" in SETTINGS.prose for kind in kinds.keys() - with_list.keys())


def test_examples_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a settings file is accepted."""
    monkeypatch.delenv(f"{PREFIX}DATABASE_URL", raising=False)
    for block in SETTINGS.blocks("toml"):
        (tmp_path / "checkpointd.toml").write_text(block)
        assert load(tmp_path / "checkpointd.toml").sources


def test_commands() -> None:
    """Each command is documented with each of its options, and no other of either; the README names each, too."""
    rows = DAEMON.rows("Commands", "command")
    assert set(COMMANDS) == {row[0].strip("`").split()[1] for row in rows}
    assert set(COMMANDS) == {words.split()[1] for words in README.first_words("Commands")}
    for call, options, *_ in rows:
        name = call.strip("`").split()[1]
        if name != "simulate":  # it has a table of its own
            assert _options(name).keys() - {"--config"} == set(re.findall(r"`(--[a-z-]+)`", options)), name
    without_config = {name for name in COMMANDS if "--config" not in _options(name)}
    assert "Each command takes `--config FILE`, except `demo` and `simulate`." in " ".join(DAEMON.prose.split())
    assert {"demo", "simulate"} == without_config


def test_simulate() -> None:
    """Each option of `simulate` is documented with its default and all its values."""
    documented = {cells[0].strip("`"): cells[1:] for cells in SIMULATOR.rows("Options")}
    options, kinds = _options("simulate"), get_type_hints(COMMANDS["simulate"].callback)
    assert options.keys() == documented.keys()
    for name, option in options.items():
        default, meaning = documented[name]
        assert default == ("none" if option.default is None else str(option.default)), name
        choices = get_args(kinds[option.name]) if get_origin(kinds[option.name]) is Literal else ()
        assert [] == [choice for choice in choices if not re.search(rf"(^|[ ,]){choice}\b", meaning)], name


def test_exit_codes() -> None:
    """Each exit code that the program sets is documented, and no other."""
    modules = [Path(__main__.__file__), *(PACKAGE / "cli").glob("*.py")]
    nodes = (node for module in modules for node in ast.walk(ast.parse(module.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    exits = [call for call in calls if ast.unparse(call.func) in {"Ending", "_fail", "sys.exit", "os._exit"}]
    codes = {call.args[-1].value for call in exits if isinstance(call.args[-1], ast.Constant)}
    assert {0, *codes} == {int(cells[0]) for cells in DAEMON.rows("Commands", "exit code")}


async def test_views(sql: asyncpg.Connection) -> None:
    """Each view is documented, and no other."""
    rows = await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'")
    assert {row["viewname"] for row in rows} == set(READING.first_words("Views"))


def test_status_port() -> None:
    """Each path of the status port is documented: those of pages with the page, the others with the metrics."""
    served = re.findall(r'get\("(/\w+)"', Path(web.__file__).read_text())
    pages = [path for path in served if f"`{path}?" in PAGE.text]
    assert ["/compare"] == pages
    paths = [path for path in served if path not in pages]
    assert paths == METRICS.first_words("Metrics and alerts", "path")
    assert set(paths) == {word for word in SETTINGS.words if word.startswith("/") and word[1:].isalpha()} - {
        "/fine_tuning"
    }


def test_error_classes() -> None:
    """Each class of failures is documented, and no other."""
    assert set(ErrorClass) == set(DAEMON.first_words("Error classes"))


def test_statements_of_job_states() -> None:
    """Each statement that changes the state of a job is a file of sql/queries."""
    statements = {word for row in DAEMON.rows("Job states", "event") for word in re.findall(r"`(\w+)`", row[2])}
    assert len(statements) == 9
    assert statements <= {path.stem for path in (TOP / "sql" / "queries").iterdir()}


def test_packages() -> None:
    """The table of packages has the imports that are allowed."""
    documented = {
        re.findall(r"`([\w.]+)`", cells[0])[0]: set(re.findall(r"`([\w.]+)`", cells[2]))
        for cells in DAEMON.rows("Packages")
    }
    assert "all of the above" == DAEMON.rows("Packages")[-2][2]
    documented["cli"] = documented.keys() - {"cli", "__main__", "polling.setup"}
    assert documented == IMPORTS


def test_glossary() -> None:
    """The glossary explains ten to fifteen concepts."""
    assert 10 <= len(DAEMON.rows("Glossary")) <= 15


def test_metrics() -> None:
    """Each metric is documented with its labels, and no other."""
    suffix = {"counter": "_total", "info": "_info"}
    shown = {
        of._name + suffix.get(of._type, ""): ", ".join(of._labelnames)
        for of in REGISTRY._collector_to_names
        if isinstance(of, MetricWrapperBase)
    }
    documented = {cells[0].strip("`"): cells[1] for cells in METRICS.rows("Metrics")}
    assert shown | {"checkpointd_build_info": "version"} == documented
    assert f"every {database_metrics.REFRESH_SECONDS:g} s" in METRICS.sections["Metrics"]


def test_alerts() -> None:
    """Each alert is documented with its severity, and no other."""
    rules = (TOP / "config" / "prometheus" / "checkpointd.rules.yml").read_text()
    alerts = re.findall(r"- alert: (\w+).*?severity: (\w+)", rules, flags=re.DOTALL)
    assert dict(alerts) == {cells[0].strip("`"): cells[1] for cells in METRICS.rows("Alerts")}


def test_settings_file_is_annotated_completely() -> None:
    """The annotated settings file names every setting and every key of a source and of a webhook."""
    text = (TOP / "config" / "checkpointd.toml").read_text()
    for name in [*Settings.model_fields, *Source.model_fields, *WEBHOOK_KEYS]:
        assert re.search(rf"^# \[?\[?{name}\b", text, flags=re.MULTILINE), name


def test_the_service_reads_what_the_document_writes() -> None:
    """The lines for a service name the files (those of one folder are loaded together) and the program of its units."""
    lines = "\n".join(SERVICE.commands("Install"))
    units = "".join(unit.read_text() for unit in (TOP / "systemd").glob("*.service"))
    loaded = dict(re.findall(r"^LoadCredential=(\w+):/etc/checkpointd/(\S+)", units, flags=re.MULTILINE))
    assert {FOLDER_PREFIX.removesuffix("_"): "credentials", "database_url": "owner_database_url"} == loaded
    written = ["credentials/OPENAI_API_KEY", "credentials/database_url", "owner_database_url"]
    assert written == re.findall(r"> (\S+)", lines)
    for program in re.findall(r"^ExecStart=(\S+)", units, flags=re.MULTILINE):
        assert f"{Path(program).parent}/pip install" in lines


@asynccontextmanager
async def _typed(lines: list[str], folder: Path, **env: str) -> AsyncIterator[Process]:
    """Have a shell carry out lines; what still runs is ended."""
    bin_ = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as temporary:  # not in `folder`: the paths of sockets must be short
        process = await asyncio.create_subprocess_shell(
            "set -e\n" + "\n".join(lines), stdout=PIPE, stderr=STDOUT, cwd=TOP, start_new_session=True,
            env={**environment(folder), **env, "PATH": f"{bin_}:{os.environ['PATH']}", "TMPDIR": temporary},
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


@pytest.mark.slow
async def test_make_demo(tmp_path: Path) -> None:
    """`make demo` shows checkpoints arriving, and how to look."""
    async with _typed(["make demo"], tmp_path) as demo:
        printed = await _reads(demo, "train loss")
        assert "psql" in printed


async def test_with_a_real_key(provider: Provider, empty_url: str, tmp_path: Path) -> None:
    """The lines for a real key track a job and poll it into an embedded PostgreSQL; those for a database migrate it."""
    provider.checkpoints[JOB] = page([checkpoint(1)])
    embedded, own = README.blocks("sh", "Use it with a real key")
    typed = [
        line.replace("ftjob-…", JOB).replace("KEY=…", "KEY=any")
        for line in embedded.splitlines() if not line.startswith("python3 -m ")
    ]  # fmt: skip
    async with _typed(typed, tmp_path, OPENAI_BASE_URL=provider.url) as process:
        printed = await _reads(process, "poll.changed")
        assert "1 job tracked (1 new)" in printed
        assert "using the embedded PostgreSQL" in printed
        os.killpg(process.pid, signal.SIGTERM)
        await _reads(process, "daemon.stopped")
    typed = [line.replace("postgresql://…", f"'{empty_url}'") for line in own.splitlines()]
    async with _typed(typed, tmp_path, OPENAI_API_KEY="any") as process:
        assert "applied 0001_initial" in await _reads(process, "applied")
    sql = await asyncpg.connect(empty_url)
    (query,) = README.blocks("sql")
    assert [] == await sql.fetch(query)
    await sql.close()


@pytest.mark.parametrize("line", SIMULATOR.commands("The simulated provider")[:3])
async def test_ways_to_simulate(line: str, tmp_path: Path) -> None:
    """Each way to call `simulate` prints how to reach it; on a free port here, because the usual one may be in use."""
    words = "base_url" if "azure" in line else "export OPENAI_BASE_URL=http://127.0.0.1:"
    async with _typed([f"exec {line} --port 0"], tmp_path) as process:
        await _reads(process, words)
        process.terminate()
        assert 0 == await asyncio.wait_for(process.wait(), 60)


async def test_simulated_provider(url: str, tmp_path: Path) -> None:
    """The printed variables lead a daemon to the simulated provider, as the document describes it."""
    simulate, *_, run = SIMULATOR.commands("The simulated provider")
    async with _typed([f"exec {simulate} --port 0"], tmp_path) as provider:
        export = (await _reads(provider, "export")).strip()
        (example,) = SIMULATOR.blocks("", "The simulated provider")
        assert re.sub(r":\d+/", ":8788/", export) == example.strip()
        async with _typed([export, f"exec env {run}"], tmp_path, CHECKPOINTD_DATABASE_URL=url) as daemon:
            await _reads(daemon, "job_list.changed")


def test_dashboards_are_installed(tmp_path: Path) -> None:
    """The lines for Grafana copy the dashboards to the folder that the provisioning names."""
    grafana = TOP / "config" / "grafana"
    lines = [line.replace("/etc/grafana", str(tmp_path)) for line in Document("config/grafana/README.md").commands()]
    subprocess.run(["sh", "-eu", "-c", "\n".join(lines)], cwd=grafana, check=True)
    provider = (tmp_path / "provisioning" / "dashboards" / "checkpointd.yml").read_text()
    (folder,) = re.findall(r"path: /etc/grafana/(\S+)", provider)
    assert 3 == len(list((tmp_path / folder).glob("*.json")))
    assert (tmp_path / "provisioning" / "datasources" / "checkpointd.yml").exists()


def test_a_first_change() -> None:
    """The example of a first change works as it is described: its test passes after it, and the class is complete."""
    (case,), (branch,) = (DAEMON.blocks(language, "A first change") for language in ("text", "python"))
    case, branch = (textwrap.indent(block, "    ") for block in (case, branch))
    (statuses,) = re.findall(r"`(tests/provider/\w+\.py)`", DAEMON.sections["A first change"])
    (chosen,) = re.findall(r"test-unit ARGS='-k (\w+)'", DAEMON.sections["A first change"])
    (test,) = re.findall(rf"def ({chosen}\w*)", (TOP / statuses).read_text())
    package, table = "daemon/checkpointd", "STATUSES: list[tuple[Answer, ErrorClass, int]] = [\n"
    (last_line,) = re.findall(
        r"^    return .*BAD_REQUEST\n", (TOP / package / "provider/responses.py").read_text(), re.MULTILINE
    )
    edits = [
        Edit(statuses, "422, 451)", "422)"),
        Edit(statuses, table, f"{table}{case}"),
        Edit(
            f"{package}/domain/failure.py",
            '    INTERNAL = "internal"\n',
            '    INTERNAL = "internal"\n    LEGAL = "legal"\n',
        ),
        Edit(f"{package}/domain/failure.py", "ErrorClass.BAD_REQUEST})", "ErrorClass.BAD_REQUEST, ErrorClass.LEGAL})"),
        Edit(f"{package}/provider/responses.py", last_line, f"{branch}{last_line}"),
    ]
    passed, printed = try_out(edits, [f"{statuses}::{test}"])
    assert passed, printed
