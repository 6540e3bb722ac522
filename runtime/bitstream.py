"""Packets and streams: how coded frames are framed, byte by byte.

All integers are little-endian. The checksum is CRC-32 as in zip and PNG (`zlib.crc32`).

A packet stands alone (a file, a datagram):

    offset  bytes  field
         0      4  magic, the ASCII letters DSIN
         4      1  version, 1
         5      1  rate index, 0 is the lowest rate
         6      6  codec id: which symbols and which probabilities (see dsin.runtime.bundle)
        12      4  frame number
        16      8  timestamp, nanoseconds
        24      2  width of the picture, pixels, at least 1
        26      2  height of the picture, pixels, at least 1
        28      4  checksum of bytes 0 to 27 and of the payload
        32      n  payload, to the end: the coded symbols (see dsin.runtime.context_model)

A stream says once what stays the same, then sends frames one after the other:

    offset  bytes  stream header
         0      4  magic, the ASCII letters DSNS
         4      1  version, 1
         5      1  zero
         6      6  codec id
        12      2  width
        14      2  height
        16      8  timestamp of the stream's start, nanoseconds
        24      4  checksum of bytes 0 to 23

    offset  bytes  frame
         0      3  length of the payload
         3      1  rate index
         4      4  frame number
         8      4  microseconds since the stream's start, modulo 2^32
        12      4  checksum of bytes 0 to 11 and of the payload, continued from the stream
                   header's checksum, so that a frame of another stream is refused
        16      n  payload

Timestamps are unwrapped by the reader: each is taken to lie within 2^31 microseconds (35 minutes)
of the one before, the first of the start. A stream carries whole microseconds; what a timestamp
has below that is lost.

A picture has at most MAX_PIXELS pixels and a payload at most MAX_PAYLOAD bytes. Everything is
checked before anything is allocated for it, and every fault is a PacketError of one line.
"""

import struct
import zlib
from dataclasses import dataclass

from dsin.runtime.errors import PacketError
from dsin.runtime.pictures import MAX_PIXELS

VERSION = 1
"""Version of packets, streams and of the coding of symbols."""
MAX_PAYLOAD = 2**24 - 1
"""Largest payload in bytes."""
PACKET_HEADER_BYTES = 32
STREAM_HEADER_BYTES = 28
FRAME_HEADER_BYTES = 16

_PACKET_MAGIC = b"DSIN"
_STREAM_MAGIC = b"DSNS"
_PACKET = struct.Struct("<4sBB6sIQHH")
_STREAM = struct.Struct("<4sBB6sHHQ")
_FRAME = struct.Struct("<III")
_CHECKSUM = struct.Struct("<I")

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class PacketHeader:
    """What a packet says about its frame; `timestamp_ns` is nanoseconds, sizes are pixels."""

    codec_id: bytes
    width: int
    height: int
    rate: int = 0
    frame_number: int = 0
    timestamp_ns: int = 0


@dataclass(frozen=True)
class StreamHeader:
    """What holds for every frame of a stream; timestamps count from `start_ns` (nanoseconds)."""

    codec_id: bytes
    width: int
    height: int
    start_ns: int = 0


def pack_packet(header: PacketHeader, payload: Bytes) -> bytes:
    """A packet of that header and payload.

    Raises PacketError for a field that does not fit and for a picture or payload over the limit.
    """
    _check_size(header.width, header.height)
    _check_codec_id(header.codec_id)
    _check_payload(len(payload))
    head = _pack(
        _PACKET, _PACKET_MAGIC, VERSION, header.rate, header.codec_id, header.frame_number,
        header.timestamp_ns, header.width, header.height,
    )  # fmt: skip
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def parse_packet(data: Bytes, codec_id: bytes | None = None) -> tuple[PacketHeader, memoryview]:
    """Header and payload of a packet; the payload is a view of `data`.

    With `codec_id`, a packet of another bundle is refused. Raises PacketError for anything but a
    whole, unaltered packet within the limits.
    """
    view = memoryview(data).cast("B")
    if len(view) < PACKET_HEADER_BYTES:
        raise PacketError(
            f"not a packet: {len(view)} bytes, and the header alone has {PACKET_HEADER_BYTES}"
        )
    magic, version, rate, codec, number, timestamp_ns, width, height = _PACKET.unpack_from(view)
    _check_magic(magic, _PACKET_MAGIC, version, "packet")
    payload = view[PACKET_HEADER_BYTES:]
    _check_payload(len(payload))
    (checksum,) = _CHECKSUM.unpack_from(view, _PACKET.size)
    if zlib.crc32(payload, zlib.crc32(view[: _PACKET.size])) != checksum:
        raise PacketError("packet is damaged or cut short: its checksum does not match")
    _check_size(width, height)
    header = PacketHeader(codec, width, height, rate, number, timestamp_ns)
    if codec_id is not None:
        check_codec(header.codec_id, codec_id)
    return header, payload


