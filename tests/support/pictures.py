"""Pictures with structure at all sizes, made from numbers alone."""

import cv2
import numpy as np

from dsin.runtime.pictures import Image


def smooth_picture(size: tuple[int, int], seed: int) -> Image:
    """Coloured clouds of height and width `size`, uint8 H×W×3; another seed gives another scene."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((*size, 3), np.float32)
    for deviation in (3.0, 6.0, 12.0):
        noise = rng.normal(size=(*size, 3)).astype(np.float32)
        layers += deviation * cv2.GaussianBlur(noise, (0, 0), deviation)
    return np.asarray(np.clip(128 + 60 * layers / layers.std(), 0, 255), np.uint8)
