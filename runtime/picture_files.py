"""Picture files, read whole or refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.quiet_opencv import quiet_opencv

_JPEG = b"\xff\xd8\xff"
_TURNED = (b"eXIf", b"EXIF", b"II*\0", b"MM\0*")
"""Where one of these is not, there is no orientation: PNG's, WebP's and TIFF's."""


def read_image(path: Path) -> Image:
    """A picture of 8 bits as RGB, H×W×3, upright as its EXIF orientation says; grey becomes equal
    R, G and B.

    Raises FrameError for a file that is missing or cut off, or is not an 8-bit picture without
    transparency.
    """
    # OpenCV is given bytes, not a name: it decodes half a JPEG file without complaint, and crashes
    # on names that are not UTF-8.
    return decode_image(read_bytes(path), path)


def decode_image(content: bytes, name: Path | str) -> Image:
    """What `read_image` makes of a file's content; `name` is what its errors call it."""
    data = np.frombuffer(content, np.uint8)
    if content.startswith(_JPEG):  # which has neither transparency nor, here, more than 8 bits
        image = _decoded(data, cv2.IMREAD_COLOR, name)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    image = _decoded(data, cv2.IMREAD_UNCHANGED, name)
    if image.ndim == 3 and image.shape[2] == 4 and image.dtype == np.uint8:
        raise FrameError(
            f"{name} has transparency, which is not coded: write it without an alpha channel, "
            "as by ImageMagick's 'convert IN -alpha off OUT'"
        )
    if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        shape = "x".join(map(str, image.shape))
        raise FrameError(f"{name} is {shape} {image.dtype}: an 8-bit colour image is needed")
    if any(mark in content for mark in _TURNED):
        image = _decoded(data, cv2.IMREAD_COLOR, name)
    if image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_bytes(path: Path) -> bytes:
    """A picture file's content. Raises FrameError for one that is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FrameError(f"there is no image {path}") from error
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from error


def _decoded(data: Image, how: int, name: Path | str) -> npt.NDArray[Any]:
    with quiet_opencv():
        try:
            image = cv2.imdecode(data, how) if data.size else None
        except cv2.error as error:
            raise FrameError(
                f"{name} is not an image that OpenCV reads, or has too many pixels"
            ) from error
    if image is None:
        raise FrameError(f"{name} is not an image that OpenCV reads, or was cut off")
    return image