def check_codec(theirs: bytes, ours: bytes) -> None:
    """Raise PacketError unless the packet's codec id is the bundle's."""
    if theirs != ours:
        raise PacketError(
            f"packet was made by another bundle: its codec id is {theirs.hex()}, "
            f"this bundle's is {ours.hex()}"
        )


def pack_stream_header(header: StreamHeader) -> bytes:
    """The first bytes of a stream. Raises PacketError for a field that does not fit."""
    _check_size(header.width, header.height)
    _check_codec_id(header.codec_id)
    head = _pack(
        _STREAM, _STREAM_MAGIC, VERSION, 0, header.codec_id, header.width, header.height,
        header.start_ns,
    )  # fmt: skip
    return head + _CHECKSUM.pack(zlib.crc32(head))


def parse_stream_header(data: Bytes) -> StreamHeader:
    """The header that `data`, of exactly STREAM_HEADER_BYTES, holds; PacketError otherwise."""
    view = memoryview(data).cast("B")
    if len(view) != STREAM_HEADER_BYTES:
        raise PacketError(f"a stream header has {STREAM_HEADER_BYTES} bytes, not {len(view)}")
    magic, version, zero, codec, width, height, start_ns = _STREAM.unpack_from(view)
    _check_magic(magic, _STREAM_MAGIC, version, "stream")
    (checksum,) = _CHECKSUM.unpack_from(view, _STREAM.size)
    if zlib.crc32(view[: _STREAM.size]) != checksum or zero:
        raise PacketError("stream header is damaged: its checksum does not match")
    _check_size(width, height)
    return StreamHeader(codec, width, height, start_ns)


def pack_frame(stream: StreamHeader, header: PacketHeader, payload: Bytes) -> bytes:
    """One frame of a stream.

    Raises PacketError where the frame differs from its stream in codec or size, is older than the
    stream's start, or does not fit a field.
    """
    if (header.codec_id, header.width, header.height) != (
        stream.codec_id, stream.width, stream.height,
    ):  # fmt: skip
        raise PacketError("frame differs from its stream in bundle or size: start a new stream")
    if header.timestamp_ns < stream.start_ns:
        raise PacketError("frame is older than the start of its stream")
    if not 0 <= header.rate <= 255:
        raise PacketError(f"rate {header.rate} is not within 0..255")
    _check_payload(len(payload))
    microseconds = (header.timestamp_ns - stream.start_ns) // 1000 % 2**32
    head = _pack(_FRAME, len(payload) | header.rate << 24, header.frame_number, microseconds)
    checksum = zlib.crc32(payload, zlib.crc32(head, _stream_checksum(stream)))
    return b"".join((head, _CHECKSUM.pack(checksum), payload))


