"""A provider whose answers are scripted by a test: a real HTTP server on loopback."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from aiohttp import web

JOB = "ftjob-abc123"
Answer = web.StreamResponse | Callable[[web.Request], Awaitable[web.StreamResponse]]


def checkpoint(number: int, job: str = JOB, **metrics: float | None) -> dict[str, Any]:
    """Return the checkpoint of step `number`, as OpenAI's API sends it."""
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt_{number:04d}",
        "created_at": 1_721_764_800 + number,
        "fine_tuned_model_checkpoint": f"ft:gpt-4o-mini-2024-07-18:org:sfx:{number:08d}:ckpt-step-{number}",
        "fine_tuning_job_id": job,
        "metrics": {"step": number, "train_loss": 1 / number, **metrics},
        "step_number": number,
    }


def event(number: int, **fields: Any) -> dict[str, Any]:
    """Return message `number` of a job, as OpenAI's API sends it. Three of them are of the same second."""
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{number:04d}",
        "created_at": 1_721_764_800 + number // 3,
        "level": "info",
        "message": f"Message {number}",
        "type": "message",
        "data": {},
        **fields,
    }


def step_event(number: int, step: int | None = None, total: int = 100, **metrics: Any) -> dict[str, Any]:
    """Return event `number` of a job with the metrics of a step, which is `number` by default."""
    step = number if step is None else step
    loss = 1 / (number + 1)
    return event(
        number,
        type="metrics",
        message=f"Step {step}/{total}: training loss={loss:.2f}",
        data={"step": step, "total_steps": total, "train_loss": loss, **metrics},
    )


def job(job_id: str = JOB, status: str = "running", **fields: Any) -> dict[str, Any]:
    """Return a job record, as OpenAI's API sends it."""
    return {
        "object": "fine_tuning.job",
        "id": job_id,
        "status": status,
        "model": "gpt-4o-mini-2024-07-18",
        "fine_tuned_model": None,
        "created_at": 1_721_764_000,
        "finished_at": None,
        "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
        "error": None,
        **fields,
    }


def page(items: Sequence[Any], *, has_more: bool = False) -> web.Response:
    """Return one page of a list."""
    return web.json_response({"object": "list", "data": list(items), "has_more": has_more})


def body(text: str | bytes, content_type: str = "application/json", status: int = 200) -> web.Response:
    """Return an answer with this body."""
    raw = text if isinstance(text, bytes) else text.encode()
    return web.Response(body=raw, headers={"Content-Type": content_type}, status=status)


def error(status: int, code: str | None = None, message: str = "no", **headers: str) -> web.Response:
    """Return an error as OpenAI's API sends it. In the names of headers, _ stands for -."""
    content = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return web.json_response(content, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def paged(items: Sequence[dict[str, Any]], default_limit: int = 10) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return an answer that serves pages of `items` by `limit` and `after`. The test may change `items` at any time."""

    async def answer(request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", default_limit))
        after = request.query.get("after")
        start = 0 if after is None else [item["id"] for item in items].index(after) + 1
        return page(items[start : start + limit], has_more=len(items) > start + limit)

    return answer


def raw(answer: bytes, *, reset: bool = False) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return an answer that sends these bytes, including the status line, and then closes or resets the connection."""

    async def send(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.write(answer)
        if reset:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
        request.transport.close()
        return web.Response()

    return send


def held(answer: Answer) -> tuple[Answer, asyncio.Event, asyncio.Event]:
    """Return an answer that waits, the event that it was requested, and the event that lets it go on."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        reached.set()
        await go_on.wait()
        return await _answer(answer, request)

    return wait, reached, go_on


class Provider:
    """Serves scripted answers. `checkpoints[job]`, `events[job]` and `jobs` are an answer, or answers to use in turn.

    The last answer of a list is used again and again. A job without an answer is unknown (404), as is the job list
    and the list of models until `jobs` and `models` are set.
    """

    def __init__(self) -> None:
        self.checkpoints: dict[str, Answer | list[Answer]] = {}
        self.events: dict[str, Answer | list[Answer]] = {}
        self.jobs: Answer | list[Answer] = error(404, "unknown_url")
        self.models: Answer = error(404, "unknown_url")
        self.event_requests: list[web.Request] = []
        self.model_requests: list[web.Request] = []
        self.requests: list[web.Request] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/fine_tuning/jobs", self._jobs)
        app.router.add_get("/v1/fine-tunes", self._jobs)  # of Together
        app.router.add_get("/v1/fine_tuning/jobs/{job}/checkpoints", self._checkpoints)
        app.router.add_get("/v1/fine_tuning/jobs/{job}/events", self._events)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _jobs(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await _answer(self.jobs, request)

    async def _checkpoints(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.checkpoints.get(request.match_info["job"], error(404, "fine_tune_not_found"))
        return await _answer(answer, request)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self.event_requests.append(request)
        return await _answer(self.events.get(request.match_info["job"], error(404, "fine_tune_not_found")), request)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.model_requests.append(request)
        return await _answer(self.models, request)

    def asked(self, job: str = JOB) -> int:
        """Return the number of requests for the checkpoints of a job."""
        return sum(request.match_info.get("job") == job for request in self.requests)


async def _answer(script: Answer | list[Answer], request: web.Request) -> web.StreamResponse:
    if isinstance(script, list):
        script = script.pop(0) if len(script) > 1 else script[0]
    if isinstance(script, web.Response):
        return web.Response(body=script.body, status=script.status, headers=script.headers)
    assert callable(script)
    return await script(request)
