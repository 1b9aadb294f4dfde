"""The problems of this process: units of work that fail, and sources that pause, refuse its key or fail.

A unit of work is one use of the database, such as a claim or a save.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Histogram

from checkpointd.domain.attribution import Attribution, SourceState
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.telemetry.logs import log
from checkpointd.telemetry.metrics import DATABASE_UP

_EVENTS: Final = {
    SourceState.PAUSED: "source.paused",
    SourceState.REFUSED: "source.refused",
    SourceState.FAILING: "source.failing",
}


@dataclass(eq=False)
class Unit:
    """One run of a unit of work, started at a time of the event loop's clock."""

    work: str
    started: float
    is_conclusive: bool = True
    """False if the end of this run does not show that the database works."""


class Health:
    """The health of one process. It is passed to everything that uses the database or a source."""

    def __init__(self, waiting_for: str | None = None) -> None:
        self.waiting_for = waiting_for
        """Why the process has not begun its work, or None."""
        self._failed: dict[str, DatabaseUnavailableError] = {}
        """The last error of each unit of work whose last run failed."""
        self._running: set[Unit] = set()
        self._source_states: dict[str, SourceState] = {}
        self._key_problems: dict[str, str] = {}
        """The sources whose commands printed no key when they were last run, and the problem."""
        self._name_problems: dict[str, str] = {}
        """The sources of the database whose names the settings should have, but do not have, and the problem."""

    @contextmanager
    def unit(self, work: str, duration: Histogram | None = None) -> Iterator[Unit]:
        """Run the block as a unit of work: measure its duration, and log its first failure and its recovery once.

        If the kind of the failure changes, it is logged again. Raises what the block raises.
        """
        unit = Unit(work, asyncio.get_running_loop().time())
        self._running.add(unit)
        try:
            with duration.time() if duration else nullcontext():
                yield unit
        except DatabaseUnavailableError as error:
            known = self._failed.get(work)
            self._failed[work] = error
            if known is None or known.kind != error.kind:
                log.warning("database.unavailable", work=work, error=str(error))
            raise
        else:
            if unit.is_conclusive and self._failed.pop(work, None) is not None:
                log.info("database.recovered", work=work)
        finally:
            self._running.discard(unit)
            DATABASE_UP.set(not self._failed)

    def running_seconds(self, work: str) -> float:
        """Return how long the oldest run of a unit of work has been going on, or 0 if none is."""
        now = asyncio.get_running_loop().time()
        return max((now - unit.started for unit in self._running if unit.work == work), default=0.0)

    def record_source(self, name: str, attribution: Attribution) -> None:
        """Record the state of a source for this process. A change of it is logged once."""
        state, failure = attribution.state, attribution.failure
        known = self._source_states.get(name, SourceState.OK)
        if state is known:
            return
        self._source_states[name] = state
        if failure is None:
            log.info("source.recovered", source=name)
        else:
            log.warning(_EVENTS[state], source=name, error_class=failure.error_class, error=failure.message)

    def record_key(self, name: str, problem: str | None) -> None:
        """Record why the command of a source printed no key, or None if it printed one. A change is logged once."""
        known = self._key_problems.pop(name, None)
        if problem is not None:
            self._key_problems[name] = problem
            if problem != known:
                log.warning("source.key_failed", source=name, error=problem)
        elif known is not None:
            log.info("source.key_recovered", source=name)

    def record_names(self, sources: Iterable[Mapping[str, Any]]) -> None:
        """Record which sources with tracked jobs are not in the settings, or under a former name. Each is logged once.

        `sources` are rows of list_sources.sql.
        """
        problems = {}
        for source in sources:
            name, jobs, outdated = source["name"], source["jobs"], source["outdated_name"]
            if jobs and not source["is_configured"]:
                problems[name] = f"source {name} not configured: nothing polls its jobs"
                if name not in self._name_problems:
                    log.warning("source.not_configured", source=name, jobs=jobs, reason="nothing here polls its jobs")
            elif outdated is not None:
                problems[name] = f"source {outdated} renamed to {name}: change its name in the settings"
                if name not in self._name_problems:
                    log.warning("source.renamed", source=outdated, name=name, reason="change its name in the settings")
        self._name_problems = problems

    def problems(self) -> list[str]:
        """Return the reasons why the process cannot work, one text for each, without secrets."""
        if self.waiting_for is not None:
            return [self.waiting_for]
        works_by_error = defaultdict[str, list[str]](list)
        for work, error in self._failed.items():
            works_by_error[str(error)].append(work)
        return [f"database: {', '.join(works)} failed: {error}" for error, works in works_by_error.items()]

    def can_poll(self, sources: int) -> bool:
        """Return whether any of so many sources can be polled: not all of them refuse the key or fail."""
        stopped = [
            state for state in self._source_states.values() if state in {SourceState.REFUSED, SourceState.FAILING}
        ]
        return len(stopped) < sources

    def source_problems(self) -> list[str]:
        """Return which sources are paused, refused or failing for this process, have no key, or are not configured."""
        states = [
            f"source {name} {state}" for name, state in self._source_states.items() if state is not SourceState.OK
        ]
        return [*states, *self._key_problems.values(), *self._name_problems.values()]
