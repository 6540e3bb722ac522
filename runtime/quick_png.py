"""PNG files in a fifth of the usual time, hardly larger: each byte as its difference to the same
colour of the pixel on its left, compressed by Intel's ISA-L."""

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dsin.runtime.files import write_bytes_atomically, write_image
from dsin.runtime.pictures import Image

_LEVEL = 1
_SUB = 1
"""The number of PNG's filter that takes the difference to the left."""


def encoded_png(picture: Image) -> bytes:
    """A PNG file of an RGB picture, H×W×3 uint8, without loss (ISO/IEC 15948)."""
    height, width = picture.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = isal_zlib.compress(_filtered(picture), _LEVEL)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
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


def _filtered(picture: Image) -> npt.NDArray[np.uint8]:
    """The bytes of the file's rows, (H, 1 + 3·W): each behind the number of its filter."""
    rows = np.ascontiguousarray(picture).reshape(len(picture), -1)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1:4] = rows[:, :3]
    np.subtract(rows[:, 3:], rows[:, :-3], out=filtered[:, 4:])
    return filtered
