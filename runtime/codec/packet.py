"""Packets: a coded frame, and how it is framed byte by byte.

All integers are little-endian. The checksum is CRC-32 as in zip and PNG (`zlib.crc32`).

A packet that stands alone (format 1):

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

A packet that refers to an earlier frame (format 2), which the decoder must have decoded:

         4      1  version, 2
        28      4  checksum of bytes 0 to 27 and of all bytes from 32 on
        32      4  reference: frame number of that frame
        36      4  reference: checksum in that frame's packet, bytes 28 to 31
        40      n  payload (see dsin.runtime.entropy.hyper_codec)

A picture has at most MAX_PIXELS pixels and a payload at most MAX_PAYLOAD bytes. Everything is
checked before anything is allocated for it, and every fault is a PacketError of one line.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dsin.runtime.errors import PacketError
from dsin.runtime.pictures import MAX_PIXELS

VERSION = 1
"""Version of packets that stand alone, and of the coding of symbols."""
REFERRING = 2
"""Version of packets that refer to another frame."""
MAX_PAYLOAD = 2**24 - 1
"""Largest payload in bytes."""
PACKET_HEADER_BYTES = 32
"""Of a packet that stands alone."""

_PACKET_MAGIC = b"DSIN"
_PACKET = struct.Struct("<4sBB6sIQHH")
_CHECKSUM = struct.Struct("<I")
_REFERENCE = struct.Struct("<II")
MAX_PACKET_BYTES = PACKET_HEADER_BYTES + _REFERENCE.size + MAX_PAYLOAD
"""No packet is larger."""

Bytes = bytes | bytearray | memoryview


class Reference(NamedTuple):
    """The frame that a packet refers to, and the checksum of that frame's packet."""

    frame_number: int
    checksum: int


@dataclass(frozen=True)
class PacketHeader:
    """What a packet says about its frame; `timestamp_ns` is nanoseconds, sizes are pixels. A packet
    without `reference` stands alone."""

    codec_id: bytes
    width: int
    height: int
    rate: int = 0
    frame_number: int = 0
    timestamp_ns: int = 0
    reference: Reference | None = None


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

    @property
    def checksum(self) -> int:
        """The one in its bytes, by which later packets know it."""
        (checksum,) = _CHECKSUM.unpack_from(self._wire, _PACKET.size)
        return int(checksum)

    def stamped(self, frame_number: int, timestamp_ns: int) -> "Packet":
        """The same frame under another number and time: another packet, which those that refer to
        this one do not mean. Raises PacketError."""
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
    version = VERSION if header.reference is None else REFERRING
    try:
        head = _PACKET.pack(
            _PACKET_MAGIC, version, header.rate, header.codec_id, header.frame_number,
            header.timestamp_ns, header.width, header.height,
        )  # fmt: skip
        behind = b"" if header.reference is None else _REFERENCE.pack(*header.reference)
    except struct.error as error:
        raise PacketError(f"a header field does not fit: {error}") from error
    checksum = zlib.crc32(payload, zlib.crc32(behind, zlib.crc32(head)))
    return b"".join((head, _CHECKSUM.pack(checksum), behind, payload))


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
    behind = view[PACKET_HEADER_BYTES:]
    _check_payload(len(behind) - (_REFERENCE.size if version == REFERRING else 0))
    (checksum,) = _CHECKSUM.unpack_from(view, _PACKET.size)
    if zlib.crc32(behind, zlib.crc32(view[: _PACKET.size])) != checksum:
        raise PacketError("packet is damaged or cut short: its checksum does not match")
    _check_size(width, height)
    reference = None
    if version == REFERRING:
        if len(behind) < _REFERENCE.size:
            raise PacketError("packet ends before it says which frame it refers to")
        reference = Reference(*_REFERENCE.unpack_from(behind))
        behind = behind[_REFERENCE.size :]
    header = PacketHeader(codec, width, height, rate, number, timestamp_ns, reference)
    return header, behind


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
    if version not in (VERSION, REFERRING):
        raise PacketError(
            f"packet has version {version}, but this dsin reads versions {VERSION} and {REFERRING}"
        )


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
