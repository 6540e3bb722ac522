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
Span = tuple[int, int]
"""First and end of those positions of each part that a call is for."""

STRETCH = 64
"""Positions whose channels are gone through before the next ones, since in some layouts they share
lines of the cache."""


@kernel()
def _first_of(part: int, parts: int, channels: int) -> int:
    """The first channel of a part, or the end of the last."""
    return -(-part * channels // parts)


@kernel()
def _number_of(raw: Any, scale_numbers: NDArray[np.uint8]) -> Any:
    # Indices without a sign spare what those below zero would need.
    return scale_numbers[np.uint64(min(max(np.int32(raw), SIGNED[0]), SIGNED[1]) - SIGNED[0])]


@kernel()
def _put(
    value: Any, latent: NDArray[np.float32], context: NDArray[Any], at: Any, per_position: Any
) -> None:
    """64ths into the latent of a channel, and into what later steps are given."""
    latent[at] = np.float32(np.float64(value) / MEAN_UNITS)
    context[at * per_position] = _in_context(value)


@entry_point()
def choose_tables(
    mean: NDArray[Any], raw: NDArray[Any], layout: Layout, positions: Positions, span: Span,
    channels: int, scale_numbers: NDArray[np.uint8], means: NDArray[np.int32],
    choice: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Means and numbers of scales of the symbols of a step, (n,), at a span of its positions.
    `mean` and `raw` are of whole numbers, flat."""
    parts, each = positions.shape
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        for begin in range(span[0], span[1], STRETCH):
            stop = min(begin + STRETCH, span[1])
            own = positions[part, begin:stop]
            for c in range(first, end):
                start = (c - first * layout[2]) * layout[0]
                own_mean, own_raw = mean[start:], raw[start:]
                own_means = means[c * each + begin : c * each + stop]
                own_choice = choice[c * each + begin : c * each + stop]
                for k in range(own.size):
                    place = np.uint64(own[k]) * np.uint64(layout[1])
                    own_means[k] = np.int32(own_mean[place])
                    own_choice[k] = _number_of(own_raw[place], scale_numbers)


@entry_point()
def put_symbols(
    symbols: NDArray[np.int32], means: NDArray[np.int32], positions: Positions, span: Span,
    channels: int, latent: NDArray[np.float32], context: NDArray[Any], layout: Layout,
) -> None:  # fmt: skip
    """Values into the flat latent, in quantiser steps, and into what later steps are given, in
    16ths, where a half goes up, at a span of a step's positions."""
    parts, each = positions.shape
    plane = latent.size // channels
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        for begin in range(span[0], span[1], STRETCH):
            stop = min(begin + STRETCH, span[1])
            own = positions[part, begin:stop]
            for c in range(first, end):
                values = latent[c * plane : (c + 1) * plane]
                known = context[(c - first * layout[2]) * layout[0] :]
                own_symbols = symbols[c * each + begin : c * each + stop]
                own_means = means[c * each + begin : c * each + stop]
                for k in range(own.size):
                    value = np.int32(own_symbols[k] * MEAN_UNITS + own_means[k])
                    _put(value, values, known, np.uint64(own[k]), np.uint64(layout[1]))


@entry_point()
def quantise_symbols(
    y: NDArray[np.float32], mean: NDArray[Any], raw: NDArray[Any], layout: Layout,
    positions: Positions, span: Span, channels: int, scale_numbers: NDArray[np.uint8],
    symbols: NDArray[np.int32], choice: NDArray[np.uint8], latent: NDArray[np.float32],
    context: NDArray[Any], known_layout: Layout,
) -> None:  # fmt: skip
    """As `choose_tables`, then symbols = round(y - mean), then `put_symbols`; y is flat."""
    parts, each = positions.shape
    plane = latent.size // channels
    for part in range(parts):
        first, end = _first_of(part, parts, channels), _first_of(part + 1, parts, channels)
        for begin in range(span[0], span[1], STRETCH):
            stop = min(begin + STRETCH, span[1])
            own = positions[part, begin:stop]
            for c in range(first, end):
                start = (c - first * layout[2]) * layout[0]
                own_mean, own_raw = mean[start:], raw[start:]
                known = context[(c - first * known_layout[2]) * known_layout[0] :]
                own_y = y[c * plane : (c + 1) * plane]
                values = latent[c * plane : (c + 1) * plane]
                own_symbols = symbols[c * each + begin : c * each + stop]
                own_choice = choice[c * each + begin : c * each + stop]
                for k in range(own.size):
                    at = np.uint64(own[k])
                    place = at * np.uint64(layout[1])
                    middle = np.int32(own_mean[place])
                    scaled = np.float64(own_y[at] * np.float32(MEAN_UNITS))
                    whole = np.rint((scaled - middle) / MEAN_UNITS)
                    symbol = np.int32(min(max(whole, -HALF_RANGE), HALF_RANGE - 1))
                    own_symbols[k] = symbol
                    own_choice[k] = _number_of(own_raw[place], scale_numbers)
                    value = np.int32(symbol * MEAN_UNITS + middle)
                    _put(value, values, known, at, np.uint64(known_layout[1]))


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
                    value = np.int32(np.rint(np.float64(old) * MEAN_UNITS))
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
    return min(max((value + ratio // 2) // ratio, CONTEXT[0]), CONTEXT[1])
