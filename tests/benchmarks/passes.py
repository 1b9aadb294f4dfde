"""Let checkpointd, or the floor, pass over jobs once, and measure what the pass takes.

Both are programs that read the ids of the jobs from standard input. They are measured from outside: the time and the
memory of their process, and the counters of the servers that they use.
"""

import asyncio
import os
import pstats
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg

from benchmarks.page_server import PageServer
from benchmarks.pages import Pages
from support.paths import PACKAGE, TOP
from support.servers import Server

PROGRAM: Final = str(Path(sys.executable).with_name("checkpointd"))


PROFILED: Final = """
import cProfile, sys
from checkpointd.cli.app import app
file = sys.argv.pop(1)
cProfile.run("app(standalone_mode=False)", file)
"""
"""The program checkpointd, which writes a profile of itself to the file that is its first argument."""


class Contender(NamedTuple):
    """A program, and how it stores checkpoints."""

    name: str
    command: Sequence[str]
    setup: Sequence[Sequence[str]]
    """The commands that prepare an empty database."""
    stored: str
    """The table or view with the ids and steps of checkpoints, by the ids of their jobs."""
    table: str
    add_others: str
    """Adds {count} checkpoints of other jobs to the table, with ids in random order, as real ones come."""


FLOOR: Final = Contender(
    "floor",
    (sys.executable, "-m", "benchmarks.floor"),
    (),
    "checkpoints",
    "checkpoints",
    """
    insert into checkpoints
    select md5(i::text), 'ftjob-other-' || i / 100, 'ft:model:' || i, 1793491200 + i, i % 100, i, 0.1, 0.2, 0.3, 0.4
    from generate_series(1, {count}) as i
    """,
)
CHECKPOINTD: Final = Contender(
    "checkpointd",
    (PROGRAM, "sync", "-"),
    ((PROGRAM, "migrate"), (PROGRAM, "track", "-")),
    "fine_tuning.checkpoints",
    "checkpointd.checkpoints",
    """
    insert into checkpointd.checkpoints (
      job, id, step_number, created_at, fine_tuned_model_checkpoint, step, train_loss, train_mean_token_accuracy,
      valid_loss, valid_mean_token_accuracy, payload
    )
    select 1000000 + i / 100, md5(i::text), i % 100, 1793491200 + i, 'ft:model:' || i, i, 0.1, 0.2, 0.3, 0.4, '{{}}'
    from generate_series(1, {count}) as i
    """,
)
CONTENDERS: Final = (FLOOR, CHECKPOINTD)


class Counters(NamedTuple):
    """What servers count."""

    requests: int
    statements: int
    transactions: int

    def since(self, before: "Counters") -> "Counters":
        """Return what was counted since then."""
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


class Pass(NamedTuple):
    """What a pass took: seconds, seconds of CPU time, and the largest resident memory in megabytes."""

    seconds: float
    cpu: float
    memory: float
    counters: Counters

    def after(self, start_up: "Pass") -> "Pass":
        """Return what the pass took after its start-up, which a pass over no jobs shows. The memory is the same."""
        counters = self.counters.since(start_up.counters)
        return Pass(self.seconds - start_up.seconds, self.cpu - start_up.cpu, self.memory, counters)


