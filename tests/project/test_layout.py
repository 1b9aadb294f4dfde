"""Structure: which package imports which, where SQL is, and what is at the top level."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import PACKAGE, TOP

IMPORTS: dict[str, set[str]] = {
    "domain": set(),
    "redaction": set(),
    "presentation": set(),
    "simulator": set(),
    "provider": {"domain", "redaction"},
    "postgres": {"domain", "redaction"},
    "settings": {"postgres.dsn", "provider.formats.presets", "redaction"},
    "telemetry": {"domain", "postgres", "redaction"},
    "polling": {"domain", "provider", "postgres", "telemetry"},
    "polling.setup": {"settings", "redaction"},
    "web": {"postgres", "telemetry", "presentation"},
    "webhooks": {"domain", "provider", "postgres", "telemetry"},
    "service": {"polling", "webhooks", "web", "telemetry", "postgres", "provider", "settings"},
    "cli": {
        "domain", "redaction", "presentation", "simulator", "provider", "postgres", "settings", "telemetry", "polling",
        "webhooks", "web", "service",
    },
    "__main__": {"cli"},
}  # fmt: skip
"""What each package may import: another package, or one module of it. `polling.setup` may import this in addition."""

LIBRARIES = {
    "asyncpg": {"postgres"},
    "aiohttp": {"provider", "web", "webhooks", "simulator"},
}
"""Libraries, and the packages that may import them."""

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def _imported(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it: ours without the leading `checkpointd.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            ours = {name.removeprefix("checkpointd.") for name in inner if name.startswith("checkpointd.")}
            found |= {name if name in MODULES else module.removeprefix("checkpointd.") for name in ours} or {module}
    return found


def _violations() -> set[str]:
    found = set()
    for module, path in MODULES.items():
        package = module.split(".")[0]
        allowed = IMPORTS[package] | IMPORTS.get(module, set())
        for imported in _imported(path) & MODULES.keys():
            other = imported.split(".")[0]
            if other != package and not allowed & {other, imported}:
                found.add(f"{module} -> {imported}")
        for imported in _imported(path):
            library = imported.split(".")[0]
            if package not in LIBRARIES.get(library, {package}):
                found.add(f"{module} -> {library}")
            if library in {"asyncio", "time", "os"} and package == "domain":
                found.add(f"{module} -> {library}")
        if package != "postgres" and "postgres.queries" in _imported(path):
            found.add(f"{module} -> postgres.queries")
    return found


def test_imports_point_downwards() -> None:
    """Each module imports only what the table allows its package, and libraries only where they belong."""
    assert set() == _violations()


@pytest.mark.parametrize("package", IMPORTS)
def test_imports_inside_a_package_have_no_circle(package: str) -> None:
    """The modules of a package have an order in which each comes after those that it imports."""
    inside = {name for name in MODULES if name.split(".")[0] == package}
    rest = {name: _imported(MODULES[name]) & inside for name in inside}
    while rest:
        ready = {name for name, imported in rest.items() if not imported & rest.keys()}
        assert ready, f"a circle among {sorted(rest)}"
        rest = {name: imported for name, imported in rest.items() if name not in ready}


def _constants(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the UPPER_CASE names that a module assigns at its top level, each with its value as source text."""
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [value]
            for name, assigned in zip(names, values, strict=True):
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id, ast.unparse(assigned)


def test_a_constant_has_one_value() -> None:
    """Constants of different modules have different names, or the same value. A leading underscore does not count."""
    values: dict[str, dict[str, str]] = defaultdict(dict)
    for module, path in MODULES.items():
        for name, value in _constants(path):
            values[name.lstrip("_")][f"{module}.{name}"] = value
    assert len(values) > 200, "the constants are not found"
    assert [] == [found for found in values.values() if len(set(found.values())) > 1]


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


def test_the_package_has_fifteen_entries() -> None:
    """The top level of the package has eleven packages and four modules."""
    packages = {
        "domain",
        "provider",
        "postgres",
        "settings",
        "telemetry",
        "polling",
        "service",
        "web",
        "webhooks",
        "cli",
        "simulator",
    }
    modules = {"__init__.py", "__main__.py", "redaction.py", "presentation.py"}
    assert packages | modules == {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}


def test_no_module_is_long() -> None:
    """No module has more than 300 lines, and the entry point has fewer than 130."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {} == {name: length for name, length in lengths.items() if length > 300}
    assert lengths["__main__"] < 130
