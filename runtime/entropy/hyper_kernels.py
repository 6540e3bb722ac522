"""The loops of `dsin.runtime.entropy.hyper_codec` over the symbols of one step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.entropy.integer_coder import HALF_RANGE

MEAN_UNITS, CONTEXT_UNITS = 64, 16
"""What one quantiser step is in means and decoded values, and in what the steps are given."""
SIGNED, CONTEXT = (-128, 127), (-1024, 1023)
"""Ranges of z and of raw scales, and of what the steps are given."""

Turns = NDArray[np.int32]
"""Of each part of the channels at each place of a 2×2 square, (parts, 2, 2): its step's number."""


@entry_point()
def symbol_places(shape: tuple[int, int, int], order: Turns, step: int) -> NDArray[np.int64]:
    """Where the symbols of a step lie in a volume (channels, height, width), as flat indices in
    raster order, (n,)."""
    channels, height, width = shape
    places = np.empty(channels * height * width, np.int64)
    count = 0
    for c in range(channels):
        part = c * len(order) // channels
        for i in range(height):
            for j in range(width):
                if order[part, i & 1, j & 1] == step:
                    places[count] = (c * height + i) * width + j
                    count += 1
    found: NDArray[np.int64] = places[:count].copy()
    return found


@entry_point()
def choose_tables(
    mean: NDArray[np.float32], raw: NDArray[np.float32], places: NDArray[np.int64],
    scale_numbers: NDArray[np.uint8], means: NDArray[np.int32], choice: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Means and numbers of scales of the symbols at `places`, (n,). `mean` and `raw` are of whole
    numbers, flat."""
    for at, place in enumerate(places):
        means[at] = np.int32(mean[place])
        choice[at] = scale_numbers[_bounded(np.int64(raw[place]), SIGNED) - SIGNED[0]]


@entry_point()
def quantise_symbols(
    y: NDArray[np.float32], means: NDArray[np.int32], places: NDArray[np.int64],
    symbols: NDArray[np.int32],
) -> None:  # fmt: skip
    """round(y - mean) of the symbols at `places`, (n,); y is flat."""
    for at, place in enumerate(places):
        scaled = np.float64(y[place] * np.float32(MEAN_UNITS))
        whole = np.rint((scaled - means[at]) / MEAN_UNITS)
        symbols[at] = np.int32(min(max(whole, -HALF_RANGE), HALF_RANGE - 1))


@entry_point()
def put_symbols(
    symbols: NDArray[np.int32], means: NDArray[np.int32], places: NDArray[np.int64],
    latent: NDArray[np.float32], context: NDArray[np.float32],
) -> None:  # fmt: skip
    """Values into the flat latent, in quantiser steps, and into what later steps are given, in
    16ths, where a half goes up."""
    ratio = MEAN_UNITS // CONTEXT_UNITS
    for at, place in enumerate(places):
        value = np.int64(symbols[at]) * MEAN_UNITS + means[at]
        latent[place] = np.float32(np.float64(value) / MEAN_UNITS)
        context[place] = _bounded((value + ratio // 2) // ratio, CONTEXT)


@kernel()
def _bounded(value: int, ends: Any) -> Any:
    return min(max(value, ends[0]), ends[1])
