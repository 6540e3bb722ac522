"""A frame as pieces that fit into datagrams, with parity, and back.

A frame's body is cut into `data` pieces of one length (zeros fill the last one). They make as many
blocks as are needed for MAX_DATA pieces each: piece n is of block n modulo the number of blocks,
and so is parity piece n. Every block has as much parity as the others. The content of a datagram:

    offset  bytes  field, little-endian
         0      1  kind, PIECE
         1      4  frame number
         5      1  index of the piece; those from `data` on are parity
         6      1  data: how many pieces the body has, 1 to 128
         7      1  total: with parity, up to 255
         8      1  fill: zeros at the body's end
         9      n  the piece

The body is what EncodedFrame (dsin_v1.proto) says beside what the packet says itself:

         0      4  held_us; the highest bit says that sent_ns follows
         4      8  sent_ns, of a recording
   4 or 12      n  the packet
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsin.runtime.datagrams.parity import MAX_DATA, MAX_PARITY, parity_pieces, restored
from dsin.runtime.datagrams.sealing import MAX_CONTENT

PIECE, MESSAGE = 0, 1
"""Kinds of content: a piece of a frame; a protobuf message (dsin_v1.proto)."""
_HEADER = struct.Struct("<BIBBBB")
_HELD, _SENT = struct.Struct("<I"), struct.Struct("<Q")
_SENT_FOLLOWS = 2**31
BODY_HEAD_BYTES = _HELD.size + _SENT.size
PIECE_BYTES = MAX_CONTENT - _HEADER.size
MOST_DATA, MOST_TOTAL = 128, 255
MAX_BODY = MOST_DATA * PIECE_BYTES
MAX_MESSAGE = MAX_CONTENT - 1


class PieceError(ValueError):
    """A piece that no honest peer makes; the message is one line."""


@dataclass(frozen=True)
class Shape:
    """How a frame was cut; the same for all of its pieces. Raises PieceError."""

    data: int
    total: int
    fill: int
    length: int
    """Of each piece, bytes."""

    def __post_init__(self) -> None:
        if not 1 <= self.data <= MOST_DATA or not self.data <= self.total <= MOST_TOTAL:
            raise PieceError(f"a frame of {self.data} pieces, {self.total} with parity")
        parity, odd = divmod(self.total - self.data, self.blocks)
        if odd or parity > MAX_PARITY:
            raise PieceError(
                f"{self.total - self.data} parity pieces do not fit {self.data} pieces"
            )
        if not 1 <= self.length <= PIECE_BYTES or not 0 <= self.fill < self.data:
            raise PieceError(f"{self.data} pieces of {self.length} bytes with fill {self.fill}")

    @property
    def blocks(self) -> int:
        return -(-self.data // MAX_DATA)

    @property
    def parity(self) -> int:
        """Of each block."""
        return (self.total - self.data) // self.blocks


@dataclass(frozen=True)
class Piece:
    """A piece of frame `number`. Raises PieceError for an index that the shape has not."""

    number: int
    index: int
    shape: Shape
    body: bytes

    def __post_init__(self) -> None:
        if self.index >= self.shape.total:
            raise PieceError(f"piece {self.index} of {self.shape.total}")

    def content(self) -> bytes:
        """What its datagram holds."""
        shape = self.shape
        head = _HEADER.pack(
            PIECE, self.number, self.index, shape.data, shape.total, shape.fill
        )  # fmt: skip
        return head + self.body


def packed_body(held_us: int, sent_ns: int, packet: bytes) -> bytes:
    """A frame's body; more than half an hour is not told of `held_us`."""
    held_us = min(held_us, _SENT_FOLLOWS - 1)
    if sent_ns:
        return _HELD.pack(held_us | _SENT_FOLLOWS) + _SENT.pack(sent_ns) + packet
    return _HELD.pack(held_us) + packet


