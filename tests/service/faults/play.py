"""A play: faults of one kind in a given amount, by a seed, and a line of results.

`python tests/service/faults/play.py FILE…` prints the table of the results in these files, in Markdown.
"""

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

HARM = ("lost", "duplicated", "half-written", "wrong job", "other")
"""The kinds of harm that are counted. The last one is whatever else must not happen, such as a false success."""

COLUMNS = ("play", "amount", "seeds", "rounds", "failed", *HARM, "recovery p99", "recovery max", "time")


@dataclass
class Play:
    """One round of a play. The test makes so many faults, and records what happened."""

    name: str
    seed: int
    amount: int
    """How many faults, or inputs, or seconds."""
    made: int = 0
    """How many were made."""
    violations: Counter[str] = field(default_factory=Counter)
    """The rows that violate an invariant, by kind of harm."""
    recoveries: list[float] = field(default_factory=list)
    """The seconds from the end of each fault, or of the last one, until everything worked again."""

    @classmethod
    def of(cls, marker: Any, amount: str, seed: int) -> Self:
        """Return a round of a play, by its marker. `amount` is FAULT_AMOUNT: `long`, a number, or empty."""
        sizes = marker.kwargs
        return cls(marker.args[0], seed, {"": sizes["short"], "long": sizes["round"]}.get(amount) or int(amount))

    def write(self, results: Path, *, passed: bool, seconds: float) -> None:
        """Add the line of results to a file."""
        results.parent.mkdir(parents=True, exist_ok=True)
        counted = {kind: self.violations[kind] for kind in HARM}
        recoveries = [round(value, 3) for value in self.recoveries]
        line = {"play": self.name, "seed": self.seed, "amount": self.made, "passed": passed, **counted}
        with results.open("a") as file:
            file.write(json.dumps({**line, "recoveries": recoveries, "seconds": round(seconds, 1)}) + "\n")


def rounds_of(marker: Any, amount: str) -> int:
    """Return how many rounds the long run has of a play, or 1 for another amount."""
    return math.ceil(marker.kwargs["long"] / marker.kwargs["round"]) if amount == "long" else 1


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Return the table of results, one row for each play, in Markdown."""
    plays = defaultdict(list)
    for line in lines:
        plays[line["play"]].append(line)
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(name, rounds) for name, rounds in plays.items())]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _row(name: str, rounds: list[dict[str, Any]]) -> tuple[object, ...]:
    seeds = sorted({line["seed"] for line in rounds})
    is_run = len(seeds) > 1 and seeds[-1] - seeds[0] == len(seeds) - 1
    recoveries = sorted(value for line in rounds for value in line["recoveries"])
    p99 = f"{recoveries[math.ceil(0.99 * len(recoveries)) - 1]:.1f} s" if recoveries else ""
    return (
        name,
        f"{sum(line['amount'] for line in rounds):,}",
        f"{seeds[0]} to {seeds[-1]}" if is_run else " ".join(map(str, seeds)),
        len(rounds),
        sum(not line["passed"] for line in rounds),
        *(sum(line[kind] for line in rounds) for kind in HARM),
        p99,
        f"{recoveries[-1]:.1f} s" if recoveries else "",
        f"{sum(line['seconds'] for line in rounds) / 60:.1f} min",
    )


if __name__ == "__main__":
    found = (path.read_text().splitlines() for path in map(Path, sys.argv[1:]) if path.exists())
    print(table(json.loads(line) for lines in found for line in lines))  # noqa: T201  # it is a program
