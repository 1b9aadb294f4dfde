"""What sets one provider apart from another: its names, statuses, keys and errors, and how it publishes and lists.

OpenAI is as its published specification has it, errors as it answers them. Azure is as its own specification and its
recorded answers are, at both of its addresses; statuses of a pause are those that its clients know.
"""

import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal["openai", "azure", "compatible"]
"""Whose API it is; a compatible provider speaks OpenAI's, but lists no jobs."""

Publication = Literal["at-once", "late", "at-end"]
"""When a checkpoint is listed: as it is made; some minutes later, and some metrics later still; or after its job."""

Order = Literal["descending", "ascending"]
"""How checkpoints are listed: newest or oldest first."""

Retention = Literal["last-three", "all"]
"""Which checkpoints are listed: those of the last three epochs, or all."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A provider, as one chooses it; by default OpenAI. `per_epoch` is how many checkpoints an epoch has."""

    kind: Kind = "openai"
    publication: Publication = "late"
    order: Order = "descending"
    retention: Retention = "last-three"
    per_epoch: int = 1

    @property
    def listed(self) -> int | None:
        """How many of a job's newest checkpoints are listed; None: all."""
        return None if self.retention == "all" else 3 * self.per_epoch


DEFAULT: Final = Shape()


class RequestError(Exception):
    """A request is refused with this status; `param` and `code` are what OpenAI's error bodies call so."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


class OpenAI:
    """OpenAI's ways."""

    roots: tuple[str, ...] = ("/v1",)
    """The paths that its API is served under; the first one is told."""
    lists_jobs = True
    has_edge_ids = True
    """Lists of checkpoints have `first_id` and `last_id`."""
    pauses = False
    waiting = ("validating_files", "queued")
    """The statuses before a job runs."""

    def no_result_files(self) -> list[str] | None:
        """Return what a job's record has for `result_files` before its end."""
        return []

    def organization(self, rng: random.Random) -> str | None:
        """Name the organization that owns the jobs."""
        return "org-" + alphanumeric(rng, 24)

    def model(self, rng: random.Random, base: str, purpose: str) -> str:
        """Name a job's model."""
        return f"ft:{base}:acme:{purpose}:{alphanumeric(rng, 8)}"

    def intermediate(self, rng: random.Random, model: str, step: int) -> str:
        """Name the model of a checkpoint before the last one: each has a suffix of its own."""
        return f"{model.rpartition(':')[0]}:{alphanumeric(rng, 8)}:ckpt-step-{step}"

    def job_id(self, rng: random.Random, model: str) -> str:
        """Name the job that makes `model`."""
        del model
        return "ftjob-" + alphanumeric(rng, 24)

    def checkpoint_id(self, rng: random.Random) -> str:
        """Name a checkpoint."""
        return "ftckpt_" + alphanumeric(rng, 24)

    def admit(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key. Any text that can be one is a good one."""
        del path, query
        if not re.fullmatch(r"(?i:bearer) +[\w.~+/-]+=*", headers.get("Authorization", ""), re.ASCII):
            # The message, unlike OpenAI's, repeats nothing of what was sent.
            raise RequestError(401, "You didn't provide an API key in an Authorization header using Bearer auth.")

    def error(self, refused: RequestError) -> dict[str, Any]:
        """Return the error object of a refusal."""
        return {
            "message": refused.message,
            "type": "invalid_request_error",
            "param": refused.param,
            "code": refused.code,
        }


class Azure(OpenAI):
    """Azure OpenAI's ways, where they are others. Its first root takes no version, the older one wants one."""

    roots = ("/openai/v1", "/openai")
    has_edge_ids = False
    pauses = True
    waiting = ("created", "pending")

    def no_result_files(self) -> list[str] | None:  # noqa: D102  # as OpenAI's
        return None

    def organization(self, rng: random.Random) -> str | None:
        """Name none: Azure has the field for OpenAI's sake alone."""
        del rng
        return None

    def model(self, rng: random.Random, base: str, purpose: str) -> str:  # noqa: D102  # as OpenAI's
        del purpose
        return f"{base}.ft-{_hexadecimal(rng)}"

    def intermediate(self, rng: random.Random, model: str, step: int) -> str:
        """Name the model of a checkpoint before the last one: the job's, and the step."""
        del rng
        return f"{model}:ckpt-step-{step}"

    def job_id(self, rng: random.Random, model: str) -> str:
        """Name the job that makes `model`: their last parts are the same."""
        del rng
        return "ftjob-" + model.rpartition("-")[2]

    def checkpoint_id(self, rng: random.Random) -> str:  # noqa: D102  # as OpenAI's
        return "ftchkpt-" + _hexadecimal(rng)

    def admit(self, headers: Mapping[str, str], path: str, query: Mapping[str, str]) -> None:
        """Raise RequestError for a request without a key in `api-key`, or without a version where one is wanted."""
        if not headers.get("api-key", "").strip():
            raise RequestError(401, "Access denied: the header api-key is missing or empty.")
        if not path.startswith(self.roots[0]) and not query.get("api-version"):
            raise RequestError(404, "Resource not found")

    def error(self, refused: RequestError) -> dict[str, Any]:
        """Return the error object of a refusal, by Microsoft's guidelines: no type, no param."""
        if refused.status == 400:
            code = "invalidPayload"
            return {"code": code, "message": refused.message, "innererror": {"code": code}}
        # What the gateway refuses has the status for its code.
        return {"code": "notFound" if refused.code else str(refused.status), "message": refused.message}


class Compatible(OpenAI):
    """A provider that speaks OpenAI's API, but lists no jobs."""

    lists_jobs = False


KINDS: Final[Mapping[Kind, OpenAI]] = {"openai": OpenAI(), "azure": Azure(), "compatible": Compatible()}


def alphanumeric(rng: random.Random, length: int) -> str:
    """Draw letters and digits."""
    return "".join(rng.choices(string.ascii_letters + string.digits, k=length))


def _hexadecimal(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}"
