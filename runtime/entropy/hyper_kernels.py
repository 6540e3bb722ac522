"""The loops of `dsin.runtime.entropy.hyper_codec` over the symbols of one step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel

MEAN_UNITS, CONTEXT_UNITS = 64, 16
"""What one quantiser step is in means and decoded values, and in what the steps are given."""
SIGNED, CONTEXT = (-128, 127), (-1024, 1023)
"""Ranges of z and of raw scales, and of what the steps are given."""
HALF_RANGE = 1 << 15

Turns = NDArray[np.int32]
"""Of each part of the channels at each place of a 2×2 square, (parts, 2, 2): its step's number."""


@entry_point()
def count_symbols(shape: tuple[int, int, int], order: Turns, step: int) -> int:
    """How many symbols of a volume (channels, height, width) a step codes."""
    channels, height, width = shape
    count = 0
    for c in range(channels):
        part = c * len(order) // channels
        for i in range(2):
            for j in range(2):
                if order[part, i, j] == step:
                    count += ((height - i + 1) // 2) * ((width - j + 1) // 2)
    return count


@entry_point()
def choose_tables(
    mean: NDArray[np.float32], raw: NDArray[np.float32], order: Turns, step: int,
    scale_numbers: NDArray[np.uint8], means: NDArray[np.int32], choice: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Means and numbers of scales of a step's symbols, in raster order, (n,). `mean` and `raw` are
    (channels, height, width) of whole numbers."""
    channels, height, width = mean.shape
    at = 0
    for c in range(channels):
        part = c * len(order) // channels
        for i in range(height):
            for j in range(width):
                if order[part, i & 1, j & 1] == step:
                    means[at] = np.int32(mean[c, i, j])
                    choice[at] = scale_numbers[_bounded(np.int64(raw[c, i, j]), SIGNED) - SIGNED[0]]
                    at += 1


@entry_point()
def quantise_symbols(
    y: NDArray[np.float32], means: NDArray[np.int32], order: Turns, step: int,
    symbols: NDArray[np.int32],
) -> None:  # fmt: skip
    """round(y - mean) of a step's symbols, (n,)."""
    channels, height, width = y.shape
    at = 0
    for c in range(channels):
        part = c * len(order) // channels
        for i in range(height):
            for j in range(width):
                if order[part, i & 1, j & 1] == step:
                    scaled = np.float64(y[c, i, j] * np.float32(MEAN_UNITS))
                    whole = np.rint((scaled - means[at]) / MEAN_UNITS)
                    symbols[at] = np.int32(min(max(whole, -HALF_RANGE), HALF_RANGE - 1))
                    at += 1


@entry_point()
def put_symbols(
    symbols: NDArray[np.int32], means: NDArray[np.int32], order: Turns, step: int,
    latent: NDArray[np.float32], context: NDArray[np.float32],
) -> None:  # fmt: skip
    """A step's values into the latent, in quantiser steps, and into what later steps are given,
    in 16ths, where a half goes up."""
    channels, height, width = latent.shape
    ratio = MEAN_UNITS // CONTEXT_UNITS
    at = 0
    for c in range(channels):
        part = c * len(order) // channels
        for i in range(height):
            for j in range(width):
                if order[part, i & 1, j & 1] == step:
                    value = np.int64(symbols[at]) * MEAN_UNITS + means[at]
                    latent[c, i, j] = np.float32(np.float64(value) / MEAN_UNITS)
                    context[c, i, j] = _bounded((value + ratio // 2) // ratio, CONTEXT)
                    at += 1


@kernel()
def _bounded(value: int, ends: Any) -> Any:
    return min(max(value, ends[0]), ends[1])
