"""Prism, a proxy between a client and a provider, which reports violations of OpenAI's published specification."""

import asyncio
import itertools
import json
import os
from asyncio.subprocess import STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
from openai.types.shared import ErrorObject

from support.paths import DATA

PROGRAM = os.environ.get("TEST_PRISM")
PUBLISHED = DATA / "openai_fine_tuning.yaml"
_NOT_JUDGED: Final = ("/mark-", "get /models ")
"""Our own marks, and a list that is not in tests/data/openai_fine_tuning.yaml."""


class Prism:
    """A running proxy: its URL, and what it logs."""

    def __init__(self, log: Path) -> None:
        self.url = ""
        self._log = log
        self._marks = itertools.count(1)

    async def violations(self) -> list[str]:
        """Return the violations in all requests and answers up to now."""
        mark = f"/mark-{next(self._marks)}"
        async with aiohttp.ClientSession() as client, client.get(self.url + mark) as response:
            await response.read()
        await self.line_with(f"{mark} ✖")
        lines = [line for line in self._lines() if not any(path in line for path in _NOT_JUDGED)]
        return [line for line in lines if "Violation" in line or "✖" in line]

    def forwarded(self) -> list[str]:
        """Return path and query of each request that was forwarded to the provider."""
        return [line.partition("request to ")[2] for line in self._lines() if "Forwarding" in line]

    async def line_with(self, text: str) -> str:
        """Wait for a line of the log with this text, and return it."""
        async with asyncio.timeout(60):
            while not (found := [line for line in self._lines() if text in line]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the log is a file of another process, without an event
        return found[0]

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines()


@asynccontextmanager
async def prism(provider: str, folder: Path) -> AsyncIterator[Prism]:
    """Run Prism in front of the provider at this base URL. `folder` gets its specification and its log."""
    assert PROGRAM is not None
    specification, log = folder / "specification.yaml", folder / "prism.log"
    specification.write_text(_with_errors(PUBLISHED.read_text()))
    arguments = ("proxy", "--host", "127.0.0.1", "--port", "0", "--errors", specification, provider)
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(PROGRAM, *arguments, stdout=out, stderr=STDOUT)
    proxy = Prism(log)
    try:
        proxy.url = (await proxy.line_with("is listening on ")).split()[-1]
        yield proxy
    finally:
        process.kill()
        await process.wait()


def _with_errors(published: str) -> str:
    """Add the body of errors, which the published file lacks: it is reduced to the answers with status 200.

    The types are those of the official client. In OpenAI's documentation all four members are required, two nullable.
    """
    types = ErrorObject.model_json_schema()["properties"]
    names = ["message", "type", "param", "code"]
    error = {"type": "object", "required": names, "properties": {name: types[name] for name in names}}
    body = {"type": "object", "required": ["error"], "properties": {"error": error}}
    default = {"description": "error", "content": {"application/json": {"schema": body}}}
    place = "      responses:\n"
    assert published.count(place) == 4, "the published file has changed"
    return published.replace(place, f"{place}        default: {json.dumps(default)}\n")
