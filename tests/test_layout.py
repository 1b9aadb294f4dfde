"""The rooms of the house: who imports whom, where SQL stands, what is at the top."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "daemon" / "checkpointd"

IMPORTS = {
    # pure
    "envelope": set(),
    "item": {"envelope"},
    "listing": {"envelope", "item"},
    "diff": {"item", "listing"},
    "cadence": set(),
    "failures": set(),
    "redaction": set(),
    "words": set(),
    "standing": {"words"},
    # PostgreSQL
    "address": set(),
    "reasons": {"redaction"},
    "queries": set(),
    "connecting": {"address", "queries", "reasons"},
    "store": {"connecting", "queries"},
    "migrations": {"connecting", "queries"},
    "write": {"cadence", "connecting", "diff", "item", "listing", "queries", "store"},
    "save": {"connecting", "item", "listing", "queries", "store", "write"},
    # HTTP
    "api": {"envelope", "failures", "redaction"},
    # at work
    "credentials": set(),
    "settings": {"credentials", "redaction"},
    "loading": {"address", "credentials", "redaction", "settings"},
    "process": set(),
    "systemd": set(),
    "observe": {"failures", "reasons", "redaction", "systemd", "write"},
    "gauges": {"connecting", "observe", "queries", "store"},
    "budget": {"api", "connecting", "store"},
    "service": {"api", "failures", "store"},
    "outbox": {"connecting", "failures", "observe", "save", "service", "store", "write"},
    "verdict": {"api", "cadence", "failures", "listing", "store", "write"},
    "poller": {
        "api", "budget", "cadence", "connecting", "failures", "observe", "outbox", "save", "service", "store",
        "verdict",
    },
    "jobs": {"cadence", "connecting", "envelope", "item", "queries", "save", "store", "write"},
    "discovery": {
        "api", "budget", "cadence", "connecting", "failures", "jobs", "observe", "outbox", "queries", "service",
        "store",
    },
    "metronome": set(),
    "watch": {"connecting", "observe", "queries", "reasons", "store", "systemd"},
    "pages": {"connecting", "queries", "standing", "store", "words"},
    "web": {"address", "connecting", "observe", "pages", "reasons", "store"},
    "wiring": {"api", "cadence", "discovery", "outbox", "poller", "redaction", "service", "settings", "store"},
    "check": {
        "address", "api", "connecting", "credentials", "embedded", "failures", "migrations", "queries", "reasons",
        "settings", "store", "wiring", "words",
    },
    "sync": {"api", "failures", "outbox", "wiring", "settings", "store", "write"},
    "daemon": {
        "api", "connecting", "discovery", "gauges", "metronome", "migrations", "observe", "poller", "reasons",
        "settings", "store", "systemd", "watch", "web", "wiring",
    },
    # what a person types
    "terminal": {"standing", "systemd", "words"},
    "embedded": {"queries"},
    "opening": {"connecting", "credentials", "embedded", "migrations", "reasons", "settings", "store", "terminal"},
    "choosing": {"opening", "settings", "store"},
    # for trying it out
    "simulator": set(),
    "demo": {"connecting", "daemon", "embedded", "queries", "settings", "simulator", "store", "words"},
}  # fmt: skip


def _imported(path: Path) -> set[str]:
    """Return the modules of ours that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "checkpointd":
            found |= {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("checkpointd."):
            found.add((node.module or "").split(".")[1])
    return found


def test_every_module_has_its_place() -> None:
    """Each module stands in the table above."""
    modules = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir() if path.suffix in {".py", ""}}
    assert {*IMPORTS, "__init__", "__main__"} == modules - {"__pycache__"}


@pytest.mark.parametrize("module", IMPORTS)
def test_imports_go_one_way(module: str) -> None:
    """A module imports just what the table says."""
    path = PACKAGE / f"{module}.py"
    files = [path] if path.exists() else list((PACKAGE / module).glob("*.py"))
    assert IMPORTS[module] == set().union(*map(_imported, files)) - {module}


def test_imports_have_no_circle() -> None:
    """The table has an order in which each module comes after those that it imports."""
    placed: set[str] = set()
    while rest := [m for m in IMPORTS if m not in placed]:
        ready = [m for m in rest if IMPORTS[m] <= placed]
        assert ready, f"a circle among {rest}"
        placed.update(ready)


def test_sql_stands_in_sql() -> None:
    """No statement stands in Python."""
    statement = re.compile(
        r"\b(select|insert into|update|delete from|create|alter|with)\b .* \b(from|set|values|table|as)\b"
    )
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and statement.match(node.value):
                pytest.fail(f"{path.name}:{node.lineno}")


def test_the_top_is_tidy() -> None:
    """At the top stand the prescribed folders and what the ecosystem expects."""
    allowed = {
        "pyproject.toml", "daemon", "sql", "config", "tests", "systemd", "README.md",
        "CHANGELOG.md", "LICENSE", "Makefile", "requirements.lock", ".ci", ".gitignore",
    }  # fmt: skip
    made = {".git", ".tools", ".venv", "dist", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    found = {path.name for path in TOP.iterdir() if not path.name.startswith(".venv-")}
    assert set() == found - allowed - made


def test_the_lock_names_no_address() -> None:
    """The lock pins every package by hash, and names no index."""
    lock = (TOP / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("--hash=sha256:" in package for package in re.split(r"\n(?=\S)", lock) if package.strip())
