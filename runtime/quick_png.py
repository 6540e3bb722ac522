"""PNG files in a fifth of the usual time, hardly larger: each byte as its difference to the same
colour of the pixel on its left, compressed by Intel's ISA-L."""

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dsin.runtime.files import write_bytes_atomically, write_image
from dsin.runtime.pictures import Image

_LEVEL = 1
_ROWS = 64
_SUB = 1
"""The number of PNG's filter that takes the difference to the left."""


def encoded_png(picture: Image) -> bytes:
    """A PNG file of an RGB picture, H×W×3 uint8, without loss (ISO/IEC 15948)."""
    height, width = picture.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    compressor = isal_zlib.compressobj(_LEVEL)
    rows = [compressor.compress(some) for some in _filtered(picture)]
    chunks = [(b"IHDR", header)]
    chunks += [(b"IDAT", some) for some in (*rows, compressor.flush()) if some]
    chunks += [(b"IEND", b"")]
    pieces = itertools.chain.from_iterable(itertools.starmap(_chunk, chunks))
    return b"".join((b"\x89PNG\r\n\x1a\n", *pieces))


def write_quickly(path: Path, picture: Image) -> None:
    """`dsin.runtime.files.write_image` for pictures beside a stream, which needs the time."""
    if path.suffix.lower() == ".png":
        write_bytes_atomically(path, encoded_png(picture))
    else:
        write_image(path, picture)


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, ...]:
    check = isal_zlib.crc32(content, isal_zlib.crc32(kind))
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", check)


def _filtered(picture: Image) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of the file's rows, (n, 1 + 3·W), so many at a time that they stay in the cache:
    each row behind the number of its filter. The memory is used again for the next ones."""
    height, width = picture.shape[:2]
    filtered = np.empty((min(_ROWS, height), 1 + 3 * width), np.uint8)
    filtered[:, 0] = _SUB
    for first in range(0, height, _ROWS):
        rows = picture[first : first + _ROWS].reshape(-1, 3 * width)
        part = filtered[: len(rows)]
        part[:, 1:4] = rows[:, :3]
        np.subtract(rows[:, 3:], rows[:, :-3], out=part[:, 4:])
        yield part