def unpacked_body(body: bytes) -> tuple[int, int, bytes]:
    """`held_us`, `sent_ns` and the packet. Raises PieceError for a body that is too short."""
    try:
        (held_us,) = _HELD.unpack_from(body)
        if held_us < _SENT_FOLLOWS:
            return held_us, 0, body[_HELD.size :]
        (sent_ns,) = _SENT.unpack_from(body, _HELD.size)
    except struct.error as error:
        raise PieceError(f"a frame of {len(body)} bytes") from error
    return held_us - _SENT_FOLLOWS, sent_ns, body[BODY_HEAD_BYTES:]


def block_sizes(size: int) -> tuple[int, ...]:
    """How many pieces each block of a body of so many bytes has."""
    data = max(1, -(-size // PIECE_BYTES))
    blocks = -(-data // MAX_DATA)
    return tuple(len(range(block, data, blocks)) for block in range(blocks))


def cut(number: int, body: bytes, parity: int) -> list[Piece]:
    """All pieces of a frame, `parity` more for each block where there is room for that. A body has
    1 to MAX_BODY bytes."""
    assert 0 < len(body) <= MAX_BODY
    sizes = block_sizes(len(body))
    data, blocks = sum(sizes), len(sizes)
    parity = min(parity, MAX_PARITY, (MOST_TOTAL - data) // blocks)
    length = -(-len(body) // data)
    fill = data * length - len(body)
    shape = Shape(data, data + blocks * parity, fill, length)
    whole = body + bytes(fill)
    pieces = [whole[n * length : (n + 1) * length] for n in range(data)]
    columns = [parity_pieces(pieces[n::blocks], parity) for n in range(blocks)]
    more = [columns[n % blocks][n // blocks] for n in range(blocks * parity)]
    return [Piece(number, n, shape, piece) for n, piece in enumerate(pieces + more)]


def parsed(content: bytes) -> Piece:
    """The piece that a datagram holds. Raises PieceError."""
    if len(content) <= _HEADER.size:
        raise PieceError(f"a piece of {len(content)} bytes, header included")
    kind, number, index, data, total, fill = _HEADER.unpack_from(content)
    if kind != PIECE:
        raise PieceError(f"a datagram of kind {kind}")
    body = content[_HEADER.size :]
    return Piece(number, index, Shape(data, total, fill, len(body)), body)


def enough(shape: Shape, indices: Sequence[int]) -> bool:
    """Whether the pieces with these indices, each once, suffice for the body."""
    return not any(wanting(shape, indices))


def wanting(shape: Shape, indices: Sequence[int]) -> list[int]:
    """How many more pieces each block needs."""
    have = [0] * shape.blocks
    for index in indices:
        have[_block(shape, index)] += 1
    sizes = [len(range(n, shape.data, shape.blocks)) for n in range(shape.blocks)]
    return [max(0, size - count) for size, count in zip(sizes, have, strict=True)]


def most_wanted(some: Sequence[Piece], came: Sequence[int]) -> list[Piece]:
    """Of some pieces of a frame those that help to complete it, where those with the indices `came`
    are there."""
    if not some:
        return []
    shape = some[0].shape
    wanted = wanting(shape, [index for index in came if index < shape.total])
    chosen = []
    for piece in some:
        block = _block(shape, piece.index)
        if piece.index not in came and wanted[block]:
            wanted[block] -= 1
            chosen.append(piece)
    return chosen


def joined(shape: Shape, pieces: Mapping[int, bytes]) -> bytes:
    """The body, of pieces that are enough."""
    blocks = shape.blocks
    columns = []
    for block in range(blocks):
        size = len(range(block, shape.data, blocks))
        rows = {
            _row(shape, index): piece
            for index, piece in pieces.items()
            if _block(shape, index) == block
        }
        columns.append(restored(rows, size, shape.parity))
    whole = b"".join(columns[n % blocks][n // blocks] for n in range(shape.data))
    return whole[: len(whole) - shape.fill]


def _block(shape: Shape, index: int) -> int:
    return (index if index < shape.data else index - shape.data) % shape.blocks


def _row(shape: Shape, index: int) -> int:
    """Its place within its block."""
    if index < shape.data:
        return index // shape.blocks
    size = len(range(_block(shape, index), shape.data, shape.blocks))
    return size + (index - shape.data) // shape.blocks
