"""The device's half of a stream: take a frame, encode it, send it.

Over one TCP connection the device sends a stream as in dsin.runtime.bitstream, and the server
acknowledges each frame that it has decoded with the frame's number, 4 bytes little-endian. At most
IN_FLIGHT frames are under way, so no delay builds up in buffers on the way.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from dsin.runtime.bitstream import (
    PACKET_HEADER_BYTES,
    StreamHeader,
    pack_frame,
    pack_stream_header,
)
from dsin.runtime.encoder import Encoder
from dsin.runtime.errors import StreamError
from dsin.runtime.frames import FrameSource
from dsin.runtime.rate_control import RateController

IN_FLIGHT = 2
"""Frames sent and not yet acknowledged: one under way while the server decodes another."""
ACKNOWLEDGEMENT_BYTES = 4
STALL_S = 120.0
"""A peer that says nothing for so many seconds is given up."""


@dataclass(frozen=True)
class SentFrame:
    """A frame that the server has decoded.

    `packet_bytes` is the size of the frame as a packet, with its header; `stage_ms` are the
    encoder's stages; `end_to_end_ms` runs from the taken frame to the server's acknowledgement.
    """

    number: int
    packet_bytes: int
    stage_ms: dict[str, float]
    end_to_end_ms: float


def connect(host: str, port: int) -> socket.socket:
    """A connection to a server. Raises StreamError if nobody answers."""
    try:
        connection = socket.create_connection((host, port), timeout=STALL_S)
    except OSError as error:
        raise StreamError(f"no server answers at {host}:{port}: {error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send_frames(
    source: FrameSource,
    encoder: Encoder,
    connection: socket.socket,
    *,
    rate: int | None = None,
    controller: RateController | None = None,
    fps: float | None = None,
    on_frame: Callable[[SentFrame], None] = lambda frame: None,
) -> int:
    """Stream the left views of a source and return how many frames were dropped.

    Without `fps`, every frame is sent, as fast as both sides keep up. With it, frames come at that
    pace as from a camera, and those that nobody has time for are dropped. A `controller` chooses
    each frame's rate from what was sent before, in place of `rate`. `on_frame` is called once for
    each frame that the server has decoded, soon after. Raises StreamError if the server
    goes away, FrameError for a frame that cannot be read.
    """
    height, width = source.size
    stream = StreamHeader(encoder.bundle.codec_id, width, height, source.timestamp_ns(0))
    sent = 0
    with _Window(connection, on_frame) as window:
        window.send(pack_stream_header(stream))
        for number in paced(len(source), fps, wait_until_ready=window.wait_for_room):
            frame = source.view(number, "left")
            taken = time.monotonic()
            chosen = rate if controller is None else controller.next_rate()
            coded = encoder.encode_payload(
                frame, rate=chosen, frame_number=number, timestamp_ns=source.timestamp_ns(number)
            )
            data = pack_frame(stream, coded.header, coded.payload)
            if controller is not None:
                controller.sent(coded.header.rate, len(data))
            size = PACKET_HEADER_BYTES + len(coded.payload)
            window.expect(_UnderWay(number, size, coded.stage_ms, taken))
            window.send(data)
            sent += 1
        window.wait_until_empty()
    return len(source) - sent


def paced(
    count: int,
    fps: float | None,
    *,
    wait_until_ready: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Numbers of the frames to take: all of them, or at `fps` the newest whenever one is ready.

    Frame n exists n / fps seconds after the start; one that is older than the newest is skipped.
    """
    start, number = clock(), 0
    while number < count:
        wait_until_ready()
        if fps is not None:
            sleep(max(0.0, start + number / fps - clock()))
            number = max(number, min(count - 1, int((clock() - start) * fps)))
        yield number
        number += 1


class _UnderWay(NamedTuple):
    number: int
    packet_bytes: int
    stage_ms: dict[str, float]
    taken_s: float


class _Window:
    """The frames under way. A thread of its own notes when acknowledgements come."""

    def __init__(self, connection: socket.socket, on_frame: Callable[[SentFrame], None]) -> None:
        self._connection = connection
        self._on_frame = on_frame
        self._changed = threading.Condition()
        self._under_way: deque[_UnderWay] = deque()
        self._done: deque[SentFrame] = deque()
        self._fault: StreamError | None = None
        self._thread = threading.Thread(target=self._listen, name="acknowledgements", daemon=True)

    def __enter__(self) -> "_Window":
        self._connection.settimeout(STALL_S)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the peer may have gone first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def send(self, data: bytes) -> None:
        """Raises StreamError if the server is gone or takes nothing for STALL_S."""
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise self._fault or StreamError(f"the server is gone: {error}") from error

    def expect(self, frame: _UnderWay) -> None:
        """Note a frame, before it is sent."""
        with self._changed:
            self._under_way.append(frame)

    def wait_for_room(self) -> None:
        """Until fewer than IN_FLIGHT frames are under way."""
        self._wait(IN_FLIGHT - 1)

    def wait_until_empty(self) -> None:
        """Until the server has decoded everything."""
        self._wait(0)

    def _wait(self, most: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._under_way) <= most or self._fault)
        while self._done:
            self._on_frame(self._done.popleft())
        if self._fault is not None:
            raise self._fault

    def _listen(self) -> None:
        try:
            while True:
                self._acknowledge(self._receive())
        except StreamError as error:
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _receive(self) -> int:
        data = b""
        while len(data) < ACKNOWLEDGEMENT_BYTES:
            try:
                part = self._connection.recv(ACKNOWLEDGEMENT_BYTES - len(data))
            except TimeoutError as error:
                if data or self._under_way:
                    raise StreamError(f"the server was silent for {STALL_S:.0f} s") from error
                continue
            except OSError as error:
                raise StreamError(f"the server is gone: {error}") from error
            if not part:
                raise StreamError("the server closed the connection")
            data += part
        return int.from_bytes(data, "little")

    def _acknowledge(self, number: int) -> None:
        now = time.monotonic()
        with self._changed:
            if not self._under_way or self._under_way[0].number != number:
                raise StreamError(f"the server acknowledged frame {number} out of turn")
            frame = self._under_way.popleft()
            latency_ms = 1000 * (now - frame.taken_s)
            self._done.append(SentFrame(number, frame.packet_bytes, frame.stage_ms, latency_ms))
            self._changed.notify_all()
