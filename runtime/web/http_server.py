"""A small HTTP server in a thread: routes that the page, the metrics and the health check bring.

It listens on loopback unless told otherwise. There, it answers only requests whose Host header
names loopback: a page of the internet whose name was rebound to 127.0.0.1 gets nothing. Every
answer forbids the browser to load, run or embed what does not come from here.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dsin.runtime.errors import BackendError, DsinError
from dsin.runtime.loop_thread import LoopThread

if TYPE_CHECKING:
    from aiohttp import web

    Routes = Sequence[web.AbstractRouteDef]
    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = "127.0.0.1"
CONNECTIONS = 128
"""At once; further ones are closed unanswered, so that idle ones cannot use up file descriptors."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "dsin",
}


def require_aiohttp() -> None:
    """Raises BackendError with the command that installs it."""
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "the web page and the metrics need aiohttp: pip install 'dsin[serve]'"
        ) from error


class HttpServer:
    """Serves `routes`, each group as a `routes()` method returns it, while the block runs.

        with HttpServer(LOOPBACK, 0, [page.routes(), metrics.routes(), health.routes()]) as server:
            print(server.url)

    Port 0 lets the system choose. At the end, requests that are still open are cancelled. Raises
    BackendError without aiohttp, DsinError for an address that cannot be listened on.
    """

    def __init__(self, host: str, port: int, routes: Iterable["Routes"]) -> None:
        require_aiohttp()
        self._routes = [route for group in routes for route in group]
        self.host = host
        self.port = port
        """Once started, the one that the system chose."""
        self._socket: socket.socket | None = None
        self._loopback_only = True
        self._open: set[asyncio.Task[Any]] = set()
        self._thread: LoopThread[None] = LoopThread("http", self._serve)

    @property
    def url(self) -> str:
        """Where it answers; for a wildcard address, the URL on this machine."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def __enter__(self) -> "HttpServer":
        self._socket = _listen(self.host, self.port)
        address, self.port, *_ = self._socket.getsockname()
        self._loopback_only = _is_loopback(address)
        try:
            self._thread.start()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.stop()
        if self._socket is not None:
            self._socket.close()

    async def _serve(self, started: Callable[[None], None], stop: asyncio.Event) -> None:
        from aiohttp import web

        assert self._socket is not None

        @web.middleware
        async def admit(request: web.Request, handler: "Handler") -> web.StreamResponse:
            return await self._admit(request, handler)

        app = web.Application(middlewares=[admit])
        app.on_response_prepare.append(_secure)
        app.router.add_routes(self._routes)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=15.0, shutdown_timeout=2.0)
        await runner.setup()
        assert runner.server is not None
        answering = runner.server

        arriving = 0

        def connect() -> asyncio.BaseProtocol:
            nonlocal arriving
            if len(answering.connections) + arriving >= CONNECTIONS:
                return _Refusing()
            arriving += 1  # until the next turn of the loop, when it is among the connections
            asyncio.get_running_loop().call_soon(arrived)
            return answering()

        def arrived() -> None:
            nonlocal arriving
            arriving -= 1

        loop = asyncio.get_running_loop()
        listening = await loop.create_server(connect, sock=self._socket)
        started(None)
        await stop.wait()
        listening.close()
        for task in self._open:
            task.cancel()
        await runner.cleanup()

    async def _admit(self, request: "web.Request", handler: "Handler") -> "web.StreamResponse":
        """Middleware: checks Host, and keeps track of what is open."""
        from aiohttp import web

        if self._loopback_only and not _names_loopback(request.headers.get("Host", "")):
            raise web.HTTPForbidden(
                text="this server answers to localhost, 127.0.0.1 and [::1] only\n"
            )
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            return await handler(request)
        finally:
            self._open.discard(task)


class _Refusing(asyncio.Protocol):
    """Closes the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _secure(_: "web.Request", response: "web.StreamResponse") -> None:
    response.headers.update(_HEADERS)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= 65535:
            raise OverflowError("ports are 0 to 65535")
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)  # fmt: skip
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DsinError(
            f"cannot listen on {host} port {port}: {reason}; choose another with the same option"
        ) from error


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _names_loopback(host: str) -> bool:
    """Whether a Host header is of this machine; the port may be that of a tunnel."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in ("localhost", "127.0.0.1", "::1")
