"""Side images as they travel: PNG or JPEG, checked before anything is allocated for them."""

import struct

import cv2
import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.frames import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG's frame headers (ITU-T T.81, table B.1)."""


def encode_picture(image: Image, quality: int | None = None) -> bytes:
    """A PNG file of an RGB image, H×W×3 uint8, or a JPEG file of that quality (1..100)."""
    if quality is None:
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]
    else:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(suffix, image[:, :, ::-1], options)
    assert done
    return bytes(data)


def decode_picture(data: bytes, size: tuple[int, int]) -> Image:
    """The RGB image, H×W×3 uint8, of a PNG or JPEG file that must have this height and width.

    Raises FrameError for anything else.
    """
    found = picture_size(data)
    if found != size:
        raise FrameError(
            f"side image is {found[1]}x{found[0]}, but the stream is of {size[1]}x{size[0]}"
        )
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != (*size, 3):
        raise FrameError("side image is damaged")
    return np.ascontiguousarray(image[:, :, ::-1])


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width that a PNG or JPEG file declares. Raises FrameError."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    raise FrameError("side image is neither PNG nor JPEG")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        position += 2 + length
    raise FrameError("side image is a JPEG file without a size")
