"""The loops of `dsin.runtime.entropy.hyper_codec` over the symbols of one step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.entropy.integer_coder import HALF_RANGE

MEAN_UNITS, CONTEXT_UNITS = 64, 16
"""What one quantiser step is in means and decoded values, and in what the steps are given."""
BLOCK = 2
"""Latent positions per block, each way."""
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
def split_places(
    places: NDArray[np.int64], width: int, coded: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places of a volume of that width whose block is coded, and the others, both in order.
    `coded` is (height / BLOCK, width / BLOCK)."""
    plane = coded.size * BLOCK * BLOCK
    chosen, others = np.empty_like(places), np.empty_like(places)
    count = left = 0
    for place in places:
        row, column = place % plane // width, place % width
        if coded[row // BLOCK, column // BLOCK]:
            chosen[count] = place
            count += 1
        else:
            others[left] = place
            left += 1
    return chosen[:count].copy(), others[:left].copy()


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


@entry_point()
def keep_values(
    reference: NDArray[np.float32], places: NDArray[np.int64],
    latent: NDArray[np.float32], context: NDArray[np.float32],
) -> None:  # fmt: skip
    """As `put_symbols`, with the values of the flat reference, whose 64ths are whole."""
    ratio = MEAN_UNITS // CONTEXT_UNITS
    for place in places:
        latent[place] = reference[place]
        value = np.int64(np.rint(np.float64(reference[place]) * MEAN_UNITS))
        context[place] = _bounded((value + ratio // 2) // ratio, CONTEXT)


@entry_point()
def add_costs(
    costs: NDArray[np.float32], places: NDArray[np.int64], width: int,
    blocks: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add what the symbol at each place costs to its block, (height / BLOCK, width / BLOCK)."""
    plane = blocks.size * BLOCK * BLOCK
    for at, place in enumerate(places):
        row, column = place % plane // width, place % width
        blocks[row // BLOCK, column // BLOCK] += costs[at]


@entry_point()
def block_errors(
    y: NDArray[np.float32], latent: NDArray[np.float32], errors: NDArray[np.float32]
) -> None:
    """Squared differences of two volumes (channels, height, width), added up by block."""
    channels, height, width = y.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                difference = y[c, i, j] - latent[c, i, j]
                errors[i // BLOCK, j // BLOCK] += difference * difference


@kernel()
def _bounded(value: int, ends: Any) -> Any:
    return min(max(value, ends[0]), ends[1])
