"""A headless Chromium, driven over its DevTools protocol: opens pages, presses keys, points, looks, listens."""

import asyncio
import base64
import os
import shutil
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-quic",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
_KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


class Tab:
    """One page. `requests`, `errors` (console, exceptions, refusals by the page's policy) grow while it lives."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket, self._session = socket, session
        self._numbers, self._answers = count(1), dict[int, asyncio.Future[Any]]()
        self._loaded = asyncio.Event()

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters, "sessionId": self._session})
        return await asyncio.wait_for(answer, 60)

    async def hear(self) -> None:
        """Take what the browser says, until it ends."""
        async for message in self._socket:
            said = message.json()
            if (answer := self._answers.pop(said.get("id"), None)) is not None:
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
                continue
            given = said.get("params", {})
            match said.get("method"):
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent":
                    self.requests.append(given["request"]["url"])
                case "Runtime.exceptionThrown":
                    self.errors.append(given["exceptionDetails"]["text"])
                case "Runtime.consoleAPICalled":
                    self.errors.append(str(given["args"]))
                case "Log.entryAdded":
                    self.errors.append(given["entry"]["text"])
                case "Page.javascriptDialogOpening":
                    self.errors.append(f"a dialog: {given['message']}")

    async def look(self, width: int, height: int, *, dark: bool) -> None:
        """Set the window's size, and the theme that its user prefers."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await self.loaded()

    async def loaded(self) -> None:
        """Wait for the page that something just asked for."""
        await asyncio.wait_for(self._loaded.wait(), 60)
        self._loaded.clear()

    async def ask(self, script: str) -> Any:
        """Evaluate JavaScript in the page."""
        said = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def shows(self, expected: Any, script: str) -> None:
        """Evaluate JavaScript until its value is this: what keys and the mouse do may be seen with the next frame."""
        deadline = time.monotonic() + 60
        while expected != (found := await self.ask(script)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert expected == found

    async def press(self, *keys: str) -> None:
        """Press keys by name, or a single character."""
        for key in keys:
            named = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS.get(key, 0)}
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            await self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save a picture of the window, or of the whole page."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Start a browser with an empty profile and one tab; it ends with all that it started."""
    assert CHROMIUM is not None
    profile = tempfile.mkdtemp(prefix="checkpointd-chromium-")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, *as_root, f"--user-data-dir={profile}", "about:blank", stderr=PIPE, stdout=DEVNULL,
        env={**os.environ, "HOME": profile},
    )  # fmt: skip
    assert process.stderr is not None
    reading: asyncio.Task[Any] | None = None
    try:
        async with asyncio.timeout(60):
            line = b""
            while b"DevTools listening on " not in line:
                line = await process.stderr.readline()
                assert line, "Chromium ended at its start"
        reading = asyncio.create_task(process.stderr.read())
        url = line.decode().split("listening on ")[1].strip()
        async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0) as socket:
            await socket.send_json({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}})
            target = (await socket.receive_json(timeout=60))["result"]["targetId"]
            attach = {"targetId": target, "flatten": True}
            await socket.send_json({"id": 0, "method": "Target.attachToTarget", "params": attach})
            while "result" not in (said := await socket.receive_json(timeout=60)):
                pass
            tab = Tab(socket, said["result"]["sessionId"])
            hearing = asyncio.create_task(tab.hear())
            try:
                for domain in ("Page", "Network", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.shows("complete", "document.readyState")  # the blank page: later its load would be another's
                yield tab
            finally:
                hearing.cancel()
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading
        shutil.rmtree(profile, ignore_errors=True)
