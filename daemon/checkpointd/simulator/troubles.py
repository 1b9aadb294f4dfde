"""A simulated provider with whom much goes wrong, so that each kind of finding can be seen."""

import math
from typing import Final, NoReturn

from checkpointd.simulator.shapes import RequestError, Shape
from checkpointd.simulator.world import Record, UnknownJobError, World

LONG_CURVE: Final = 5
"""The fewest checkpoints of a job in which something goes wrong."""

EXPLOSION: Final = 20
"""By this factor the training loss is higher after it has exploded: after the third checkpoint."""


class TroubledWorld(World):
    """A world in which something goes wrong with five of the jobs, the latest ones that are long enough.

    One hangs after its validation loss has risen twice. The training loss of another one explodes. Of one, the third
    checkpoint is never listed; of one, the steps from the third checkpoint on cannot be read. The checkpoints of one
    are unknown to the provider. Raises ValueError if the world has no such jobs.
    """

    def __init__(self, seed: int, jobs: int, started_at: float, shape: Shape) -> None:
        """Choose the jobs."""
        super().__init__(seed, jobs, started_at, shape)
        curves = {name: super(TroubledWorld, self).checkpoints(name, math.inf)[::-1] for name in self._names()}
        long = [name for name, curve in curves.items() if len(curve) >= LONG_CURVE and "valid_loss" in _metrics(curve)]
        self._hanging = next((name for name in long if _turn(curves[name])), "")
        others = [name for name in long if name != self._hanging]
        if not self._hanging or len(others) < 4:
            raise ValueError(
                f"the world of seed {seed} is too small: it has {len(long)} long jobs with validation data"
            )
        self._exploding, self._gapped, self._unreadable, self._lost = others[:4]
        last = curves[self._hanging][_turn(curves[self._hanging]) + 2]
        self._hangs_at, self._last_step = last["created_at"] + 1, last["step_number"]
        self._third = {name: curve[2]["step_number"] for name, curve in curves.items() if len(curve) > 2}

    def jobs(self, t: float) -> list[Record]:  # noqa: D102  # inherited
        return [self.job(record["id"], t) for record in super().jobs(t)]

    def job(self, job_id: str, t: float) -> Record:  # noqa: D102  # inherited
        return super().job(job_id, self._time_of(job_id, t))

    def checkpoints(self, job_id: str, t: float) -> list[Record]:  # noqa: D102  # inherited
        items = super().checkpoints(job_id, t)
        third = self._third.get(job_id)
        if job_id == self._lost:
            raise UnknownJobError(job_id)
        if job_id == self._hanging:
            return [item for item in items if item["step_number"] <= self._last_step]
        if job_id == self._gapped:
            return [item for item in items if item["step_number"] != third]
        if job_id == self._unreadable:
            return [item | {"step_number": "unknown"} if item["step_number"] >= third else item for item in items]
        if job_id == self._exploding:
            return [item | {"metrics": _exploded(item["metrics"], third)} for item in items]
        return items

    def events(self, job_id: str, t: float) -> list[Record]:  # noqa: D102  # inherited
        events = super().events(job_id, self._time_of(job_id, t))
        if job_id == self._exploding:
            return [event | {"data": _exploded(event["data"], self._third[job_id])} for event in events]
        return events

    def _names(self) -> list[str]:
        return [record["id"] for record in super().jobs(math.inf)]

    def _time_of(self, job_id: str, t: float) -> float:
        """Return the time up to which a job has come at time `t`."""
        return min(t, self._hangs_at) if job_id == self._hanging else t


class RefusingWorld(World):
    """A world with one job, in which each request for its checkpoints or its events is answered with an error."""

    def __init__(self, seed: int, now: float, error: RequestError) -> None:
        """Create the job before `now`."""
        super().__init__(seed, jobs=1, started_at=now - 1800)
        self._error = error

    def checkpoints(self, job_id: str, t: float) -> NoReturn:  # noqa: ARG002  # inherited
        """Raise the error."""
        raise self._error

    def events(self, job_id: str, t: float) -> NoReturn:  # noqa: ARG002  # inherited
        """Raise the error."""
        raise self._error


def _metrics(curve: list[Record]) -> Record:
    metrics: Record = curve[0]["metrics"]
    return metrics


def _turn(curve: list[Record]) -> int:
    """Return the index of the first checkpoint after which the validation loss rises twice, or 0."""
    losses = [item["metrics"].get("full_valid_loss", math.inf) for item in curve]
    return next((n for n in range(1, len(losses) - 3) if losses[n] < losses[n + 1] < losses[n + 2]), 0)


def _exploded(metrics: Record, after: int | None) -> Record:
    """Return the metrics of a step with a much higher training loss, if it comes after the given one."""
    if after is None or metrics.get("step", 0) <= after:
        return metrics
    return metrics | {"train_loss": metrics["train_loss"] * EXPLOSION}
