"""The checkpoint lists that the benchmark of throughput serves: one file for each job."""

import json
import random
from pathlib import Path
from typing import Any, Final

METRICS: Final = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
STEPS: Final = 100
"""The steps between two checkpoints of a job."""


class Pages:
    """The lists of some jobs, in `folder`/NAME/JOB.json. The contents are the same at each run."""

    def __init__(self, folder: Path, name: str, jobs: int, checkpoints: int) -> None:
        self.name = name
        self._folder = folder / name
        self._folder.mkdir()
        self._counts = [checkpoints] * jobs
        self._random = random.Random(jobs)
        for job in range(jobs):
            self._write(job)

    @property
    def ids(self) -> list[str]:
        """The ids of the jobs."""
        return [self._id(job) for job in range(len(self._counts))]

    @property
    def truth(self) -> tuple[int, int]:
        """The number of checkpoints, and the sum of their steps, which a database has after a pass over the jobs."""
        return sum(self._counts), sum(STEPS * count * (count + 1) // 2 for count in self._counts)

    def add(self, share: float) -> None:
        """Add a checkpoint to this share of the jobs, at least to one."""
        jobs = len(self._counts)
        for job in self._random.sample(range(jobs), max(round(share * jobs), 1)):
            self._counts[job] += 1
            self._write(job)

    def _id(self, job: int) -> str:
        return f"ftjob-{self.name}-{job}"

    def _write(self, job: int) -> None:
        """Write the list of a job, newest first, in one step."""
        source = random.Random(job)
        items = [self._checkpoint(job, number, source) for number in range(1, self._counts[job] + 1)][::-1]
        page = {"object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"]}
        path = self._folder / f"{self._id(job)}.json"
        path.with_suffix(".new").write_text(json.dumps({**page, "has_more": False}, separators=(",", ":")))
        path.with_suffix(".new").replace(path)

    def _checkpoint(self, job: int, number: int, source: random.Random) -> dict[str, Any]:
        step = number * STEPS
        metrics = {name: round(source.random(), 6) for name in METRICS}
        if source.random() < 0.1:  # a job without a validation file
            metrics = {name: None if name.startswith("valid") else value for name, value in metrics.items()}
        return {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt_{source.getrandbits(96):024x}",
            "created_at": 1_793_491_200 + 600 * number + job,
            "fine_tuned_model_checkpoint": f"ft:gpt-4o-mini-2024-07-18:org:suffix:{job}:ckpt-step-{step}",
            "metrics": {"step": step, **metrics},
            "fine_tuning_job_id": self._id(job),
            "step_number": step,
        }
