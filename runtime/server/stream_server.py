"""The rig's server: listens, and runs the service in an event loop of its own thread.

cameras ══ gRPC ══► RigService ─► DecodePool ─► on_frame
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import grpc
import grpc.aio

from dsin.runtime.errors import StreamError
from dsin.runtime.link.rpc import (
    SERVER_OPTIONS,
    SERVICE,
    Certificates,
    check_plaintext,
    join_address,
    server_credentials,
)
from dsin.runtime.loop_thread import LoopThread
from dsin.runtime.server.datagram_endpoint import DatagramEndpoint
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.rig_service import RigService
from dsin.runtime.server.side_cameras import SideCameras

LOG = logging.getLogger(__name__)
MAX_STREAMS = 1024
"""Streams at once, over all connections; one more is refused."""
PORT_TRIES = 8
"""Ports that the system may choose before one is free of TCP and of UDP."""
GRACE_S = 2.0
"""When the server stops, frames under way have so long to be answered."""
UNWIND_S = 1.0
"""And what their calls still do then, so long."""


class StreamServer:
    """Serves a pool's rigs while the block lasts.

        with StreamServer(pool, "127.0.0.1", 0) as server:
            print(server.port)

    Port 0 lets the system choose. Without certificates only loopback addresses are allowed.
    `sides` are the server's own side cameras. With `datagrams` frames may come in datagrams too, at
    the same port of UDP; `strangers` counts those that are of no camera here, by reason.
    `health` adds the standard gRPC health service (extra `serve`). Raises StreamError for an
    address that it cannot listen at.
    """

    def __init__(
        self,
        pool: DecodePool,
        host: str,
        port: int,
        *,
        certificates: Certificates | None = None,
        sides: SideCameras | None = None,
        health: bool = False,
        datagrams: bool = True,
        strangers: Counter[str] | None = None,
    ) -> None:
        if certificates is None:
            check_plaintext(host)
        self.host, self.port = host, port
        self._credentials = None if certificates is None else server_credentials(certificates)
        self._datagrams = DatagramEndpoint(strangers) if datagrams else None
        self._service = RigService(
            pool,
            authenticated=certificates is not None,
            sides=sides,
            datagrams=self._datagrams,
        )
        self._health = health
        self._thread: LoopThread[int] = LoopThread("rig-server", self._serve)

    def __enter__(self) -> "StreamServer":
        self.port = self._thread.start()
        LOG.info("listening at %s", join_address(self.host, self.port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take no more streams, answer what is under way, and end."""
        self._thread.stop()

    async def _serve(self, started: Callable[[int], None], stop: asyncio.Event) -> None:
        server, port = await self._listening()
        await server.start()
        started(port)
        await stop.wait()
        await server.stop(GRACE_S)
        self._service.stop()
        if self._datagrams is not None:
            self._datagrams.close()
        # Calls that are just ending: if the loop cancelled them, gRPC would print a traceback.
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=UNWIND_S)

    async def _listening(self) -> tuple[grpc.aio.Server, int]:
        """A server at one port of TCP and UDP. Where the system chooses that of TCP, the same one
        may be taken of UDP: then it chooses again."""
        for tries_left in reversed(range(PORT_TRIES)):
            server, port = await self._with_port()
            try:
                if self._datagrams is not None:
                    await self._datagrams.listen(self.host, port)
                return server, port
            except StreamError:
                await server.stop(None)
                if self.port or not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _with_port(self) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        server.add_generic_rpc_handlers((self._service.handler(),))
        if self._health:
            await _add_health(server)
        address = join_address(self.host, self.port)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise StreamError(f"cannot listen at {address}: is the port taken?") from error
        return server, port


async def _add_health(server: grpc.aio.Server) -> None:
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_health.v1.health import aio
    except ModuleNotFoundError as error:
        raise StreamError(
            f"serving needs {error.name}, which is missing: pip install 'dsin[serve]'"
        ) from error
    servicer = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", SERVICE):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
