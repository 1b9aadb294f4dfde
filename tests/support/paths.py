"""Folders of the repository."""

from pathlib import Path

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "daemon" / "checkpointd"
DATA = TOP / "tests" / "data"
RECORDED = DATA / "recorded"
