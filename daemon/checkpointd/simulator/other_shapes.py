"""The names, ids, metrics and errors of providers whose format is not OpenAI's."""

import random
import uuid
from collections.abc import Mapping
from typing import Any

from checkpointd.simulator.shapes import OpenAI, RequestError, alphanumeric, hexadecimal


class CoreWeave(OpenAI):
    """CoreWeave's Serverless Training. Its jobs are models, which no list names."""

    roots = ("/api/training/v1/preview",)
    lists_jobs = False
    reinforces = True

    def job_id(self, rng: random.Random, model: str) -> str:  # noqa: D102  # inherited
        del model
        return _uuid(rng)

    def checkpoint_id(self, rng: random.Random) -> str:  # noqa: D102  # inherited
        return _uuid(rng)

    def rewards(self, rng: random.Random, reward: float) -> dict[str, Any]:  # noqa: D102  # inherited
        return {
            "val/reward": round(reward * rng.uniform(0.9, 1.0), 6),
            "train/reward": reward,
            "train/reward_std_dev": round(rng.uniform(0.05, 0.3), 6),
            "train/loss": round(rng.uniform(-0.1, 0.2), 6),
        }

    def error_body(self, error: RequestError) -> dict[str, Any]:
        """Return the body of an error. Its form is not documented: it is that of the framework FastAPI."""
        return {"detail": error.message}


class Together(OpenAI):
    """Together."""

    waiting = ("pending", "queued")

    def job_id(self, rng: random.Random, model: str) -> str:  # noqa: D102  # inherited
        del model
        return "ft-" + _uuid(rng)

    def model(self, rng: random.Random, base: str, purpose: str) -> str:  # noqa: D102  # inherited
        return f"acme/{base}-{purpose}-{alphanumeric(rng, 8)}"


class Tinker(OpenAI):
    """Tinker. Its jobs are training runs."""

    roots = ("/services/tinker-prod/api/v1",)

    def job_id(self, rng: random.Random, model: str) -> str:  # noqa: D102  # inherited
        del model
        return f"{_uuid(rng)}:train:0"

    def check_access(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key in `X-API-Key`."""
        del path, query
        if not headers.get("X-API-Key", "").strip():
            raise RequestError(401, "Missing API key")

    def error_body(self, error: RequestError) -> dict[str, Any]:
        """Return the body of an error. Its form is not documented: it is that of the framework FastAPI."""
        return {"detail": error.message}


class Foundry(OpenAI):
    """The fine-tuning sessions of Microsoft Foundry. Errors have the body of OpenAI's."""

    roots = ("/api/projects/simulated",)
    waiting = ("created", "queued")

    def job_id(self, rng: random.Random, model: str) -> str:  # noqa: D102  # inherited
        del model
        return f"session_{hexadecimal(rng)}"

    def check_access(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key or a token, or without what the preview requires."""
        del path
        if not headers.get("api-key", "").strip() and not headers.get("Authorization", "").startswith("Bearer "):
            raise RequestError(401, "Access denied: there is neither a key nor a token.")
        if headers.get("Foundry-Features") != "FineTuningSessions=V1Preview" or query.get("api-version") != "v1":
            raise RequestError(400, "This preview requires the header Foundry-Features and the api-version v1.")


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