class Bench:
    """The servers, with a database for each contender."""

    def __init__(self, folder: Path, pages: PageServer, postgres: Server) -> None:
        """`folder` is for the output of the programs."""
        self._folder = folder
        self._log = folder / "programs.log"
        self._pages = pages
        self._postgres = postgres

    def prepare(self, contender: Contender, lists: Pages) -> None:
        """Give a contender an empty database. What its user does once is not measured."""
        self.sql("postgres", f"drop database if exists {contender.name} with (force)")
        self.sql("postgres", f"create database {contender.name}")
        for command in contender.setup:
            process = self._start(command, contender, lists, lists.ids)
            assert process.wait() == 0, f"{' '.join(command)} failed: see {self._log}"

    def add_others(self, contender: Contender, count: int) -> None:
        """Add checkpoints of other jobs."""
        self.sql(contender.name, contender.add_others.format(count=count))
        self.sql(contender.name, f"vacuum analyze {contender.table}")
        self.sql("postgres", "checkpoint")

    def measure(self, contender: Contender, lists: Pages, ids: Sequence[str]) -> Pass:
        """Let a contender pass over the jobs with these ids."""
        before = self._counters(contender)
        started = time.perf_counter()
        process = self._start(contender.command, contender, lists, ids)
        with _watched_memory(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)  # unlike wait(), it returns the CPU time
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{contender.name} failed: see {self._log}"
        counters = self._counters(contender).since(before)
        own_requests = 1  # the one for the counter
        counters = counters._replace(requests=counters.requests - own_requests)
        return Pass(seconds, usage.ru_utime + usage.ru_stime, peak[-1] / 1000, counters)

    def profile(self, lists: Pages) -> dict[str, float]:
        """Return the shares of packages in the time of a pass of checkpointd, without its start-up, by cProfile."""
        file, spent = self._folder / "profile", Counter[str]()
        command = (sys.executable, "-c", PROFILED, str(file), *CHECKPOINTD.command[1:])
        for ids, sign in ((lists.ids, 1), ([], -1)):
            process = self._start(command, CHECKPOINTD, lists, ids)
            assert process.wait() == 0, f"the profile failed: see {self._log}"
            for package, seconds in _seconds_by_package(file).items():
                spent[package] += sign * seconds
        return {package: seconds / spent.total() for package, seconds in spent.most_common()}

    def check(self, contender: Contender, lists: Pages) -> None:
        """Raise AssertionError unless a contender has stored what is listed."""
        (row,) = self.sql(
            contender.name,
            f"""
            select count(*), sum(step_number)::bigint from {contender.stored}
            where fine_tuning_job_id like 'ftjob-{lists.name}-%'
            """,
        )
        assert lists.truth == tuple(row), f"{contender.name} has not stored what is listed"

    def sql(self, database: str, query: str) -> list[asyncpg.Record]:
        """Run a query."""

        async def fetch() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self._url(database))
            try:
                return await connection.fetch(query)
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def _url(self, database: str) -> str:
        return f"{self._postgres.url.rpartition('/')[0]}/{database}"

    def _start(
        self, command: Sequence[str], contender: Contender, lists: Pages, ids: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "CHECKPOINTD_DATABASE_URL": self._url(contender.name),
            "OPENAI_BASE_URL": self._pages.api(lists.name),
            "OPENAI_API_KEY": "key-of-the-benchmark" * 8,  # as long as OpenAI's: ids can contain a short one, encoded
        }
        given = self._folder / "ids"
        given.write_text("".join(f"{one}\n" for one in ids))
        with given.open("rb") as stdin, self._log.open("ab") as log:
            return subprocess.Popen(command, stdin=stdin, stdout=log, stderr=log, env=variables, cwd=TOP / "tests")

    def _counters(self, contender: Contender) -> Counters:
        """Return the counters. Those of PostgreSQL are exact when the connections of the contender have ended."""
        name = contender.name
        while self.sql("postgres", f"select from pg_stat_activity where datname = '{name}'"):
            time.sleep(0.01)  # a connection that ends gives no event
        (row,) = self.sql(
            "postgres",
            f"""
            select (select coalesce(sum(calls), 0)::int from pg_stat_statements where dbid = datid) as statements,
              xact_commit + xact_rollback as transactions
            from pg_stat_database where datname = '{name}'
            """,
        )
        return Counters(self._pages.requests(), row["statements"], row["transactions"])


def _seconds_by_package(profile: Path) -> Counter[str]:
    """Return what a profile says: seconds by package. What is written in C counts for its caller."""
    spent = Counter[str]()
    functions: dict[tuple[str, int, str], Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    for (path, _, _), (_, _, seconds, _, callers) in functions.items():
        if path == "~":
            for (caller, _, _), (_, _, part, _) in callers.items():
                spent[_package(caller)] += part
        else:
            spent[_package(path)] += seconds
    return spent


def _package(path: str) -> str:
    if path.startswith(str(PACKAGE)):
        return "checkpointd"
    _, installed, inner = path.partition("/site-packages/")
    return inner.partition("/")[0] if installed else "Python"


@contextmanager
def _watched_memory(process: int) -> Iterator[list[int]]:
    """Yield a list whose last number is the largest resident memory of a process until now, in kB.

    The number that wait4() returns may be that of this process, from before the program was loaded.
    """
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process}/status").read_text().splitlines()
                peak.append(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()
