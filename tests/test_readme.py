"""The README is true: its tables are complete, and its commands exist."""

import re
from pathlib import Path

import asyncpg
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from checkpointd import figures
from checkpointd.__main__ import app
from checkpointd.observe import REGISTRY
from checkpointd.settings import PREFIX, Settings, Source

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()


def _section(title: str) -> str:
    return re.split(r"^## ", README, flags=re.MULTILINE)[1:][
        [part.splitlines()[0] for part in re.split(r"^## ", README, flags=re.MULTILINE)[1:]].index(title)
    ]


def _first_cells(title: str) -> list[str]:
    """Return the code words of the first column of the tables in a section."""
    rows = re.findall(r"^\| (`.*?) \|", _section(title), flags=re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]*)`", row)]


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
    """Each command stands in the README, and no other."""
    commands = getattr(get_command(app), "commands")  # noqa: B009  # click's type has it only on groups
    assert set(commands) == {words.split()[1] for words in _first_cells("Commands")}


async def test_views(sql: asyncpg.Connection) -> None:
    """Each view stands in the README, and no other."""
    rows = await sql.fetch("select viewname from pg_views where schemaname = 'fine_tuning'")
    assert {row["viewname"] for row in rows} == set(_first_cells("Views"))


def test_metrics() -> None:
    """Each metric stands in the README with its labels, and no other."""
    section = _section("Metrics and alerts")
    suffix = {"counter": "_total", "info": "_info"}
    shown = {
        of._name + suffix.get(of._type, ""): ", ".join(of._labelnames)
        for of in REGISTRY._collector_to_names
        if isinstance(of, MetricWrapperBase)
    }
    told = dict(re.findall(r"^\| `(checkpointd_\w+)` \| (.*?) ?\|", section, flags=re.MULTILINE))
    assert shown | {"checkpointd_build_info": "version"} == told
    assert f"read each {figures.GAP_SECONDS:g} s" in section


def test_make_targets() -> None:
    """The README's make targets exist."""
    makefile = (TOP / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_settings_file_is_annotated_completely() -> None:
    """The annotated settings file names every setting and every key of a source."""
    text = (TOP / "config" / "checkpointd.toml").read_text()
    for name in [*Settings.model_fields, *Source.model_fields]:
        assert re.search(rf"^# \[?\[?{name}\b", text, flags=re.MULTILINE), name
