"""A headless Chromium, controlled over its DevTools protocol."""

import asyncio
import base64
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from support.waiting import eventually

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-quic",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
_KEY_CODES = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


class Tab:
    """One tab of the browser.

    `requests` collects the addresses of its requests. `errors` collects messages of the console, exceptions, dialogs,
    and what the page's content security policy refused.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._socket, self._session = socket, session
        self._numbers, self._answers = count(1), dict[int, asyncio.Future[Any]]()
        self._loaded = asyncio.Event()

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol, and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters, "sessionId": self._session})
        return await asyncio.wait_for(answer, 60)

    async def receive(self) -> None:
        """Receive the messages of the browser until it ends."""
        async for message in self._socket:
            content = message.json()
            if (answer := self._answers.pop(content.get("id"), None)) is not None:
                if "error" in content:
                    answer.set_exception(RuntimeError(content["error"]["message"]))
                else:
                    answer.set_result(content["result"])
            else:
                self._record(content.get("method"), content.get("params", {}))

    def _record(self, event: str | None, parameters: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                self.errors.append(str(parameters["args"]))
            case "Log.entryAdded":
                self.errors.append(parameters["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.errors.append(f"a dialog: {parameters['message']}")

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and whether its user prefers a dark theme."""
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
        """Wait until the page is loaded that a click or a key has requested."""
        await asyncio.wait_for(self._loaded.wait(), 60)
        self._loaded.clear()

    async def evaluate(self, script: str) -> Any:
        """Evaluate JavaScript in the page, and return its value."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer)
        return answer["result"].get("value")

    async def wait_for(self, expected: Any, script: str) -> None:
        """Evaluate JavaScript until its value is `expected`. The effect of keys and of the mouse may take a frame."""

        async def check() -> None:
            assert expected == await self.evaluate(script)

        await eventually(check)

    async def press(self, *keys: str) -> None:
        """Press keys, each given by its name or as a single character."""
        for key in keys:
            named = {"key": key, "code": key, "windowsVirtualKeyCode": _KEY_CODES.get(key, 0)}
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            await self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def move_mouse(self, x: float, y: float) -> None:
        """Move the mouse to a position in the window."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def click(self, x: float, y: float) -> None:
        """Click at a position in the window."""
        for event in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    async def screenshot(self, path: Path) -> None:
        """Save a picture of the window."""
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Start a browser with an empty profile, and yield its only tab."""
    profile = tempfile.mkdtemp(prefix="checkpointd-chromium-")
    try:
        async with _browser(profile) as url, _tab(url) as tab:
            yield tab
    finally:
        shutil.rmtree(profile, ignore_errors=True)


@asynccontextmanager
async def _browser(profile: str) -> AsyncIterator[str]:
    """Run the browser. Yields the address of its DevTools."""
    assert CHROMIUM is not None
    no_sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox does not work for root
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *FLAGS,
        *no_sandbox,
        f"--user-data-dir={profile}",
        "about:blank",
        stderr=PIPE,
        stdout=DEVNULL,
        env={**os.environ, "HOME": profile},
    )
    assert process.stderr is not None
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(60):
            line = b""
            while b"DevTools listening on " not in line:
                line = await process.stderr.readline()
                assert line, "Chromium ended at its start"
        reading = asyncio.create_task(process.stderr.read())
        yield line.decode().split("listening on ")[1].strip()
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading


@asynccontextmanager
async def _tab(url: str) -> AsyncIterator[Tab]:
    """Open a tab in the browser with this DevTools address."""
    async with aiohttp.ClientSession() as http, http.ws_connect(url, max_msg_size=0) as socket:
        await socket.send_json({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}})
        target = (await socket.receive_json(timeout=60))["result"]["targetId"]
        attach = {"targetId": target, "flatten": True}
        await socket.send_json({"id": 0, "method": "Target.attachToTarget", "params": attach})
        while "result" not in (answer := await socket.receive_json(timeout=60)):
            pass
        tab = Tab(socket, answer["result"]["sessionId"])
        receiving = asyncio.create_task(tab.receive())
        try:
            for domain in ("Page", "Network", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            # Wait for the blank page, or its load event could be taken for that of the first page.
            await tab.wait_for("complete", "document.readyState")
            yield tab
        finally:
            receiving.cancel()
