"""How far a decoded picture is from the original."""

import math

import numpy as np

from dsin.runtime.pictures import Image

IDENTICAL_DB = 100.0
"""Stands for the infinite PSNR of identical pictures."""


def psnr_db(picture: Image, original: Image) -> float:
    """Peak signal-to-noise ratio in dB over all of RGB, both H×W×3 uint8 of one size."""
    difference = picture.astype(np.float32) - original.astype(np.float32)
    mean_square = float(np.mean(np.square(difference), dtype=np.float64))
    if mean_square == 0:
        return IDENTICAL_DB
    return min(IDENTICAL_DB, 20 * math.log10(255) - 10 * math.log10(mean_square))
