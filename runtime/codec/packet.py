"""Packets: a coded frame, and how it is framed byte by byte.

All integers are little-endian. The checksum is CRC-32 as in zip and PNG (`zlib.crc32`).

A packet stands alone (a file, a datagram):

    offset  bytes  field
         0      4  magic, the ASCII letters DSIN
         4      1  version, 1
         5      1  rate index, 0 is the lowest rate
         6      6  codec id: which symbols and which probabilities (see dsin.runtime.codec.bundle)
        12      4  frame number
        16      8  timestamp, nanoseconds
        24      2  width of the picture, pixels, at least 1
        26      2  height of the picture, pixels, at least 1
        28      4  checksum of bytes 0 to 27 and of the payload
        32      n  payload, to the end: the coded symbols (see dsin.runtime.entropy.context_model)

A picture has at most MAX_PIXELS pixels and a payload at most MAX_PAYLOAD bytes. Everything is
checked before anything is allocated for it, and every fault is a PacketError of one line.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace

from dsin.runtime.errors import PacketError
from dsin.runtime.pictures import MAX_PIXELS

VERSION = 1
"""Version of packets and of the coding of symbols."""
MAX_PAYLOAD = 2**24 - 1
"""Largest payload in bytes."""
PACKET_HEADER_BYTES = 32

_PACKET_MAGIC = b"DSIN"
_PACKET = struct.Struct("<4sBB6sIQHH")
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
class Packet:
    """A coded frame. `bytes(packet)` are the bytes on the wire, and `len(packet)` is their number.

        packet = encoder.encode(frame)
        link.send(bytes(packet))

    `payload` holds the coded symbols. `stage_ms` has the encoder's time in milliseconds for each of
    preprocess, compute, entropy and packetise; it is empty for a packet that was received, and it
    does not count when packets are compared. A packet never changes, so threads may share it.

    Raises PacketError for a field that does not fit and for a picture or payload over the limit.
    """

    header: PacketHeader
    payload: bytes
    stage_ms: dict[str, float] = field(default_factory=dict, compare=False)
    _wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wire", _packed(self.header, self.payload))

    @classmethod
    def parse(cls, data: Bytes, codec_id: bytes | None = None) -> "Packet":
        """The packet in bytes that were received.

        With `codec_id`, a packet of another bundle is refused. Raises PacketError for anything but
        a whole, unaltered packet within the limits.
        """
        header, payload = _parsed(data)
        if codec_id is not None:
            check_codec(header.codec_id, codec_id)
        return cls(header, bytes(payload))

    def stamped(self, frame_number: int, timestamp_ns: int) -> "Packet":
        """The same frame under another number and time. Raises PacketError."""
        header = replace(self.header, frame_number=frame_number, timestamp_ns=timestamp_ns)
        return Packet(header, self.payload, self.stage_ms)

    def __bytes__(self) -> bytes:
        return self._wire

    def __len__(self) -> int:
        return len(self._wire)


def _packed(header: PacketHeader, payload: Bytes) -> bytes:
    _check_size(header.width, header.height)
    _check_codec_id(header.codec_id)
    _check_payload(len(payload))
    try:
        head = _PACKET.pack(
            _PACKET_MAGIC, VERSION, header.rate, header.codec_id, header.frame_number,
            header.timestamp_ns, header.width, header.height,
        )  # fmt: skip
    except struct.error as error:
        raise PacketError(f"a header field does not fit: {error}") from error
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(payload, zlib.crc32(head))), payload))


def _parsed(data: Bytes) -> tuple[PacketHeader, memoryview]:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise PacketError(f"a packet is bytes, not {type(data).__name__}")
    view = memoryview(data).cast("B")
    if len(view) < PACKET_HEADER_BYTES:
        raise PacketError(
            f"not a packet: {len(view)} bytes, and the header alone has {PACKET_HEADER_BYTES}"
        )
    magic, version, rate, codec, number, timestamp_ns, width, height = _PACKET.unpack_from(view)
    _check_magic(magic, version)
    payload = view[PACKET_HEADER_BYTES:]
    _check_payload(len(payload))
    (checksum,) = _CHECKSUM.unpack_from(view, _PACKET.size)
    if zlib.crc32(payload, zlib.crc32(view[: _PACKET.size])) != checksum:
        raise PacketError("packet is damaged or cut short: its checksum does not match")
    _check_size(width, height)
    return PacketHeader(codec, width, height, rate, number, timestamp_ns), payload


def check_codec(theirs: bytes, ours: bytes) -> None:
    """Raise PacketError unless the packet's codec id is the bundle's."""
    if theirs != ours:
        raise PacketError(
            f"packet was made by another bundle: its codec id is {theirs.hex()}, "
            f"this bundle's is {ours.hex()}"
        )


def _check_magic(magic: bytes, version: int) -> None:
    if magic != _PACKET_MAGIC:
        raise PacketError(f"not a dsin packet: it does not start with {_PACKET_MAGIC.decode()}")
    if version != VERSION:
        raise PacketError(f"packet has version {version}, but this dsin reads version {VERSION}")


def _check_codec_id(codec_id: bytes) -> None:
    if len(codec_id) != 6:
        raise PacketError(f"a codec id has 6 bytes, not {len(codec_id)}")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PacketError(f"a picture of {width}x{height} pixels is empty")
    if width * height > MAX_PIXELS:
        raise PacketError(
            f"a picture of {width}x{height} pixels is over the limit of {MAX_PIXELS} pixels"
        )


def _check_payload(length: int) -> None:
    if length > MAX_PAYLOAD:
        raise PacketError(f"a payload of {length} bytes is over the limit of {MAX_PAYLOAD}")
