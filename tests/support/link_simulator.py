"""A bad link on loopback, for TCP and UDP at once: a proxy in front of a server's port.

    with LinkSimulator(server.port, Conditions(delay_s=0.1, loss=0.05), seed=1) as link:
        connect to 127.0.0.1, link.port, by TCP or UDP
        link.conditions.kbps = 150  # may change at any time

One TCP and one UDP port of the same number, so that a device finds both where it finds one. What
the link does to packets, and how honest that is to TCP, is told in `support.link_model`.
"""

import asyncio
import contextlib
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import TracebackType

from dsin.runtime.loop_thread import LoopThread
from support.link_model import (
    IP_UDP_BYTES,
    SEGMENT_BYTES,
    Conditions,
    Outage,
    Outages,
    SegmentStream,
    Wire,
)

LOOPBACK = "127.0.0.1"
MOST_DATAGRAM = 65535
MOST_SENDERS = 64
"""Addresses that send datagrams, remembered as a router does; the one quiet for longest goes."""
WINDOW_BYTES = 262_144
"""What TCP has under way in one direction, at most."""
FULL_S = 0.002
"""How often a stream looks whether the link's queue has room again."""


class LinkSimulator:
    """Listens on `port` of loopback (TCP and UDP; 0 picks one) and passes everything on to
    `target_port`, as the `conditions` of the way there and those of the way `back` allow (by
    default one object for both ways, so that a change of it holds for both). Change their fields
    to change the link.

    `tap` is called with each datagram that comes from a sender, in the proxy's thread.
    """

    def __init__(
        self,
        target_port: int,
        conditions: Conditions | None = None,
        *,
        back: Conditions | None = None,
        seed: int = 0,
        port: int = 0,
        tap: Callable[[bytes], object] = lambda data: None,
    ) -> None:
        self.conditions = conditions or Conditions()
        self.back = back or self.conditions
        self.port = port
        self.payload_bytes = 0
        """What came to be sent to the server so far: TCP's and UDP's content, without headers."""
        self._target = LOOPBACK, target_port
        self._seed = seed
        self._tap = tap
        self._outages = Outages(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._senders: OrderedDict[tuple[str, int], socket.socket] = OrderedDict()
        self._thread: LoopThread[int] = LoopThread("link-simulator", self._serve)

    def __enter__(self) -> "LinkSimulator":
        self.port = self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.stop()

    @property
    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """What became of packets on the way there and back."""
        return Counter(self._forth.counts), Counter(self._return.counts)

    @property
    def outages(self) -> list[Outage]:
        """Bursts so far, in the seconds of time.monotonic."""
        return list(self._outages.begun)

    def cut(self) -> None:
        """Break all TCP connections, and forget who sent datagrams."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        while self._senders:
            self._forget_sender()

    async def _serve(self, started: Callable[[int], None], stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._forth = Wire(self._loop, self.conditions, self._outages, self._seed)
        self._return = Wire(self._loop, self.back, self._outages, self._seed + 1)
        stream, self._near = _sockets(self.port)
        # asyncio's listener must not read ahead of the link, so connections are taken by hand.
        accepting = asyncio.create_task(self._accept(stream))
        self._loop.add_reader(self._near, self._read_near)
        started(stream.getsockname()[1])
        await stop.wait()
        accepting.cancel()
        self._loop.remove_reader(self._near)
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(accepting, *self._tasks, return_exceptions=True)
        stream.close()
        self._near.close()

    # TCP.

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = await self._loop.sock_accept(listener)
            task = asyncio.create_task(self._connect(near))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: socket.socket) -> None:
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near_reader, near_writer = await asyncio.open_connection(sock=near, limit=SEGMENT_BYTES)
        try:
            far_reader, far_writer = await asyncio.open_connection(
                *self._target, limit=SEGMENT_BYTES
            )
        except OSError:
            near_writer.transport.abort()
            return
        writers = {near_writer, far_writer}
        self._writers |= writers
        try:
            await asyncio.gather(
                self._carry(near_reader, far_writer, self._forth),
                self._carry(far_reader, near_writer, self._return),
            )
        except OSError:
            pass
        finally:
            self._writers -= writers
            for writer in writers:
                writer.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire
    ) -> None:
        def deliver(segment: bytes) -> None:
            if not writer.is_closing():
                writer.write(segment)

        way = SegmentStream(self._loop, wire, deliver)
        while segment := await reader.read(SEGMENT_BYTES):
            while not way.has_room(len(segment)) or way.under_way > WINDOW_BYTES:
                await asyncio.sleep(FULL_S)
            way.send(segment)
            self.payload_bytes += len(segment) * (wire is self._forth)
        while way.under_way and not writer.is_closing():
            await asyncio.sleep(FULL_S)
        with contextlib.suppress(OSError):
            writer.write_eof()

    # UDP.

    def _read_near(self) -> None:
        for data, sender in _received(self._near):
            self._tap(data)
            self.payload_bytes += len(data)
            self._forth.send(len(data) + IP_UDP_BYTES, _sending(self._far(sender), data))

    def _far(self, sender: tuple[str, int]) -> socket.socket:
        """The socket from which the server hears of that sender."""
        far = self._senders.get(sender)
        if far is None:
            if len(self._senders) >= MOST_SENDERS:
                self._forget_sender()
            far = self._senders[sender] = _datagram_socket()
            far.connect(self._target)
            self._loop.add_reader(far, self._read_far, far, sender)
        self._senders.move_to_end(sender)
        return far

    def _forget_sender(self) -> None:
        _, far = self._senders.popitem(last=False)
        self._loop.remove_reader(far)
        far.close()

    def _read_far(self, far: socket.socket, sender: tuple[str, int]) -> None:
        for data, _ in _received(far):
            self._return.send(len(data) + IP_UDP_BYTES, _sending(self._near, data, sender))


def _sending(
    through: socket.socket, data: bytes, to: tuple[str, int] | None = None
) -> Callable[[], object]:
    """What sends a datagram; nobody may be there any more, which is no concern of a link."""

    def send() -> None:
        with contextlib.suppress(OSError):
            if to is None:
                through.send(data)
            else:
                through.sendto(data, to)

    return send


def _received(one: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    """All datagrams that are there."""
    found = []
    while True:
        try:
            found.append(one.recvfrom(MOST_DATAGRAM))
        except ConnectionRefusedError:  # of an earlier one, at its target
            continue
        except OSError:
            return found


def _datagram_socket() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return one


def _sockets(port: int) -> tuple[socket.socket, socket.socket]:
    """A listening TCP socket and a UDP socket of one port."""
    while True:
        stream = socket.create_server((LOOPBACK, port))
        stream.setblocking(False)
        datagrams = _datagram_socket()
        try:
            datagrams.bind((LOOPBACK, stream.getsockname()[1]))
        except OSError:
            stream.close()
            datagrams.close()
            if port:
                raise
            continue  # another process has that one for UDP
        return stream, datagrams
