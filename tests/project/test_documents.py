"""The documents hang together: links, paths and names in them lead somewhere, and what they show is run by a test."""

import re
from typing import Any

import asyncpg
import pytest
from typer.main import get_command

from checkpointd.cli.app import app
from checkpointd.settings.environment import PREFIX
from checkpointd.settings.model import Settings
from support.documents import Document, documents
from support.paths import PACKAGE, TOP

DOCUMENTS = documents()
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=[document.name for document in DOCUMENTS])

README_LINES = 150
LINE_CHARACTERS = 120

RUN = {
    ("README.md", "Try it"): "tests/project/test_readme.py::test_make_demo",
    ("README.md", "Use it with a real key"): "tests/project/test_readme.py::test_with_a_real_key",
    **{("config/README.md", section): "tests/service/test_examples_of_settings.py::test_the_example_works"
       for section in ("Settings", "Discovery", "Short-lived keys", "Other secrets", "Examples")},
    **{("config/README.md", provider): "tests/polling/test_providers.py::test_documented_settings"
       for provider in ("OpenAI", "Azure OpenAI", "Amazon Bedrock", "Nebius", "Other providers with OpenAI's API",
                        "CoreWeave and W&B", "Together", "Tinker", "Microsoft Foundry")},
    ("config/grafana/README.md", "Install them"): "tests/project/test_readme.py::test_dashboards_are_installed",
    ("daemon/README.md", "A first change"): "tests/project/test_readme.py::test_a_first_change",
    ("daemon/checkpointd/simulator/README.md", "The simulated provider"):
        "tests/project/test_readme.py::test_simulated_provider",
    ("daemon/checkpointd/webhooks/README.md", "Slack"): "tests/webhooks/test_recipes.py::test_slack",
    ("daemon/checkpointd/webhooks/README.md", "A receiver in ten lines"):
        "tests/webhooks/test_recipes.py::test_a_receiver",
    ("daemon/checkpointd/webhooks/README.md", "Messages"): "tests/webhooks/test_recipes.py::test_messages",
    ("daemon/checkpointd/simulator/README.md", "Receive webhooks"):
        "tests/webhooks/test_recipes.py::test_simulated_receiver",
    ("sql/OPERATING.md", "Roles"): "tests/postgres/test_roles.py::test_documented_logins",
    ("sql/OPERATING.md", "Without CREATEROLE"): "tests/postgres/test_roles.py::test_documented_without_createrole",
    ("sql/OPERATING.md", "What readers can do to the daemon"):
        "tests/postgres/test_roles.py::test_open_rights_are_reported",
    ("sql/OPERATING.md", "Backup"): "tests/postgres/test_backup.py::test_backup_and_restore",
    ("systemd/README.md", "Install"): "tests/service/test_systemd.py::test_from_a_wheel_to_a_running_unit",
    ("systemd/README.md", "Operate"): "tests/service/test_systemd.py::test_from_a_wheel_to_a_running_unit",
    ("systemd/README.md", "Upgrade"): "tests/service/test_systemd.py::test_upgrade",
    ("sql/README.md", "BI tools and data frames"): "tests/postgres/test_bi_tools.py::test_polars",
    **{
        ("sql/README.md", section): "tests/postgres/test_guide.py::test_answers"
        for section in Document("sql/README.md").sections if re.match(r"\d+\. ", section)
    },
}  # fmt: skip
"""The sections with code, and the test that runs it."""

LEFT_OUT = {
    "make test": "it is what runs this",
    "make test-unit": "it runs a part of the same tests",
    "make test ARGS='-k gone'": "it runs a part of the same tests",
    "make test-unit ARGS='-x -k cadence'": "it runs a part of the same tests",
    "make test-unit ARGS='-k test_each_status'": "test_a_first_change runs this test after the change",
    "make test ARGS='-k test_error_classes'": "it runs a part of the same tests",
    "make check": "it runs the same tests",
    "python3 -m venv ~/checkpointd && . ~/checkpointd/bin/activate": "it writes into the home of the user",
    "python3 -m pip install 'checkpointd[embedded]'": "tests/project/check_wheel.sh installs the wheel",
    "ssh -L 8787:127.0.0.1:8787 the-machine": "needs another machine",
}
"""The shell lines that no test runs, and the reason."""

NOT_HERE = {
    "credentials/azure_key": "a file of the service's machine",
    "dist/": "made by `make wheel`",
    ".venv/bin/checkpointd": "made by `make demo` and `make test`",
}
"""Paths in documents that are not in the repository, and the reason."""


def test_the_readme_is_short() -> None:
    """The README has at most 150 lines: what is longer has a document of its own."""
    assert len(Document("README.md").text.splitlines()) <= README_LINES


@EACH
def test_lines_are_short(document: Document) -> None:
    """No line of text is longer than 120 characters, but for rows of tables."""
    lines = [line for line in document.prose.splitlines() if not line.startswith("|")]
    assert [] == [line for line in lines if len(line) > LINE_CHARACTERS]


@EACH
def test_links_lead_somewhere(document: Document) -> None:
    """Each link leads to a file or folder of the repository, and each anchor to a section of it."""
    for link in document.links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (document.path.parent / target).resolve() if target else document.path
        assert path.exists(), link
        assert path.is_relative_to(TOP), link
        if anchor:
            assert anchor in Document(str(path.relative_to(TOP))).anchors, link


