"""How fast does checkpointd poll and store, and what does that cost, compared with the floor?

`make bench` prints the table. The contenders take turns. Figures are medians of the rounds; ratios are medians of those
of each round.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from benchmarks.page_server import serving_pages
from benchmarks.pages import Pages
from benchmarks.passes import CHECKPOINTD, CONTENDERS, FLOOR, Bench, Contender, Pass
from support.servers import Server, binaries


class Goals(NamedTuple):
    """The least rate and the most CPU time, as ratios to those of the floor; and the most memory in megabytes."""

    rate: float = 0.0
    cpu: float = math.inf
    memory: float = math.inf

    def __str__(self) -> str:
        """Return those that are set, as the table shows them."""
        texts = [f"rate ≥ {self.rate:g}", f"CPU ≤ {self.cpu:g}", f"memory ≤ {self.memory:g} MB"]
        return ", ".join(text for text, value, unset in zip(texts, self, Goals(), strict=True) if value != unset)


class Work(NamedTuple):
    """A row of the table."""

    name: str
    is_backfill: bool = False
    """True if each pass begins with an empty database. Its start-up counts, because it is waited for."""
    news: float = 0.0
    """The share of the jobs that have one more checkpoint before each pass."""
    others: int = 0
    """How many checkpoints of other jobs are stored."""
    goals: Goals = Goals()


class Size(NamedTuple):
    """How much is measured. The first two are jobs and the checkpoints of each."""

    backfill: tuple[int, int] = (1000, 100)
    polls: tuple[int, int] = (10_000, 20)
    others: int = 1_000_000
    rounds: int = 5


class Outcome(NamedTuple):
    """The passes of the floor and of checkpointd for one work, by round; and the polls and rows of each pass."""

    work: Work
    floor: list[Pass]
    ours: list[Pass]
    polls: int
    rows: int

    @property
    def rate(self) -> float:
        """The rate, as a ratio to that of the floor."""
        return median(floor.seconds / ours.seconds for floor, ours in zip(self.floor, self.ours, strict=True))

    @property
    def cpu(self) -> float:
        """The CPU time, as a ratio to that of the floor."""
        return median(ours.cpu / floor.cpu for floor, ours in zip(self.floor, self.ours, strict=True))

    @property
    def memory(self) -> float:
        """The largest resident memory in megabytes."""
        return median(ours.memory for ours in self.ours)

    @property
    def missed(self) -> list[str]:
        """The goals that are missed."""
        goals = self.work.goals
        found = {"rate": self.rate < goals.rate, "CPU": self.cpu > goals.cpu, "memory": self.memory > goals.memory}
        return [name for name, is_missed in found.items() if is_missed]


QUIET: Final = Goals(rate=0.75, cpu=1.3, memory=75)


def works(others: int) -> list[Work]:
    """Return the rows of the table, in the order in which they are measured: the last one empties the databases."""
    return [
        Work("quiet polls", goals=QUIET),
        Work("polls, 1 % with news", news=0.01),
        Work(f"quiet polls beside {others:,} other checkpoints", others=others),
        Work("backfill", is_backfill=True, goals=Goals(rate=0.75, memory=120)),
    ]


def measure(chosen: Sequence[Work], size: Size, *, own_server: bool = False) -> Iterator[Outcome]:
    """Measure these works. Raises AssertionError if a contender stores something else than what is listed."""
    with _servers(own_server=own_server) as (bench, folder):
        polls, backfill = Pages(folder, "polls", *size.polls), Pages(folder, "backfill", *size.backfill)
        for contender in CONTENDERS:
            bench.prepare(contender, polls)
            bench.measure(contender, polls, polls.ids)
        for work in chosen:
            yield _measure(bench, work, backfill if work.is_backfill else polls, size.rounds)


def profile(size: Size, *, own_server: bool = False) -> list[tuple[str, float]]:
    """Return the packages in which quiet polls spend at least a percent of their time, and their shares."""
    with _servers(own_server=own_server) as (bench, folder):
        lists = Pages(folder, "polls", *size.polls)
        bench.prepare(CHECKPOINTD, lists)
        bench.measure(CHECKPOINTD, lists, lists.ids)
        return [(package, share) for package, share in bench.profile(lists).items() if share >= 0.01]


def _measure(bench: Bench, work: Work, lists: Pages, rounds: int) -> Outcome:
    passes: dict[Contender, list[Pass]] = {contender: [] for contender in CONTENDERS}
    if work.others:
        for contender in CONTENDERS:
            bench.add_others(contender, work.others)
    for number in range(rounds):
        if work.news:
            lists.add(work.news)
        for contender in CONTENDERS if number % 2 else reversed(CONTENDERS):
            if work.is_backfill:
                bench.prepare(contender, lists)
                passes[contender].append(bench.measure(contender, lists, lists.ids))
            else:
                start_up = bench.measure(contender, lists, [])
                passes[contender].append(bench.measure(contender, lists, lists.ids).after(start_up))
            bench.check(contender, lists)
    return Outcome(work, passes[FLOOR], passes[CHECKPOINTD], len(lists.ids), lists.truth[0])


@contextmanager
def _servers(*, own_server: bool) -> Iterator[tuple[Bench, Path]]:
    """Run PostgreSQL, with its default durability, and a server of pages. Yields the folder of the pages, too."""
    with tempfile.TemporaryDirectory(prefix="checkpointd-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        postgres = Server(folder / "postgres", binaries())
        postgres.initdb(shared_preload_libraries="pg_stat_statements")
        postgres.configure(fsync="on")
        postgres.start()
        try:
            with serving_pages(folder, own=own_server) as pages:
                bench = Bench(folder, pages, postgres)
                bench.sql("postgres", "create extension pg_stat_statements")
                yield bench, folder
        finally:
            postgres.stop()


HEAD: Final = """\
| work | per second | CPU per poll | requests, statements, transactions per poll | memory | goals | |
| --- | --- | --- | --- | --- | --- | --- |"""


def row(outcome: Outcome) -> str:
    """Return a row of the table: what checkpointd did, and the ratios to the floor in brackets."""
    work, polls = outcome.work, outcome.polls
    units, unit = (outcome.rows, "rows") if work.is_backfill else (polls, "polls")
    rate = median(units / one.seconds for one in outcome.ours)
    cpu = median(one.cpu for one in outcome.ours) / polls * 1000
    counts = [median(counts) / polls for counts in zip(*(one.counters for one in outcome.ours), strict=True)]
    cells = [
        work.name,
        f"{rate:,.0f} {unit} ({outcome.rate:.2f})",
        f"{cpu:.3f} ms ({outcome.cpu:.2f})",
        ", ".join(f"{count:.2g}" for count in counts),
        f"{outcome.memory:.0f} MB ({outcome.memory / median(one.memory for one in outcome.floor):.2f})",
        str(work.goals),
        f"missed: {', '.join(outcome.missed)}" if outcome.missed else "met" if work.goals != Goals() else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table. Exits with 1 if a goal is missed."""
    size = Size()
    parser = argparse.ArgumentParser(description="Measures checkpointd, and compares it with the floor.")
    parser.add_argument("--rounds", type=int, default=size.rounds)
    parser.add_argument("--work", default="", help="only the rows whose names contain this")
    parser.add_argument("--profile", action="store_true", help="only show where the time of quiet polls is spent")
    parser.add_argument("--own-server", action="store_true", help="use the small server, even if nginx is installed")
    args = parser.parse_args()
    if args.profile:
        for package, share in profile(size, own_server=args.own_server):
            print(f"{package} {share:.0%}")
        return
    chosen = [work for work in works(size.others) if args.work in work.name]
    print(HEAD)
    missed = False
    for outcome in measure(chosen, size._replace(rounds=args.rounds), own_server=args.own_server):
        print(row(outcome), flush=True)
        missed |= bool(outcome.missed)
    sys.exit(missed)


if __name__ == "__main__":
    main()
