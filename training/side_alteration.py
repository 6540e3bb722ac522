"""Side images as the field has them: darker, blurred, misaligned, noisy, or of another place.

The fusion learns from them to take from a side image only what helps.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.pictures import Image

UNALTERED = 0.5
"""Share of side images that stay as they are."""
EXPOSURE = (0.6, 1.4)
OFFSET = 10.0
"""Grey levels."""
BLUR = (0.4, 2.5)
"""Standard deviations in pixels."""
ROWS = 5.0
"""Pixels up or down."""
ZOOM, TURN = 0.04, 0.7
"""Relative size, and degrees."""
NOISE = (2.0, 8.0)
"""Standard deviations in grey levels."""


def altered(y: Image, other: Image, rng: np.random.Generator) -> Image:
    """y (H×W×3) as another camera or another moment might have it, or `other`, of the same size,
    in its place."""
    if rng.random() < UNALTERED:
        return y
    alterations = (_exposed, _blurred, _shifted, _zoomed, _noisy)
    choice = int(rng.integers(len(alterations) + 1))
    return other if choice == len(alterations) else alterations[choice](y, rng)


def _exposed(y: Image, rng: np.random.Generator) -> Image:
    gain, offset = rng.uniform(*EXPOSURE), rng.uniform(-OFFSET, OFFSET)
    return _to_uint8(y * np.float32(gain) + np.float32(offset))


def _blurred(y: Image, rng: np.random.Generator) -> Image:
    return np.asarray(cv2.GaussianBlur(y, (0, 0), rng.uniform(*BLUR)), np.uint8)


def _shifted(y: Image, rng: np.random.Generator) -> Image:
    return _moved(y, np.array([[1, 0, 0], [0, 1, rng.uniform(-ROWS, ROWS)]]))


def _zoomed(y: Image, rng: np.random.Generator) -> Image:
    centre = (y.shape[1] / 2, y.shape[0] / 2)
    return _moved(
        y, cv2.getRotationMatrix2D(centre, rng.uniform(-TURN, TURN), 1 + rng.uniform(-ZOOM, ZOOM))
    )


def _noisy(y: Image, rng: np.random.Generator) -> Image:
    return _to_uint8(y + rng.normal(0, rng.uniform(*NOISE), y.shape).astype(np.float32))


def _moved(y: Image, matrix: npt.NDArray[Any]) -> Image:
    size = (y.shape[1], y.shape[0])
    return np.asarray(cv2.warpAffine(y, matrix, size, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _to_uint8(values: npt.NDArray[Any]) -> Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
