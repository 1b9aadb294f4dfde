"""The health of a process: each problem is logged once and reported once."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
import structlog

from checkpointd.domain.attribution import Attribution
from checkpointd.domain.failure import ErrorClass, Failure
from checkpointd.postgres.errors import DatabaseUnavailableError
from checkpointd.telemetry.health import Health
from checkpointd.telemetry.metrics import REGISTRY

TakeEvents = Callable[[], list[dict[str, object]]]


def unavailable(reason: str, kind: str = "OSError") -> DatabaseUnavailableError:
    """Return the error of a database that cannot be reached."""
    return DatabaseUnavailableError(f"{kind}: {reason}", kind)


def fail(health: Health, work: str, error: DatabaseUnavailableError) -> None:
    """Run a unit of work that fails."""
    with suppress(DatabaseUnavailableError), health.unit(work):
        raise error


@pytest.fixture
def take_events() -> TakeEvents:
    """Return a function that returns the log events since its last call."""
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[captured])

    def take() -> list[dict[str, object]]:
        taken = [json.loads(json.dumps(entry)) for entry in captured.entries]
        captured.entries.clear()
        return taken

    return take


def test_the_state_of_a_source_is_logged_once(take_events: TakeEvents) -> None:
    """A refused key, a pause, an outage and the recovery are logged once each, however often they are recorded."""
    health = Health()
    kinds = (ErrorClass.REFUSED, ErrorClass.THROTTLED, ErrorClass.UNREACHABLE)
    refused, paused, failing = (Failure(kind, f"HTTP {kind}") for kind in kinds)
    for failure in (None, refused, refused, paused, paused, failing, failing, None, None):
        attribution = Attribution()
        if failure:
            attribution.record_poll(1, failure, 0, has_pages=False)
        health.record_source("azure", attribution)
    logged = take_events()
    names = ["source.refused", "source.paused", "source.failing", "source.recovered"]
    assert names == [event["event"] for event in logged]
    assert [
        ("warning", "azure", "HTTP refused"),
        ("warning", "azure", "HTTP throttled"),
        ("warning", "azure", "HTTP unreachable"),
        ("info", "azure", None),
    ] == [(event["log_level"], event["source"], event.get("error")) for event in logged]


async def test_one_reason_for_several_units_is_one_problem() -> None:
    """If several units of work fail for the same reason, one problem names all of them."""
    health = Health()
    for work in ("claim", "save", "job list"):
        fail(health, work, unavailable("away" if work != "save" else "full"))
    assert [
        "database: claim, job list failed: OSError: away",
        "database: save failed: OSError: full",
    ] == health.problems()
    assert 0 == REGISTRY.get_sample_value("checkpointd_database_up")


async def test_a_failing_unit_is_logged_once(take_events: TakeEvents) -> None:
    """The first failure of each kind and the recovery are logged once each."""
    health = Health()
    for kind in ("OSError", "OSError", "DiskFullError"):
        fail(health, "save", unavailable("no", kind))
    with health.unit("save") as unit:
        unit.is_conclusive = False
    assert ["database.unavailable", "database.unavailable"] == [event["event"] for event in take_events()]
    for _ in range(2):
        with health.unit("save"):
            assert 0 <= health.running_seconds("save")
    assert ["database.recovered"] == [event["event"] for event in take_events()]
    assert [] == health.problems()
    assert 1 == REGISTRY.get_sample_value("checkpointd_database_up")


async def test_two_concurrent_runs_of_a_unit_are_distinguished() -> None:
    """A unit of work that runs twice at the same time is running until both runs have ended."""
    health = Health()
    with health.unit("job list"):
        with health.unit("job list"):
            pass
        await asyncio.sleep(0)  # the clock of the loop moves on
        assert 0 < health.running_seconds("job list")
    assert 0 == health.running_seconds("job list")
