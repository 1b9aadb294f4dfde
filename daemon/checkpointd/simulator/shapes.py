"""How providers differ: in names, statuses, keys and errors, and in how they publish and list checkpoints.

OpenAI follows its published specification, and for errors its real answers. Azure follows its own specification and
recorded answers, at both of its paths; the statuses of a paused job are those that its clients define.
"""

import random
import re
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["openai", "azure", "bedrock", "nebius", "compatible", "coreweave", "together", "tinker", "foundry"]
"""The kind of API. A compatible provider has OpenAI's, but lists no jobs."""

Publication = Literal["at-once", "late", "at-end"]
"""When checkpoints are listed: at once; some of them minutes late, and some metrics later still; or after the job."""

Order = Literal["descending", "ascending"]
"""The order of checkpoints: newest first (descending) or oldest first."""

Retention = Literal["last-three", "all"]
"""Which checkpoints are listed: those of the last three epochs, or all."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The choices for a simulated provider; by default OpenAI's. `per_epoch` is the number of checkpoints per epoch."""

    kind: Kind = "openai"
    publication: Publication = "late"
    order: Order = "descending"
    retention: Retention = "last-three"
    per_epoch: int = 1
    reinforcement: float = 0.0
    """The share of jobs that are trained by reinforcement. In Bedrock all are."""

    bare_checkpoints: bool = False
    """Checkpoints have no metrics: only events have them."""

    shutdown_date: str | None = None
    """The day on which the base models are shut down, YYYY-MM-DD."""

    @property
    def listed(self) -> int | None:
        """How many of a job's newest checkpoints are listed, or None for all."""
        return None if self.retention == "all" else 3 * self.per_epoch


DEFAULT: Final = Shape()


