"""Prism, a proxy that nobody here wrote, between a client and a provider: it objects to what OpenAI did not publish."""

import asyncio
import itertools
import json
import os
from asyncio.subprocess import STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from openai.types.shared import ErrorObject

from support.paths import DATA

PROGRAM = os.environ.get("TEST_PRISM")
PUBLISHED = DATA / "openai_fine_tuning.yaml"


class Prism:
    """A running proxy: its URL, and what it logs."""

    def __init__(self, log: Path) -> None:
        self.url = ""
        self._log = log
        self._marks = itertools.count(1)

    async def objections(self) -> list[str]:
        """Return what it objected to in all that it has answered up to now."""
        mark = f"/mark-{next(self._marks)}"
        async with aiohttp.ClientSession() as client, client.get(self.url + mark) as response:
            await response.read()
        await self.line_with(f"{mark} ✖")
        return [line for line in self._lines() if ("Violation" in line or "✖" in line) and "/mark-" not in line]

    def forwarded(self) -> list[str]:
        """Return what was asked of the provider behind: path and query."""
        return [line.partition("request to ")[2] for line in self._lines() if "Forwarding" in line]

    async def line_with(self, words: str) -> str:
        """Wait for a line of the log: another process writes it, and gives no event."""
        async with asyncio.timeout(60):
            while not (found := [line for line in self._lines() if words in line]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found[0]

    def _lines(self) -> list[str]:
        return self._log.read_text().splitlines()


@asynccontextmanager
async def prism(provider: str, folder: Path) -> AsyncIterator[Prism]:
    """Run Prism in front of the provider at this base URL; the specification that it judges by and its log go there."""
    assert PROGRAM is not None
    specification, log = folder / "specification.yaml", folder / "prism.log"
    specification.write_text(_with_errors(PUBLISHED.read_text()))
    arguments = ("proxy", "--host", "127.0.0.1", "--port", "0", "--errors", specification, provider)
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(PROGRAM, *arguments, stdout=out, stderr=STDOUT)
    evaluate = Prism(log)
    try:
        evaluate.url = (await evaluate.line_with("is listening on ")).split()[-1]
        yield evaluate
    finally:
        process.kill()
        await process.wait()


def _with_errors(published: str) -> str:
    """Add what the published file, which is cut to the answers with status 200, leaves out: how an error looks.

    The types are those of the official client; OpenAI's documentation has all four there always, two of them nullable.
    """
    types = ErrorObject.model_json_schema()["properties"]
    names = ["message", "type", "param", "code"]
    error = {"type": "object", "required": names, "properties": {name: types[name] for name in names}}
    body = {"type": "object", "required": ["error"], "properties": {"error": error}}
    default = {"description": "error", "content": {"application/json": {"schema": body}}}
    place = "      responses:\n"
    assert published.count(place) == 4, "the published file has changed"
    return published.replace(place, f"{place}        default: {json.dumps(default)}\n")