def test_the_readme_leads_to_every_document() -> None:
    """Each document can be reached from the README by links."""
    found, left = {"README.md"}, ["README.md"]
    while left:
        document = Document(left.pop())
        targets = ((document.path.parent / link.partition("#")[0]).resolve() for link in document.links)
        names = {str(path.relative_to(TOP)) for path in targets if path.suffix == ".md" and path.is_relative_to(TOP)}
        left += names - found
        found |= names
    assert {document.name for document in DOCUMENTS} == found


@EACH
def test_paths_exist(document: Document) -> None:
    """Each file and folder that a document names exists."""
    folders = (document.path.parent, TOP, PACKAGE, TOP / "sql" / "queries", TOP / "tests" / "support")
    pattern = re.compile(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+/|[\w-]+\.(py|sql|md|yml|toml|sh|json|service)")
    for word in document.words:
        if pattern.fullmatch(word) and word not in NOT_HERE:
            assert any((folder / word).exists() for folder in folders), word


def test_names_in_modules_exist() -> None:
    """What a document names in a module, such as `domain/listing.py` (`digest`), is defined there."""
    named = [found for document in DOCUMENTS for found in re.findall(r"`(\w+/\w+\.py)`\s\(`(\w+)`\)", document.prose)]
    assert named
    for module, name in named:
        text = (PACKAGE / module).read_text()
        assert re.search(rf"^ *(async )?(def|class) {name}\b|^{name}\b", text, flags=re.MULTILINE), (module, name)
    code = "".join(path.read_text() for folder in (PACKAGE, TOP / "tests") for path in folder.rglob("*.py"))
    constants = {word for word in Document("daemon/README.md").words if re.fullmatch(r"_?[A-Z]{5,}(_[A-Z]+)*", word)}
    for name in constants - {"LEGAL"}:  # of the example
        assert name.startswith(PREFIX) or re.search(rf"^ *{name}\b", code, flags=re.MULTILINE), name


def test_tests_exist() -> None:
    """Each test that a document names exists: by its file and name, or as what `-k` chooses."""
    for document in DOCUMENTS:
        for file, test in re.findall(r"`([\w/]+\.py)::(\w+)`", document.text):
            assert f"def {test}(" in (TOP / "tests" / file).read_text(), test
        for words in re.findall(r"ARGS='.*?-k (\w+)", document.text):
            files = (TOP / "tests").rglob("test_*.py")
            assert any(words in path.stem or re.search(rf"def \w*{words}", path.read_text()) for path in files)


def test_commands_exist() -> None:
    """Each command and each make target that a document names exists."""
    commands: Any = getattr(get_command(app), "commands")  # noqa: B009  # click's type has it only on groups
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"`checkpointd ([a-z]+)", document.prose)
        named += re.findall(r"^(?:.*bin/)?checkpointd ([a-z]+)", "\n".join(document.commands()), flags=re.MULTILINE)
        assert set() == set(named) - set(commands), document.name
        made = re.findall(r"`make ([a-z-]+)", document.prose)
        made += re.findall(r"^make ([a-z-]+)", "\n".join(document.commands()), flags=re.MULTILINE)
        assert set() == set(made) - targets, document.name


def test_settings_exist() -> None:
    """Each variable that a document names is a setting."""
    known = {f"{PREFIX}{name.upper()}" for name in (*Settings.model_fields, "config")}
    known |= {"CHECKPOINTD_READER_PASSWORD"}  # Grafana's
    for document in DOCUMENTS:
        assert set() == set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", document.text)) - known, document.name


async def test_columns_exist(sql: asyncpg.Connection) -> None:
    """Each column that a document names with its view, such as `freshness.lag`, exists."""
    rows = await sql.fetch(
        "select table_name, column_name from information_schema.columns where table_schema = 'fine_tuning'"
    )
    columns = {(row["table_name"], row["column_name"]) for row in rows}
    views = "|".join({view for view, _ in columns})
    for document in DOCUMENTS:
        named = re.findall(rf"`(?:fine_tuning\.)?({views})\.(?!py`)(\w+)`", document.prose)
        assert set() == set(named) - columns, document.name


@EACH
def test_what_is_shown_is_run(document: Document) -> None:
    """Each section with shell, SQL, TOML or Python is run by the test that RUN names, but for lines left out."""
    for section in document.sections:
        code = [block for language in ("sql", "toml", "python") for block in document.blocks(language, section)]
        lines = [line for line in document.commands(section) if line not in LEFT_OUT]
        if code or lines:
            file, _, test = RUN[document.name, section].partition("::")
            assert f"def {test}(" in (TOP / file).read_text(), test


def test_the_list_of_what_is_run_is_right() -> None:
    """RUN names sections that have code, and LEFT_OUT lines that are shown."""
    shown = {line for document in DOCUMENTS for line in document.commands()}
    assert set() == LEFT_OUT.keys() - shown
    for name, section in RUN:
        assert "```" in Document(name).sections[section], (name, section)
    for path in NOT_HERE:
        assert any(path in document.words for document in DOCUMENTS), path
