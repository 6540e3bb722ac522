"""Finds the next chunk of an MCAP file behind a place where its records cannot be followed.

A chunk's record says its own length twice, which hardly anything else does by chance; whether what
it holds is whole is told by its checksum afterwards.
"""

import re
from typing import BinaryIO

BLOCK_BYTES = 2**20
_HEAD_BYTES, _FIXED_BYTES = 9, 40
"""Of a record, and of a chunk's fields beside its compression's name and what it holds."""
_LONGEST = _HEAD_BYTES + _FIXED_BYTES + 4
_LIKELY = re.compile(
    rb"\x06(?=.{4}\0{4}.{20}\0{4}.{4}(?P<name>\0{4}|\x04\0{3}zstd|\x03\0{3}lz4))", re.DOTALL
)
"""Opcode; then high bytes of the record's length and of the size unpacked, and the compression."""


def next_chunk(file: BinaryIO, start: int, size: int) -> int | None:
    """The first place from `start` on at which a chunk's record may begin, in a file of `size`
    bytes; None where there is none."""
    position = start
    while size - position > _HEAD_BYTES + _FIXED_BYTES:
        file.seek(position)
        block = file.read(BLOCK_BYTES + _LONGEST)
        for match in _LIKELY.finditer(block):
            begin = match.start()
            if begin < BLOCK_BYTES and _is_consistent(block[begin:], size - position - begin):
                return position + begin
        if len(block) < BLOCK_BYTES + _LONGEST:
            return None
        position += BLOCK_BYTES
    return None


def _is_consistent(record: bytes, left: int) -> bool:
    """Whether the lengths in a chunk's first bytes agree, and it may end before the file does."""
    length = int.from_bytes(record[1:9], "little")
    unpacked = int.from_bytes(record[25:33], "little")
    name = int.from_bytes(record[37:41], "little")
    held = int.from_bytes(record[41 + name : 49 + name], "little")
    fits = length == _FIXED_BYTES + name + held and length <= left - _HEAD_BYTES
    return fits and (name > 0 or unpacked == held)
