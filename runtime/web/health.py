"""/healthz: whether the server takes rigs."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dsin.runtime.outputs.rig_status import RigStatus

if TYPE_CHECKING:
    from aiohttp import web

    from dsin.runtime.web.http_server import Routes


class Health:
    """Answers 200 with {"status": "serving", …}, after `stop` 503 with {"status": "stopping", …}.

    `status` is called from the HTTP server's thread.
    """

    def __init__(self, status: Callable[[], Sequence[RigStatus]]) -> None:
        self._status = status
        self._since = time.monotonic()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """From now on, answer that the server is shutting down."""
        self._stopping.set()

    def routes(self) -> "Routes":
        """The routes for HttpServer."""
        from aiohttp import web

        return [web.get("/healthz", self._answer)]

    async def _answer(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        rigs, stopping = self._status(), self._stopping.is_set()
        return web.json_response(
            {
                "status": "stopping" if stopping else "serving",
                "uptime_s": round(time.monotonic() - self._since, 1),
                "rigs": len(rigs),
                "rigs_connected": sum(rig.camera_connected for rig in rigs),
            },
            status=503 if stopping else 200,
        )
