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


Positions = NDArray[np.int32]
"""Of the symbols of a step in a picture, (parts, n), as flat indices in raster order: those of each
channel of a part. Symbols are in order of channels, n each."""
Layout = tuple[int, int, int]
"""Where in a flat array a volume's elements lie: elements per channel and per position, and 1 where
each part's channels begin at 0, 0 where they count on."""


STRETCH = 64
"""Positions whose channels are gone through before the next ones, since in some layouts they share
lines of the cache."""


@kernel()
def _first_of(part: int, parts: int, channels: int) -> int:
    """The first channel of a part, or the end of the last."""
    return -(-part * channels // parts)


@entry_point()
def choose_tables(
    mean: NDArray[Any], raw: NDArray[Any], layout: Layout, positions: Positions, channels: int,
    scale_numbers: NDArray[np.uint8], means: NDArray[np.int32], choice: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Means and numbers of scales of the symbols of a step, (n,). `mean` and `raw` are of whole
    numbers, flat."""
    parts, each = positions.shape
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        own = positions[part]
        for begin in range(0, each, STRETCH):
            for c in range(first, end):
                start = (c - first * layout[2]) * layout[0]
                for k in range(begin, min(begin + STRETCH, each)):
                    place = start + own[k] * layout[1]
                    means[c * each + k] = np.int32(mean[place])
                    number = _bounded(np.int32(raw[place]), SIGNED) - SIGNED[0]
                    choice[c * each + k] = scale_numbers[number]


@entry_point()
def quantise_symbols(
    y: NDArray[np.float32], means: NDArray[np.int32], positions: Positions, channels: int,
    symbols: NDArray[np.int32],
) -> None:  # fmt: skip
    """round(y - mean) of the symbols of a step, (n,); y is flat."""
    parts, each = positions.shape
    plane = y.size // channels
    for c in range(channels):
        own, values = positions[c * parts // channels], y[c * plane : (c + 1) * plane]
        for k in range(each):
            at = c * each + k
            scaled = np.float64(values[own[k]] * np.float32(MEAN_UNITS))
            whole = np.rint((scaled - means[at]) / MEAN_UNITS)
            symbols[at] = np.int32(min(max(whole, -HALF_RANGE), HALF_RANGE - 1))


@entry_point()
def put_symbols(
    symbols: NDArray[np.int32], means: NDArray[np.int32], positions: Positions, channels: int,
    latent: NDArray[np.float32], context: NDArray[Any], layout: Layout,
) -> None:  # fmt: skip
    """Values into the flat latent, in quantiser steps, and into what later steps are given, in
    16ths, where a half goes up."""
    parts, each = positions.shape
    plane = latent.size // channels
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        own = positions[part]
        for begin in range(0, each, STRETCH):
            for c in range(first, end):
                start = (c - first * layout[2]) * layout[0]
                for k in range(begin, min(begin + STRETCH, each)):
                    value = symbols[c * each + k] * MEAN_UNITS + means[c * each + k]
                    latent[c * plane + own[k]] = np.float32(np.float64(value) / MEAN_UNITS)
                    context[start + own[k] * layout[1]] = _in_context(value)


@entry_point()
def keep_values(
    reference: NDArray[np.float32], positions: Positions, channels: int,
    latent: NDArray[np.float32], context: NDArray[Any], layout: Layout,
) -> None:  # fmt: skip
    """As `put_symbols`, with the values of the flat reference, whose 64ths are whole."""
    parts, each = positions.shape
    plane = latent.size // channels
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        own = positions[part]
        for begin in range(0, each, STRETCH):
            for c in range(first, end):
                start = (c - first * layout[2]) * layout[0]
                for k in range(begin, min(begin + STRETCH, each)):
                    old = reference[c * plane + own[k]]
                    latent[c * plane + own[k]] = old
                    value = np.int64(np.rint(np.float64(old) * MEAN_UNITS))
                    context[start + own[k] * layout[1]] = _in_context(value)


@entry_point()
def add_costs(
    costs: NDArray[np.float32], positions: Positions, channels: int, width: int,
    blocks: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add what the symbols of a step cost to their blocks, (height / BLOCK, width / BLOCK)."""
    parts, each = positions.shape
    for c in range(channels):
        part = c * parts // channels
        for k in range(each):
            row, column = positions[part, k] // width, positions[part, k] % width
            blocks[row // BLOCK, column // BLOCK] += costs[c * each + k]


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
def _in_context(value: int) -> Any:
    """64ths to bounded 16ths, where a half goes up."""
    ratio = MEAN_UNITS // CONTEXT_UNITS
    return _bounded((value + ratio // 2) // ratio, CONTEXT)


@kernel()
def _bounded(value: int, ends: Any) -> Any:
    return min(max(value, ends[0]), ends[1])
