"""The live page: decoded pictures, where the patches were found, and the state of the link.

    take(frame) ─► newest frame of each rig ─► views that are looked at, as JPEG, once ─► viewers
                └► the last minute of each rig ─► twice a second ─► viewers

A viewer says what it wants to see and grants credits, at most CREDITS, one back for each frame
that it has drawn. So a slow one skips frames, and never has old ones in the way. Without viewers
nothing is encoded. Nothing that a viewer sends changes anything but its own view.

Over the WebSocket /live a viewer sends JSON: {"rig": name or null, "views": [names], "credits": n},
each key optional. It gets text messages with all rigs' status and the chosen one's new points, and
binary ones with a frame: the header's length (4 bytes, big-endian), the header as JSON, then its
views one after the other.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dsin.runtime.errors import DsinError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.web.http_server import require_aiohttp
from dsin.runtime.web.pictures import VIEWS, FramePictures
from dsin.runtime.web.state import STATUS_EVERY_S, PageState

if TYPE_CHECKING:
    from aiohttp import web

    from dsin.runtime.web.http_server import Routes

MOST_VIEWERS = 8
CREDITS = 2
HEARTBEAT_S = 10.0
CLOSE_WITHIN_S = 1.0
FULL = 4008
"""WebSocket close code: as many viewers as are allowed are there."""
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page_pictures.js": ("page_pictures.js", "text/javascript"),
    "/page_plots.js": ("page_plots.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}


class WebPage:
    """A sink of frames, and the routes of the page.

    `status` is called from the sink's and the HTTP server's thread. `patch` is the (rows, columns)
    of the bundle's search, `networks` says what its networks compute in. Raises BackendError
    without aiohttp.
    """

    def __init__(
        self,
        status: Callable[[], Sequence[RigStatus]],
        *,
        patch: tuple[int, int] = (20, 24),
        networks: str = "",
        most_viewers: int = MOST_VIEWERS,
    ) -> None:
        require_aiohttp()
        self._state = PageState(status, patch, networks)
        self._most_viewers = most_viewers
        self._viewers: set[_Viewer] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def name(self) -> str:
        return "web"

    @property
    def viewers(self) -> int:
        """How many viewers there are at the moment."""
        return len(self._viewers)

    def take(self, frame: DecodedFrame) -> None:
        """Show a frame to whoever looks at its rig."""
        self._state.add(frame)
        loop = self._loop
        if self._viewers and loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """No more frames come. The viewers keep the last ones until the HTTP server ends."""

    def routes(self) -> "Routes":
        """For HttpServer."""
        from aiohttp import web

        files = [web.get(path, _file(*what)) for path, what in _FILES.items()]
        return [*files, web.get("/live", self._live)]

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.news.set()

    async def _live(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
            raise web.HTTPForbidden(text="pages of other origins may not look\n")
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=4096, timeout=CLOSE_WITHIN_S
        )
        await socket.prepare(request)
        self._loop = asyncio.get_running_loop()
        if len(self._viewers) >= self._most_viewers:
            await socket.close(code=FULL, message=b"too many viewers")
            return socket
        viewer = _Viewer(self._state, socket)
        self._viewers.add(viewer)
        try:
            await viewer.serve()
        finally:
            self._viewers.discard(viewer)
            await socket.close(code=1001)
        return socket


class _Viewer:
    """One browser."""

    def __init__(self, state: PageState, socket: "web.WebSocketResponse") -> None:
        self.news = asyncio.Event()
        self._state = state
        self._socket = socket
        self._rig: str | None = None
        self._views: list[str] = []
        self._credits = 0
        self._shown: FramePictures | None = None
        self._point = 0

    async def serve(self) -> None:
        """Serve one viewer until it goes."""
        halves = [asyncio.ensure_future(half) for half in (self._read(), self._write())]
        try:
            done, _ = await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(ConnectionError):
                done.pop().result()
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    async def _read(self) -> None:
        async for message in self._socket:
            try:
                self._heed(json.loads(message.data))
            except (TypeError, ValueError, OverflowError, AttributeError, RecursionError):
                await self._socket.close(code=1008, message=b"not a message of this page")
                return
            self.news.set()

    def _heed(self, wish: dict[str, Any]) -> None:
        """Raises TypeError, ValueError or AttributeError for a malformed wish."""
        if "rig" in wish:
            self._rig = None if wish["rig"] is None else str(wish["rig"])
            self._shown, self._point = None, 0
        if "views" in wish:
            self._views = [view for view in VIEWS if view in list(wish["views"])]
            self._shown = None
        self._credits = max(0, min(CREDITS, self._credits + int(wish.get("credits", 0))))

    async def _write(self) -> None:
        status_due = 0.0
        while True:
            if time.monotonic() >= status_due:
                status_due = time.monotonic() + STATUS_EVERY_S
                await self._send_status()
            await self._send_frame()
            self.news.clear()
            try:
                await asyncio.wait_for(self.news.wait(), max(0.0, status_due - time.monotonic()))
            except asyncio.TimeoutError:
                continue

    async def _send_status(self) -> None:
        rigs = [asdict(rig) for rig in self._state.rigs()]
        message = {
            "now_s": time.monotonic(), "rigs": rigs, "rig": self._rig,
            "networks": self._state.networks,
        }  # fmt: skip
        if self._rig is not None:
            message["after"] = self._point
            self._point, points = self._state.points(self._rig, self._point)
            message.update(points)
        await self._socket.send_str(_json(message))

    async def _send_frame(self) -> None:
        newest = None if self._rig is None else self._state.newest(self._rig)
        if newest is None or newest is self._shown or not self._credits:
            return
        self._shown = newest
        self._credits -= 1
        views = [view for view in self._views if view in newest.available]
        files = [await asyncio.wrap_future(newest.get(view)) for view in views]
        header = describe(newest)
        header["views"] = [[view, len(file)] for view, file in zip(views, files, strict=True)]
        head = _json(header).encode()
        await self._socket.send_bytes(b"".join([len(head).to_bytes(4, "big"), head, *files]))


def describe(pictures: FramePictures) -> dict[str, Any]:
    """A frame's header: what is written beside the pictures. `age_ms` is as of now."""
    frame = pictures.frame
    height, width = frame.decoded.image.shape[:2]
    header = frame.decoded.header
    return {
        "rig": frame.rig,
        "number": frame.number,
        "age_ms": (now_ns() - frame.captured_ns) / 1e6,
        "packet_bytes": len(frame.packet),
        "bpp": 8 * len(frame.packet) / (width * height),
        "rate": None if header is None else header.rate,
        "width": width,
        "height": height,
        "use": frame.side_use.value,
        "used_side": frame.decoded.used_side,
        "side_number": None if frame.side is None else frame.side.number,
        "search": pictures.search(),
    }


def _json(value: Any) -> str:
    """As browsers take it: what is not a finite number is null (devices may tell anything)."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inside) for inside in value]
    return value


def _file(name: str, content_type: str) -> "Callable[[web.Request], Any]":
    """A handler for a file of the package, which is read once."""
    try:
        body = Path(__file__).with_name(name).read_bytes()
    except OSError as error:
        raise DsinError(f"the page's {name} is missing: install dsin again") from error

    async def answer(_: "web.Request") -> "web.Response":
        from aiohttp import web

        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return answer
