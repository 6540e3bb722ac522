"""The server's UDP port: hands each datagram to the session that it names."""

import asyncio
import errno
import logging
import secrets
import socket
import time
from collections import Counter
from typing import Any

from dsin.runtime.datagrams.sealing import UNKNOWN, RejectedError, session_of
from dsin.runtime.errors import StreamError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.link.rpc import join_address
from dsin.runtime.server.datagram_session import Address, DatagramSession, Taker
from dsin.runtime.server.link_tally import LinkTally

LOG = logging.getLogger(__name__)
TICK_S = 0.025
TELL_S = 10.0
"""Rejected datagrams are logged that often at most."""
BUFFER_BYTES = 2**20
"""Of the socket: what comes while the loop is busy."""


class DatagramEndpoint:
    """Sessions by their numbers. `strangers` counts datagrams that are of none of them, by reason.

    All methods are called in the event loop.
    """

    def __init__(self, strangers: Counter[str] | None = None) -> None:
        self.strangers: Counter[str] = Counter() if strangers is None else strangers
        self._sessions: dict[int, tuple[DatagramSession, asyncio.DatagramTransport]] = {}
        self._transports: list[asyncio.DatagramTransport] = []
        self._ticking: asyncio.Task[None] | None = None
        self._told_s = float("-inf")

    async def listen(self, host: str, port: int) -> None:
        """Listen at every address of a host. Raises StreamError for a port that is taken."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )  # fmt: skip
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Port(self), family=family, local_addr=(str(address[0]), port)
                )
                self._transports.append(transport)
                _enlarge(transport)
        except OSError as error:
            self.close()
            reason = (error.strerror or str(error)).lower()
            if error.errno == errno.EADDRINUSE:
                reason = "the port is taken; choose another one with HOST:PORT"
            raise StreamError(
                f"cannot listen at {join_address(host, port)} for datagrams (UDP): {reason}"
            ) from error
        self._ticking = asyncio.create_task(self._tick())

    def close(self) -> None:
        """Listen no more."""
        if self._ticking is not None:
            self._ticking.cancel()
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def open(self, tally: LinkTally, taker: Taker) -> DatagramSession:
        """A session with new keys."""
        number = secrets.randbits(32)
        while number in self._sessions:
            number = secrets.randbits(32)
        session = DatagramSession(
            number, tally, taker, lambda data, address: self._send(number, data, address)
        )
        self._sessions[number] = session, self._transports[0]
        return session

    def forget(self, session: DatagramSession) -> None:
        """Take no more of its datagrams."""
        if self._sessions.pop(session.number, None) is not None:
            session.end()

    def take(self, datagram: bytes, address: Address, port: asyncio.DatagramTransport) -> None:
        """A datagram that came."""
        received_ns = now_ns()
        try:
            number = session_of(datagram)
            if number not in self._sessions:
                raise RejectedError(UNKNOWN)
        except RejectedError as rejected:
            self.strangers[rejected.reason] += 1
            self._tell_of_strangers()
            return
        session, _ = self._sessions[number]
        self._sessions[number] = session, port
        session.take(datagram, address, received_ns)

    def _send(self, number: int, datagram: bytes, address: Address) -> None:
        _, port = self._sessions.get(number, (None, None))
        if port is not None and not port.is_closing():
            port.sendto(datagram, address)

    async def _tick(self) -> None:
        while True:
            now_s = time.monotonic()
            for session, _ in list(self._sessions.values()):
                session.tick(now_s)
            await asyncio.sleep(TICK_S)

    def _tell_of_strangers(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            counts = ", ".join(f"{count} {reason}" for reason, count in self.strangers.items())
            LOG.warning("rejected datagrams that are of no session, so far: %s", counts)


class _Port(asyncio.DatagramProtocol):
    def __init__(self, endpoint: DatagramEndpoint) -> None:
        self._endpoint = endpoint
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._endpoint.take(data, addr, self._transport)

    def error_received(self, exc: Exception) -> None:
        """A peer that is gone answers so; sessions end by silence."""


def _enlarge(transport: asyncio.DatagramTransport) -> None:
    own = transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
