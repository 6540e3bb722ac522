"""A headless Chromium, driven through its DevTools protocol: enough to load, ask and photograph.

async with open_chromium(folder) as browser:
    await browser.open("http://127.0.0.1:8080/", width=1440, height=900)
    title = await browser.evaluate("document.title")

Or photograph a page as it is after some seconds, as PNG or JPEG:

    python tests/support/headless_chromium.py http://127.0.0.1:8080/ page.jpg [--after-s 70]
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
    "--remote-debugging-port=0", "about:blank",
)  # fmt: skip
STARTS_WITHIN_S = 60.0


def find_chromium() -> str | None:
    """Its path, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """What the page wrote to the console as warning or error, and exceptions."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._listen(message)

    async def open(
        self, url: str, *, width: int, height: int, mobile: bool = False, dark: bool = False
    ) -> None:
        """Load a page in a window of that size in CSS pixels."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def wait_for(self, expression: str, seconds: float = 30.0) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not await self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            await asyncio.sleep(0.1)

    async def photograph(self, *, whole: bool = False) -> bytes:
        """A PNG file of the window, or of the whole page."""
        result = await self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        return base64.b64decode(result["data"])

    def _listen(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(str(parameters["args"]))


@contextlib.asynccontextmanager
async def open_chromium(profile: Path) -> AsyncIterator[Browser]:
    """Start it with a fresh profile in a folder, and end it with the block."""
    program = find_chromium()
    assert program is not None
    command = [program, *OPTIONS[:-1], f"--user-data-dir={profile}", OPTIONS[-1]]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = await answer.json()
            tab = next(tab for tab in tabs if tab["type"] == "page")
            address = tab["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()


async def _port(file: Path) -> int:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not file.is_file() or not file.read_text().strip():
        assert time.monotonic() < deadline, "Chromium did not start"
        await asyncio.sleep(0.1)
    return int(file.read_text().split()[0])


async def photograph_page(url: str, picture: Path, after_s: float) -> None:
    """Of a window of 1440x900."""
    with tempfile.TemporaryDirectory() as profile:
        async with open_chromium(Path(profile)) as browser:
            await browser.open(url, width=1440, height=900)
            await asyncio.sleep(after_s)
            png = np.frombuffer(await browser.photograph(), np.uint8)
    cv2.imwrite(str(picture), cv2.imdecode(png, cv2.IMREAD_COLOR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--after-s", type=float, default=5.0)
    arguments = parser.parse_args()
    asyncio.run(photograph_page(arguments.url, arguments.picture, arguments.after_s))


if __name__ == "__main__":
    main()