class RequestError(Exception):
    """The answer to a request is an error. `param` and `code` are members of OpenAI's error objects."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


class OpenAI:
    """The names, statuses, keys and errors of OpenAI."""

    roots: tuple[str, ...] = ("/v1",)
    """The paths under which the API is served. The first one is a part of the base URL."""
    lists_jobs = True
    has_edge_ids = True
    """Lists of checkpoints have `first_id` and `last_id`."""
    says_has_more = True
    """Pages have `has_more`."""
    pauses = False
    """Some jobs are paused for a while."""
    waiting = ("validating_files", "queued")
    """The statuses of a job before it runs: before and after its files are validated."""
    reinforces = False
    """All jobs are trained by reinforcement."""
    step_distance = 1
    """The steps from one event to the next. If it is not 1, each event has all metrics."""
    says_total = True
    """Events of steps have `total_steps`."""
    no_event_data: Mapping[str, Any] = {"data": {}}
    """What stands in a message in place of data."""

    def no_result_files(self) -> list[str] | None:
        """Return `result_files` in the record of a job that has not ended."""
        return []

    def organization(self, rng: random.Random) -> str | None:
        """Return the id of the organization that owns the jobs, or None."""
        return "org-" + alphanumeric(rng, 24)

    def model(self, rng: random.Random, base: str, purpose: str) -> str:
        """Return the name of a job's model."""
        return f"ft:{base}:acme:{purpose}:{alphanumeric(rng, 8)}"

    def intermediate_model(self, rng: random.Random, model: str, step: int) -> str:
        """Return the name of the model of a checkpoint that is not the last one. Each has its own suffix."""
        return f"{model.rpartition(':')[0]}:{alphanumeric(rng, 8)}:ckpt-step-{step}"

    def job_id(self, rng: random.Random, model: str) -> str:
        """Return the id of the job that trains `model`."""
        del model
        return "ftjob-" + alphanumeric(rng, 24)

    def checkpoint_id(self, rng: random.Random) -> str:
        """Return the id of a checkpoint."""
        return "ftckpt_" + alphanumeric(rng, 24)

    def event_id(self, rng: random.Random) -> str:
        """Return the id of an event."""
        return "ftevent-" + alphanumeric(rng, 24)

    def rewards(self, rng: random.Random, reward: float) -> dict[str, Any]:
        """Return the metrics of a step of reinforcement: numbers, and an object that is no metric."""
        return {
            "train_mean_reward": reward,
            "full_valid_mean_reward": round(reward * rng.uniform(0.9, 1.0), 6),
            "train_reasoning_tokens_mean": round(200 + 400 * reward, 1),
            "usage": {"samples": rng.randint(8, 64)},
        }

    def check_access(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key. Any well-formed key is accepted."""
        del path, query
        if not re.fullmatch(r"(?i:bearer) +[\w.~+/-]+=*", headers.get("Authorization", ""), re.ASCII):
            # Unlike OpenAI's, the message does not repeat the key.
            raise RequestError(401, "You didn't provide an API key in an Authorization header using Bearer auth.")

    def error_body(self, error: RequestError) -> dict[str, Any]:
        """Return the body of an error."""
        return {"error": self.error(error)}

    def error(self, error: RequestError) -> dict[str, Any]:
        """Return the error object of an answer."""
        return {
            "message": error.message,
            "type": "invalid_request_error",
            "param": error.param,
            "code": error.code,
        }


class Azure(OpenAI):
    """What differs in Azure OpenAI. Its first root needs no API version, the older one requires it."""

    roots = ("/openai/v1", "/openai")
    has_edge_ids = False
    pauses = True
    waiting = ("created", "pending")
    step_distance = 10
    says_total = False
    no_event_data: Mapping[str, Any] = {}

    def event_id(self, rng: random.Random) -> str:  # noqa: D102  # inherited
        return f"ftevent-{hexadecimal(rng)}"

    def no_result_files(self) -> list[str] | None:  # noqa: D102  # inherited
        return None

    def organization(self, rng: random.Random) -> str | None:
        """Return None: in Azure the field is always null."""
        del rng
        return None

    def model(self, rng: random.Random, base: str, purpose: str) -> str:  # noqa: D102  # inherited
        del purpose
        return f"{base}.ft-{hexadecimal(rng)}"

    def intermediate_model(self, rng: random.Random, model: str, step: int) -> str:
        """Return the name of the job's model with the step."""
        del rng
        return f"{model}:ckpt-step-{step}"

    def job_id(self, rng: random.Random, model: str) -> str:
        """Return the id of the job that trains `model`. The last parts of both are the same."""
        del rng
        return "ftjob-" + model.rpartition("-")[2]

    def checkpoint_id(self, rng: random.Random) -> str:  # noqa: D102  # inherited
        return "ftchkpt-" + hexadecimal(rng)

    def check_access(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key in `api-key`, or without a required API version."""
        if not headers.get("api-key", "").strip():
            raise RequestError(401, "Access denied: the header api-key is missing or empty.")
        if not path.startswith(self.roots[0]) and not query.get("api-version"):
            raise RequestError(404, "Resource not found")

    def error(self, error: RequestError) -> dict[str, Any]:
        """Return the error object of an answer. By Microsoft's guidelines it has no type and no param."""
        if error.status == 400:
            code = "invalidPayload"
            return {"code": code, "message": error.message, "innererror": {"code": code}}
        # In errors of the gateway, the code is the status.
        return {"code": "notFound" if error.code else str(error.status), "message": error.message}


class Bedrock(OpenAI):
    """What differs in Amazon Bedrock, which trains by reinforcement."""

    reinforces = True

    def event_id(self, rng: random.Random) -> str:  # noqa: D102  # inherited
        return f"ftevent-{uuid.UUID(int=rng.getrandbits(128), version=4)}"

    def rewards(self, rng: random.Random, reward: float) -> dict[str, Any]:
        """Return the metrics of a step, with the names of recorded answers."""
        return {
            "actor_grad_norm": round(rng.uniform(0.0005, 0.01), 6),
            "response_length_mean": round(200 + 400 * reward, 2),
            "actor_pg_loss": round(rng.uniform(-0.1, 0.2), 4),
            "critic_rewards_mean": reward,
            "actor_entropy": round(0.9 - 0.5 * reward, 4),
            "critic_advantages_mean": round(rng.uniform(-0.05, 0.05), 4),
        }


class Nebius(OpenAI):
    """What differs in Nebius. Its specification gives `has_more` a default, so here no page has it."""

    says_has_more = False


class Compatible(OpenAI):
    """A provider with OpenAI's API, but without a job list."""

    lists_jobs = False


def alphanumeric(rng: random.Random, length: int) -> str:
    """Return random letters and digits."""
    return "".join(rng.choices(string.ascii_letters + string.digits, k=length))


def hexadecimal(rng: random.Random) -> str:
    """Return 32 random hexadecimal digits."""
    return f"{rng.getrandbits(128):032x}"
