"""The planted mistakes can still be made, and the tests' README tells of each."""

import re
import shutil
from pathlib import Path

import pytest

from project.planted import PLANTED, TOP, Planted, plant


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
    """The README of the tests names each planted mistake and the test that catches it, and no other."""
    rows = re.findall(r"^\| (.+?) \| .+ \| `(.+?)` \|$", (TOP / "tests" / "README.md").read_text(), flags=re.MULTILINE)
    assert [(planted.name, planted.test.removeprefix("tests/")) for planted in PLANTED] == rows


def test_every_file_has_its_line() -> None:
    """The README of the tests names each file that holds tests or is shared by them."""
    tests = TOP / "tests"
    named = set(re.findall(r"`([\w/]+\.(?:py|sh))`", (tests / "README.md").read_text()))
    found = {str(path.relative_to(tests)) for path in tests.rglob("*.[ps][yh]") if "faults" not in path.parts}
    assert set() == found - named
