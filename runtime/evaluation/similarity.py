"""MS-SSIM: how alike two pictures are in structure, 1 for identical ones.

Wang, Simoncelli and Bovik, "Multi-scale structural similarity" (2003): five scales, Gaussian window
of 11 pixels and sigma 1.5 without padding, each channel by itself, data range 255. In float64;
`dsin.training.losses` computes the same with gradients.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.pictures import Image

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
MIN_SIDE = 161
"""Shortest side in pixels that still has a whole window at the fifth scale."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_GAUSSIAN = cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_64F)

_Floats = npt.NDArray[np.float64]


def similarity(picture: Image, original: Image) -> float | None:
    """MS-SSIM of two H×W×3 RGB pictures, None where they are too small for five scales."""
    if min(original.shape[:2]) < MIN_SIDE:
        return None
    x, y = original.astype(np.float64), picture.astype(np.float64)
    channels = np.ones(3)
    for number, weight in enumerate(SCALE_WEIGHTS):
        contrast, whole = _ssim(x, y)
        last = number == len(SCALE_WEIGHTS) - 1
        channels *= np.maximum(whole if last else contrast, 0) ** weight
        x, y = _halved(x), _halved(y)
    return math.fsum(channels) / 3


def _ssim(x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
    """Contrast times structure, and that times luminance: means over positions, (3,)."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    contrast = (2 * (_blurred(x * y) - mean_x * mean_y) + _C2) / (variances + _C2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return contrast.mean((0, 1)), (contrast * luminance).mean((0, 1))


def _blurred(image: _Floats) -> _Floats:
    """Where the whole window lies inside."""
    edge = WINDOW // 2
    blurred = cv2.sepFilter2D(image, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)
    return np.asarray(blurred[edge:-edge, edge:-edge], np.float64)


def _halved(image: _Floats) -> _Floats:
    """Means of 2×2 pixels; before an odd number of rows or columns there is one of zeros."""
    height, width = image.shape[:2]
    even = np.pad(image, ((height % 2, 0), (width % 2, 0), (0, 0)))
    rows, columns = even.shape[0] // 2, even.shape[1] // 2
    halved: _Floats = even.reshape(rows, 2, columns, 2, 3).mean((1, 3))
    return halved
