"""Side images as they travel: PNG or JPEG, checked before anything is allocated for them."""

import struct

import cv2
import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG's frame headers (ITU-T T.81, table B.1)."""
_JPEG_WITHOUT_LENGTH = frozenset([0x00, 0x01, *range(0xD0, 0xDA)])
"""Markers that stand alone, none of which comes before a frame header."""
# A camera turned on its side is the server's to know of, as for camera x: pixels stay in place.
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def encode_picture(image: Image, quality: int | None = None) -> bytes:
    """A PNG file of an RGB image, H×W×3 uint8 (level 1, run lengths: quick), or a JPEG file of
    that quality (1..100)."""
    if quality is None:
        strategy = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        suffix, options = ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1, *strategy]
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
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED)
    except cv2.error:
        image = None
    if image is None or image.shape != (*size, 3):
        raise FrameError("side image is damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def picture_size(data: bytes) -> tuple[int, int]:
    """Height and width that a PNG or JPEG file declares. Raises FrameError."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) >= 24:
        _check_chunks(data)
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    raise FrameError("side image is neither PNG nor JPEG")


def _check_chunks(data: bytes) -> None:
    """Raise FrameError unless all chunks of a PNG file are there: OpenCV allocates what a chunk
    claims to hold, up to 2 GiB, before it reads it."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND" and position <= len(data):
            return
    raise FrameError("side image is a PNG file that was cut short")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fills the space before a marker
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        # Whoever reads a length where there is none looks past the size that the decoder will see.
        if marker in _JPEG_WITHOUT_LENGTH or length < 2:
            break
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        position += 2 + length
    raise FrameError("side image is a JPEG file without a size")
