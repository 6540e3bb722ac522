"""The server's half of a stream: receive packets, decode them with the own camera's view.

The server takes the frame of the same number from its own source. What depends on that view alone
is computed while the packet is still being made and sent. The protocol is in dsin.runtime.client.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from dsin.runtime.bitstream import PACKET_HEADER_BYTES, PacketHeader, StreamReader
from dsin.runtime.client import ACKNOWLEDGEMENT_BYTES, STALL_S
from dsin.runtime.decoder import Decoded, Decoder, SideFeatures
from dsin.runtime.errors import StreamError
from dsin.runtime.frames import FrameSource

RECEIVE_BYTES = 65536


@dataclass(frozen=True)
class ServedFrame:
    """A decoded frame; `packet_bytes` is its size as a packet, with the header.

    `side_ms` are the stages that prepared the side view, `decoded.stage_ms` the decoder's.
    """

    number: int
    packet_bytes: int
    decoded: Decoded
    side_ms: dict[str, float]


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A listening socket; port 0 lets the system choose. Raises StreamError if it is taken."""
    try:
        return socket.create_server((host, port), backlog=1)
    except OSError as error:
        raise StreamError(f"cannot listen at {host}:{port}: {error}") from error


def accept(listener: socket.socket) -> socket.socket:
    """The next connection. Raises StreamError if none comes within STALL_S."""
    listener.settimeout(STALL_S)
    try:
        connection, _ = listener.accept()
    except TimeoutError as error:
        raise StreamError(f"no device connected within {STALL_S:.0f} s") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def serve_frames(
    connection: socket.socket,
    source: FrameSource,
    decoder: Decoder,
    *,
    on_frame: Callable[[ServedFrame], None] = lambda frame: None,
) -> int:
    """Decode one device's stream until it ends, and return the number of frames.

    `on_frame` is called for each frame after its acknowledgement. Raises PacketError for damaged
    or foreign bytes, StreamError for a device that goes away in the middle of a frame, is silent
    for STALL_S, or sends frames that the side camera does not have.
    """
    connection.settimeout(STALL_S)
    reader = StreamReader(decoder.bundle.codec_id)
    pairing = _Pairing(source, decoder)
    count = received = 0
    while True:
        pairing.prepare_next()
        data = _receive(connection)
        if not data:
            break
        received += len(data)
        for header, payload in reader.feed(data):
            side = pairing.take(header)
            decoded = decoder.decode_parts(header, payload, side)
            _acknowledge(connection, header.frame_number)
            size = PACKET_HEADER_BYTES + len(payload)
            on_frame(ServedFrame(header.frame_number, size, decoded, side.stage_ms))
            count += 1
        if reader.header is not None:
            pairing.check_size(reader.header.height, reader.header.width)
    if not received:
        raise StreamError("the device hung up before its stream began")
    if not reader.at_boundary:
        raise StreamError("the device went away in the middle of a frame")
    return count


class _Pairing:
    """Side views by frame number, the next one prepared ahead of its packet."""

    def __init__(self, source: FrameSource, decoder: Decoder) -> None:
        self._source = source
        self._decoder = decoder
        self._next = 0
        self._rate: int | None = None
        self._ready: SideFeatures | None = None

    def check_size(self, height: int, width: int) -> None:
        """Raise StreamError for a stream of another size, before its first frame is whole."""
        if (height, width) != self._source.size:
            rows, columns = self._source.size
            raise StreamError(
                f"the device sends {width}x{height}, but the side camera has {columns}x{rows}"
            )

    def prepare_next(self) -> None:
        """Prepare the view that the next packet is likely to want, unless that is done."""
        if self._ready is None and self._next < len(self._source):
            self._ready = self._prepare(self._next)

    def take(self, header: PacketHeader) -> SideFeatures:
        """The side view of a packet. Raises StreamError for a number that is not due."""
        self.check_size(header.height, header.width)
        number = header.frame_number
        if not self._next <= number < len(self._source):
            raise StreamError(
                f"the device sends frame {number}, but the side camera is at {self._next} "
                f"of {len(self._source)}"
            )
        ahead = self._ready if number == self._next else None  # None: the device dropped some
        self._ready, self._next = None, number + 1
        self._rate = header.rate  # the next frame's, most likely
        return ahead or self._prepare(number)

    def _prepare(self, number: int) -> SideFeatures:
        return self._decoder.prepare_side(self._source.view(number, "right"), rate=self._rate)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(RECEIVE_BYTES)
    except TimeoutError as error:
        raise StreamError(f"the device was silent for {STALL_S:.0f} s") from error
    except OSError as error:
        raise StreamError(f"the device is gone: {error}") from error


def _acknowledge(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(number.to_bytes(ACKNOWLEDGEMENT_BYTES, "little"))
    except OSError as error:
        raise StreamError(f"the device is gone: {error}") from error