class StreamReader:
    """Takes the bytes of a stream as they come and yields whole frames.

    At most one frame is held back, so memory stays below MAX_PAYLOAD and what one `feed` brings.
    After a PacketError the stream is lost: every later `feed` raises too.
    """

    def __init__(self, codec_id: bytes | None = None) -> None:
        self.header: StreamHeader | None = None
        self._codec_id = codec_id
        self._pending = bytearray()
        self._microseconds = 0
        self._fault: PacketError | None = None

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end with a whole frame (or the header), as a stream must."""
        return self.header is not None and not self._pending

    def feed(self, data: Bytes) -> list[tuple[PacketHeader, bytes]]:
        """The frames that `data` completes, in order.

        Raises PacketError for bytes that are not such a stream, or one of another bundle.
        """
        if self._fault is not None:
            raise PacketError(f"stream was lost before: {self._fault}")
        self._pending += data
        try:
            if self.header is None:
                self.header = self._take_header()
            return [] if self.header is None else self._take_frames(self.header)
        except PacketError as error:
            self._fault = error
            self._pending.clear()
            raise

    def _take_header(self) -> StreamHeader | None:
        """Read the stream header once it is whole; a foreign magic is refused at once."""
        start = bytes(self._pending[:STREAM_HEADER_BYTES])
        if not _STREAM_MAGIC.startswith(start[:4]):
            raise PacketError("not a dsin stream: it does not start with DSNS")
        if len(start) < STREAM_HEADER_BYTES:
            return None
        header = parse_stream_header(start)
        if self._codec_id is not None:
            check_codec(header.codec_id, self._codec_id)
        del self._pending[:STREAM_HEADER_BYTES]
        return header

    def _take_frames(self, stream: StreamHeader) -> list[tuple[PacketHeader, bytes]]:
        frames = []
        position = 0
        seed = _stream_checksum(stream)
        while len(self._pending) - position >= FRAME_HEADER_BYTES:
            length = int.from_bytes(self._pending[position : position + 3], "little")
            end = position + FRAME_HEADER_BYTES + length
            if len(self._pending) < end:
                break
            frames.append(self._parse_frame(stream, bytes(self._pending[position:end]), seed))
            position = end
        del self._pending[:position]
        return frames

    def _parse_frame(
        self, stream: StreamHeader, frame: bytes, seed: int
    ) -> tuple[PacketHeader, bytes]:
        length_and_rate, number, wrapped = _FRAME.unpack_from(frame)
        (checksum,) = _CHECKSUM.unpack_from(frame, _FRAME.size)
        payload = frame[FRAME_HEADER_BYTES:]
        if zlib.crc32(payload, zlib.crc32(frame[: _FRAME.size], seed)) != checksum:
            raise PacketError("frame is damaged: its checksum does not match")
        step = (wrapped - self._microseconds + 2**31) % 2**32 - 2**31
        self._microseconds += step
        timestamp_ns = stream.start_ns + 1000 * self._microseconds
        if self._microseconds < 0 or timestamp_ns >= 2**64:
            raise PacketError("frame has a timestamp before its stream's start or over 64 bits")
        rate = length_and_rate >> 24
        codec_id, width, height = stream.codec_id, stream.width, stream.height
        return PacketHeader(codec_id, width, height, rate, number, timestamp_ns), payload


def _stream_checksum(stream: StreamHeader) -> int:
    return zlib.crc32(pack_stream_header(stream)[: _STREAM.size])


def _pack(layout: struct.Struct, *fields: object) -> bytes:
    try:
        return layout.pack(*fields)
    except struct.error as error:
        raise PacketError(f"a header field does not fit: {error}") from error


def _check_magic(magic: bytes, expected: bytes, version: int, what: str) -> None:
    if magic != expected:
        raise PacketError(f"not a dsin {what}: it does not start with {expected.decode()}")
    if version != VERSION:
        raise PacketError(f"{what} is of version {version}, this dsin reads version {VERSION}")


def _check_codec_id(codec_id: bytes) -> None:
    if len(codec_id) != 6:
        raise PacketError(f"a codec id has 6 bytes, not {len(codec_id)}")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PacketError(f"a picture of {width}x{height} pixels has nothing in it")
    if width * height > MAX_PIXELS:
        raise PacketError(
            f"a picture of {width}x{height} pixels is over the limit of {MAX_PIXELS} pixels"
        )


def _check_payload(length: int) -> None:
    if length > MAX_PAYLOAD:
        raise PacketError(f"a payload of {length} bytes is over the limit of {MAX_PAYLOAD}")
