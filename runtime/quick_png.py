"""PNG files of photographs in a fifth of the usual time, a little larger.

Each byte is coded as its difference to the same colour of the pixel on its left, by a Huffman code
of its own for each picture, without searching for repetitions: these are what takes the time, and
photographs have few. Flat drawings get much larger than they do otherwise.
"""

import heapq
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import entry_point
from dsin.runtime.files import write_bytes_atomically, write_image
from dsin.runtime.pictures import Image

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
_LONGEST = 13
"""Bits of a code word: deflate allows two more, but two words and their length are to fit 32."""
_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


def encoded_png(picture: Image) -> bytes:
    """A PNG file of an RGB picture, H×W×3 uint8, without loss."""
    height, width = picture.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", _deflated(_filtered(picture))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(_chunk, chunks))


def write_quickly(path: Path, picture: Image) -> None:
    """`dsin.runtime.files.write_image` for pictures beside a stream, which needs the time."""
    if path.suffix.lower() == ".png":
        write_bytes_atomically(path, encoded_png(picture))
    else:
        write_image(path, picture)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)))


def _filtered(picture: Image) -> Bytes:
    """The bytes of PNG's filter 1 (Sub), each row behind the number of its filter."""
    rows = np.ascontiguousarray(picture).reshape(len(picture), -1)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1:4] = rows[:, :3]
    np.subtract(rows[:, 3:], rows[:, :-3], out=filtered[:, 4:])
    return filtered


def _deflated(rows: Bytes) -> bytes:
    """A zlib stream of one block: RFC 1950 and 1951."""
    lengths = _code_lengths(_counts(rows))
    words = np.array(_code_words(lengths), np.uint32)
    head, bits = _block_head(lengths)
    packed = np.empty((bits + _LONGEST * (rows.size + 1)) // 32 + 3, np.uint32)
    size = pack_bytes(rows.ravel(), words, np.array(lengths, np.uint32), head, bits, packed)
    block = packed.astype("<u4", copy=False).data.cast("B")[:size]
    return b"".join((b"\x78\x01", block, struct.pack(">I", zlib.adler32(rows.data))))


def _counts(rows: Bytes) -> list[int]:
    """How often each symbol comes, about: every fourth row tells. All have to have a word."""
    import cv2  # not at the top: commands start without it

    found = cv2.calcHist([rows[::4]], [0], None, [256], [0, 256])
    return [*(1 + found.ravel().astype(np.int64)).tolist(), 1]


def _code_lengths(counts: list[int]) -> list[int]:
    """Bits of each symbol's word in a Huffman code, _LONGEST at most."""
    least = sum(counts) >> _LONGEST - 2
    while max(lengths := _huffman([max(count, least) for count in counts])) > _LONGEST:
        least = 2 * least + 1  # flatter, and so in the end short enough
    return lengths


def _huffman(counts: list[int]) -> list[int]:
    nodes = [(count, symbol) for symbol, count in enumerate(counts)]
    heapq.heapify(nodes)
    above: dict[int, int] = {}
    for node in range(len(counts), 2 * len(counts) - 1):
        (one, left), (other, right) = heapq.heappop(nodes), heapq.heappop(nodes)
        above[left] = above[right] = node
        heapq.heappush(nodes, (one + other, node))
    depths = {2 * len(counts) - 2: 0}
    for node in reversed(range(2 * len(counts) - 2)):
        depths[node] = 1 + depths[above[node]]
    return [depths[symbol] for symbol in range(len(counts))]


def _code_words(lengths: list[int]) -> list[int]:
    """The words that RFC 1951 gives to these lengths, their first bit lowest."""
    words, word = [0] * len(lengths), 0
    for length in range(1, _LONGEST + 1):
        for symbol in (s for s, own in enumerate(lengths) if own == length):
            words[symbol] = int(f"{word:0{length}b}"[::-1], 2)
            word += 1
        word <<= 1
    return words


def _block_head(lengths: list[int]) -> tuple[Words, int]:
    """Of the last block, with a code of its own: the lengths in 4 bits each, and how many bits that
    takes. There is one distance, which is never used."""
    fields = [(1, 1), (2, 2), (len(lengths) - 257, 5), (0, 5), (len(_LENGTH_ORDER) - 4, 4)]
    fields += [(4 if length < 16 else 0, 3) for length in _LENGTH_ORDER]
    fields += [(int(f"{length:04b}"[::-1], 2), 4) for length in (*lengths, 1)]
    value, bits = 0, 0
    for number, width in fields:
        value |= number << bits
        bits += width
    head = value.to_bytes(4 * (bits // 32 + 1), "little")
    return np.frombuffer(head, "<u4").astype(np.uint32), bits


@entry_point()
def pack_bytes(
    data: Bytes, words: Words, lengths: Words, head: Words, bits: int, packed: Words
) -> int:
    """Write the words of all bytes and of the end behind a head of so many bits; returns how many
    bytes that took. Two bytes are one step: `joined` has their words behind one another, and how
    long these are in the lowest 6 bits."""
    joined = np.empty(65536, np.uint32)
    for pair in range(65536):
        first, second = pair & 255, pair >> 8
        word = words[first] | words[second] << lengths[first]
        joined[pair] = word << np.uint32(6) | (lengths[first] + lengths[second])
    place = np.uint64(bits >> 5)
    packed[:place] = head[:place]
    buffer, held = np.uint64(head[place]), np.uint64(bits & 31)
    for start in range(np.uint64(0), np.uint64(len(data) - 1), np.uint64(2)):
        entry = np.uint64(joined[np.uint32(data[start]) | np.uint32(data[start + 1]) << 8])
        buffer |= entry >> np.uint64(6) << held
        held += entry & np.uint64(63)
        # Without a branch, which nobody could foretell.
        packed[place] = np.uint32(buffer)
        full = held >> np.uint64(5)
        place += full
        buffer >>= full << np.uint64(5)
        held &= np.uint64(31)
    if len(data) & 1:
        buffer |= np.uint64(words[data[-1]]) << held
        held += np.uint64(lengths[data[-1]])
    buffer |= np.uint64(words[256]) << held
    held += np.uint64(lengths[256])
    packed[place] = np.uint32(buffer)
    packed[place + np.uint64(1)] = np.uint32(buffer >> np.uint64(32))
    return int(np.uint64(4) * place + (held + np.uint64(7)) // np.uint64(8))
