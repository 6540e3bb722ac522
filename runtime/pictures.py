"""Frames as the graphs take them: checked, padded, as planes; and back."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import FrameError

MAX_PIXELS = 2**24
"""Largest picture, about 16.8 million pixels: those of 12-megapixel cameras, 4000×3000, fit."""
MAX_SIDE = 65535
"""Largest height and width: packets have two bytes for each."""

Image = npt.NDArray[np.uint8]
"""RGB, H×W×3."""
Planes = npt.NDArray[np.float32]
"""RGB in 0..255, (1, 3, H, W)."""


def check_frame(frame: npt.NDArray[Any], what: str = "frame") -> None:
    """Raise FrameError unless `frame` is an 8-bit RGB image, H×W×3, within the packet's limits."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(
            f"{what} is of type {type(frame).__name__}: an array of 8-bit colour is needed"
        )
    shape = "x".join(map(str, frame.shape))
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise FrameError(f"{what} is {shape} {frame.dtype}: an 8-bit colour image is needed")
    height, width = frame.shape[:2]
    check_size(height, width, what)


def check_size(height: int, width: int, what: str = "frame") -> None:
    """Raise FrameError for a size that no packet can have."""
    if height < 1 or width < 1:
        raise FrameError(f"{what} of {width}x{height} is empty")
    if max(height, width) > MAX_SIDE:
        raise FrameError(f"{what} of {width}x{height} is larger than {MAX_SIDE} pixels one way")
    if height * width > MAX_PIXELS:
        raise FrameError(f"{what} of {width}x{height} has more than {MAX_PIXELS} pixels")


def padded_size(height: int, width: int, multiple: tuple[int, int]) -> tuple[int, int]:
    """The next multiples, (height, width)."""
    return -(-height // multiple[0]) * multiple[0], -(-width // multiple[1]) * multiple[1]


def pad(frame: Image, multiple: tuple[int, int]) -> Image:
    """Repeat the last row and column until both sides are multiples."""
    height, width = frame.shape[:2]
    rows, columns = padded_size(height, width, multiple)
    padded = np.empty((rows, columns, frame.shape[2]), frame.dtype)
    padded[:height, :width] = frame
    padded[:height, width:] = frame[:, -1:]
    padded[height:] = padded[height - 1]
    return padded


def centre_crop(image: Image, size: tuple[int, int]) -> Image:
    """Cut (height, width) from the middle; offsets are rounded down, as in the original.

    Raises FrameError where the image is smaller.
    """
    height, width = image.shape[:2]
    if height < size[0] or width < size[1]:
        raise FrameError(f"cannot crop {size[0]}x{size[1]} from an image of {height}x{width}")
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def middle(
    image: npt.NDArray[Any],
    multiple: tuple[int, int],
    most: tuple[int, int] | None = None,
    *,
    what: str = "a picture",
) -> Image:
    """The largest centre crop whose sides are multiples, at most (height, width) of `most`.

    Raises FrameError unless `image` is 8-bit colour, H×W×3, and holds one multiple each way.
    """
    check_frame(image, what)
    limits = image.shape[:2] if most is None else most
    height, width = (
        min(side, limit) // step * step
        for side, limit, step in zip(image.shape[:2], limits, multiple, strict=True)
    )
    if not height or not width:
        raise FrameError(f"{what} must be at least {multiple[1]}x{multiple[0]} pixels")
    return np.ascontiguousarray(centre_crop(image, (height, width)))


def to_planes(image: npt.NDArray[Any]) -> Planes:
    """H×W×3 of any dtype to (1, 3, H, W) float32."""
    if image.dtype != np.uint8:
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
    planes = np.empty((1, image.shape[2], *image.shape[:2]), np.float32)
    fill_planes(image, planes[0])
    return planes


def fill_planes(image: Image, planes: npt.NDArray[Any]) -> None:
    """Write H×W×3 of 8 bits into (3, H, W) of any dtype, ten times as fast as numpy would."""
    import cv2  # not at the top: commands start without it

    for k, plane in enumerate(planes):
        plane[...] = cv2.extractChannel(image, k)


def from_planes(planes: Planes) -> npt.NDArray[np.float32]:
    """(1, 3, H, W) to H×W×3."""
    return np.ascontiguousarray(planes[0].transpose(1, 2, 0))


def to_uint8(image: npt.NDArray[Any], size: tuple[int, int], *, truncate: bool) -> Image:
    """H×W×3 in 0..255, cut to (height, width), as 8 bits: rounded (half to even) or truncated."""
    levels = image[: size[0], : size[1]].clip(0, 255)
    if levels.dtype != np.uint8 and not truncate:
        np.rint(levels, out=levels)
    levels = levels.astype(np.uint8, copy=False)
    if levels.flags.c_contiguous:
        return levels
    import cv2  # not at the top: commands start without it

    # Planes: three times as fast as a copy by numpy.
    return np.asarray(cv2.merge([levels[..., k] for k in range(levels.shape[2])]), np.uint8)


def picture_of(planes: Planes, size: tuple[int, int], *, truncate: bool) -> Image:
    """`to_uint8` of `from_planes`, three times as fast."""
    import cv2  # not at the top: commands start without it

    levels = (plane[: size[0], : size[1]] for plane in planes[0])
    # Of negative values the last step takes the magnitude; it rounds half to even. `cv2.max` with a
    # number takes a plane of 1×1 or 4×1 for another number.
    whole = (np.floor(plane) if truncate else plane for plane in levels)
    positive = (cv2.threshold(plane, 0, 0, cv2.THRESH_TOZERO)[1] for plane in whole)
    return np.asarray(cv2.merge([cv2.convertScaleAbs(plane) for plane in positive]), np.uint8)
