"""The planted mistakes can still be made, and the README of the tests describes them and the folders."""

import re
import shutil
from pathlib import Path

import pytest

from project.planted import PLANTED, TOP, Planted, plant
from support.documents import Document

README = Document("tests/README.md")


@pytest.mark.parametrize("planted", PLANTED, ids=[planted.name for planted in PLANTED])
def test_can_be_planted(planted: Planted, tmp_path: Path) -> None:
    """The text that a mistake replaces stands just once, and the test that catches it exists."""
    for file in {edit.file for edit in planted.edits}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / file, tmp_path / file)
    plant(planted.edits, tmp_path)
    file, _, test = planted.test.partition("::")
    assert f"def {test}(" in (TOP / file).read_text()


def test_the_table_is_true() -> None:
    """The README of the tests describes each planted mistake and names the test that catches it, and no other."""
    rows = [(name, test.strip("`")) for name, _, test in README.rows("Planted mistakes")]
    assert [(planted.name, planted.test.removeprefix("tests/")) for planted in PLANTED] == rows


def test_every_target_has_its_line() -> None:
    """The README of the tests describes each make target, but for those that test nothing."""
    targets = re.findall(r"^([a-z-]+):.*## ", (TOP / "Makefile").read_text(), flags=re.MULTILINE)
    documented = [words.removeprefix("make ") for words in README.first_words("Run them")]
    assert set(targets) - {"help", "demo", "lock", "wheel", "clean"} == set(documented) - {"lint"}


def test_every_folder_has_its_line() -> None:
    """The README of the tests describes each folder of tests and each file that they share, and no other."""
    tests = TOP / "tests"
    folders = {
        f"{path.relative_to(tests)}/" for path in [*tests.iterdir(), tests / "service" / "faults"] if path.is_dir()
    }
    assert folders - {"support/", "__pycache__/"} == set(README.first_words("Folders"))
    shared = {path.name for path in (tests / "support").iterdir() if path.is_file()}
    assert shared == set(README.first_words("Shared helpers"))
