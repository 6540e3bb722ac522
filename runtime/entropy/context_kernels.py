"""The integer context model compiled: layers along lines of positions, and two ways through.

Stages (the padded symbols' levels, the outputs of three layers, the logits) are int16 arrays
(C + 1, rows, columns · features). Slice 0 stands for every depth before the volume, where all is
padding. Each stage has one row and column less around the volume than its source (4, 3, 2, 1, 0),
so the 3×3 window of an output at array indices (i, j) starts at (i, j) of its source.

Layers run along lines of positions of one slice: rows of the image for encoding; for decoding, the
positions of one front (equal w + 2h + 4c). A position of a front needs the layer below at the same
position and at earlier fronts only, so a slice runs through all layers on its own, every layer
computes every position once, and threads meet once per front.

Products are summed in float32, which vectorises best and, being integers below 2**24, is exact in
any order.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.entropy.rans import TOTAL, pop

Array = NDArray[Any]
Stages = tuple[Array, Array, Array, Array, Array]

PlainTables = tuple[Array, Array, Array, Array, Array, Array, Array]

LAYERS = 4
CHUNK = 32
"""Positions gathered at a time, few enough for their windows to stay in the cache."""
OUTPUT_BLOCK = 3
"""Outputs are computed three at a time; filters are padded to a multiple of it."""
FIRST_LENGTH = 16
"""The first layer's 13 taps and zeros, for whole vectors; all filters' lengths are multiples."""


class Tables(NamedTuple):
    """The model's tables, one entry per layer, padded with zeros to the widest layer.

    `weights` float32 (4, rows, length), each row a filter's causal taps · inputs; `bias` and
    `shift` int32 (4, rows); `bounds` int32 (4, 2); `skip_shift` int32 (features,) scales the first
    layer's outputs up to the third's sums; `levels` int16 (L,); `exponentials` int32 (n,).
    """

    weights: Array
    bias: Array
    shift: Array
    bounds: Array
    skip_shift: Array
    levels: Array
    exponentials: Array


class Line(NamedTuple):
    """n positions in one slice of a layer's output: (row + k · down, column + k · right)."""

    row: int
    column: int
    down: int
    right: int
    n: int


@kernel()
def _gather(
    above: Array, own: Array, inputs: int, first: bool, line: Line, start: int, windows: Array
) -> None:
    """Windows (n, taps · inputs) of a line's positions from `start` on, at most CHUNK."""
    full = 3 * inputs
    part = inputs if first else 2 * inputs
    for p in range(min(CHUNK, line.n - start)):
        i = line.row + (start + p) * line.down
        j = (line.column + (start + p) * line.right) * inputs
        # Views that start at zero spare the loops numba's check for negative indices.
        window = windows[p]
        for a in range(3):
            source, target = above[i + a, j : j + full], window[a * full : (a + 1) * full]
            for k in range(full):
                target[k] = source[k]
        source, target = own[i, j : j + full], window[3 * full : 4 * full]
        for k in range(full):
            target[k] = source[k]
        source, target = own[i + 1, j : j + part], window[4 * full : 4 * full + part]
        for k in range(part):
            target[k] = source[k]


@kernel(fastmath={"reassoc", "contract", "nsz"})
def _products(
    windows: Array, n: int, weights: Array, length: int, outputs: int, sums: Array
) -> None:
    """sums (n, outputs) = windows · weightsᵀ, two positions and three outputs at a time."""
    for p in range(0, n, 2):
        x0 = windows[p]
        x1 = windows[p + 1]
        for o in range(0, outputs, OUTPUT_BLOCK):
            w0 = weights[o]
            w1 = weights[o + 1]
            w2 = weights[o + 2]
            s00 = s01 = s02 = s10 = s11 = s12 = np.float32(0)
            for k in range(length):
                s00 += x0[k] * w0[k]
                s01 += x0[k] * w1[k]
                s02 += x0[k] * w2[k]
                s10 += x1[k] * w0[k]
                s11 += x1[k] * w1[k]
                s12 += x1[k] * w2[k]
            sums[p, o] = s00
            sums[p, o + 1] = s01
            sums[p, o + 2] = s02
            sums[p + 1, o] = s10
            sums[p + 1, o + 1] = s11
            sums[p + 1, o + 2] = s12


@kernel()
def _run_line(
    tables: Tables, stages: Stages, index: int, d: int, line: Line, windows: Array, sums: Array
) -> None:
    """Layer `index` at the positions of a line in slice d. Slice 0 sees itself as the one above."""
    above, own = stages[index][max(d - 1, 0)], stages[index][d]
    target, hidden = stages[index + 1][d], stages[1][d]
    features = tables.skip_shift.size
    inputs = 1 if index == 0 else features
    length = FIRST_LENGTH if index == 0 else tables.weights.shape[2]
    outputs = tables.levels.size if index == 3 else features
    bias, shift = tables.bias[index], tables.shift[index]
    low, high = tables.bounds[index]
    for start in range(0, line.n, CHUNK):
        n = min(CHUNK, line.n - start)
        _gather(above, own, inputs, index == 0, line, start, windows)
        _products(windows, n, tables.weights[index], length, outputs, sums)
        for p in range(n):
            i = line.row + (start + p) * line.down
            j = line.column + (start + p) * line.right
            total = sums[p]
            if index == 2:
                skip = hidden[i + 2, (j + 2) * outputs : (j + 3) * outputs]
                for o in range(outputs):
                    total[o] += np.float32(np.int32(skip[o]) << tables.skip_shift[o])
            row = target[i, j * outputs : (j + 1) * outputs]
            for o in range(outputs):
                value = np.int32(np.int32(np.int32(total[o]) + bias[o]) >> shift[o])
                row[o] = min(max(value, low), high)


@kernel()
def _normalise(logits: Array, exponentials: Array, frequencies: Array) -> None:
    """Frequencies (L,) of integer logits (L,): an exponential by table, then exact shares.

    Each symbol gets 1, and its share of the rest rounded down; what rounding left over goes to the
    first of the likeliest symbols.
    """
    count = logits.size
    best = 0
    for s in range(1, count):
        if logits[s] > logits[best]:
            best = s
    last = exponentials.size - 1
    total = 0
    for s in range(count):
        total += np.int64(exponentials[min(np.int64(logits[best]) - logits[s], last)])
    left = TOTAL
    for s in range(count):
        weight = np.int64(exponentials[min(np.int64(logits[best]) - logits[s], last)])
        share = 1 + weight * (TOTAL - count) // total
        frequencies[s] = share
        left -= share
    frequencies[best] += left


@kernel()
def _buffers(tables: Tables) -> tuple[Array, Array]:
    """Working space of one thread: windows and sums of a chunk of positions."""
    _, rows, length = tables.weights.shape
    return np.zeros((CHUNK, length), np.float32), np.zeros((CHUNK, rows), np.float32)


@kernel()
def _fill_padding(tables: Tables, stages: Stages) -> None:
    """Slice 0 of every stage: one position computed, then repeated."""
    windows, sums = _buffers(tables)
    for index in range(LAYERS):
        _run_line(tables, stages, index, 0, Line(0, 0, 0, 1, 1), windows, sums)
        target = stages[index + 1][0]
        outputs = tables.levels.size if index == 3 else tables.skip_shift.size
        for i in range(target.shape[0]):
            for k in range(target.shape[1]):
                target[i, k] = target[0, k % outputs]


@entry_point(parallel=True)
def whole_image(tables: PlainTables, stages: Stages, frequencies: Array) -> None:
    """Frequencies (C, h, w, L) uint16 from the stages, whose levels are filled in."""
    channels, height, width, count = frequencies.shape
    # Parallel loops take arrays in, but no record of arrays: it is put together inside.
    weights, bias, shift, bounds, skip_shift, levels, exponentials = tables
    _fill_padding(Tables(weights, bias, shift, bounds, skip_shift, levels, exponentials), stages)
    for index in range(LAYERS):
        margin = LAYERS - 1 - index
        rows = height + 2 * margin
        for task in prange(channels):
            own = Tables(weights, bias, shift, bounds, skip_shift, levels, exponentials)
            own_windows, own_sums = _buffers(own)
            for i in range(rows):
                line = Line(i, 0, 0, 1, width + 2 * margin)
                _run_line(own, stages, index, task + 1, line, own_windows, own_sums)
            if index == LAYERS - 1:
                for h in range(height):
                    for w in range(width):
                        logits = stages[4][task + 1, h, w * count : (w + 1) * count]
                        _normalise(logits, exponentials, frequencies[task, h, w])


@kernel()
def _front_rows(front: int, c: int, margin: int, height: int, width: int) -> tuple[int, int]:
    """Rows h (first, past the last) of channel c on a front, within `margin` of the volume."""
    u = front - 4 * c
    first = max(-margin, -((width + margin - 1 - u) // 2))
    return first, max(first, min(height + margin, (u + margin) // 2 + 1))


@kernel()
def _run_front(
    tables: Tables, stages: Stages, frequencies: Array, front: int, c: int,
    windows: Array, sums: Array,
) -> None:  # fmt: skip
    """All layers and the frequencies of one channel's positions on a front."""
    _, height, width, count = frequencies.shape
    for index in range(LAYERS):
        margin = LAYERS - 1 - index
        h, end = _front_rows(front, c, margin, height, width)
        w = front - 4 * c - 2 * h
        line = Line(h + margin, w + margin, 1, -2, end - h)
        _run_line(tables, stages, index, c + 1, line, windows, sums)
    first, end = _front_rows(front, c, 0, height, width)
    for h in range(first, end):
        w = front - 4 * c - 2 * h
        logits = stages[4][c + 1, h, w * count : (w + 1) * count]
        _normalise(logits, tables.exponentials, frequencies[c, h, w])


@kernel()
def _pop_front(
    tables: Tables, stages: Stages, frequencies: Array, front: int,
    payload: Array, position: int, state: int, symbols: Array,
) -> tuple[int, int]:  # fmt: skip
    """Decode the symbols of a front, channel by channel and row by row."""
    channels, height, width = symbols.shape
    for c in range(channels):
        first, end = _front_rows(front, c, 0, height, width)
        for h in range(first, end):
            w = front - 4 * c - 2 * h
            symbol, position, state = pop(payload, position, state, frequencies[c, h, w])
            symbols[c, h, w] = symbol
            stages[0][c + 1, h + LAYERS, w + LAYERS] = tables.levels[symbol]
    return position, state


@entry_point(parallel=True)
def wavefronts(
    tables: PlainTables, stages: Stages, frequencies: Array,
    payload: Array, position: int, state: int,
    symbols: Array, threads: int,
) -> tuple[int, int]:  # fmt: skip
    """Decode symbols (C, h, w) front by front: where the coder ended, and in which state.

    Stops early once the payload has run out. `frequencies` is working space.
    """
    channels, height, width = symbols.shape
    weights, bias, shift, bounds, skip_shift, levels, exponentials = tables
    whole = Tables(weights, bias, shift, bounds, skip_shift, levels, exponentials)
    _fill_padding(whole, stages)
    last = width - 1 + 2 * (height - 1) + 4 * (channels - 1)
    for front in range(-3 * (LAYERS - 1), last + 1):
        # Neighbouring channels have fronts of like length, so deal them out in turn.
        for thread in prange(threads):
            own = Tables(weights, bias, shift, bounds, skip_shift, levels, exponentials)
            own_windows, own_sums = _buffers(own)
            for c in range(thread, channels, threads):
                _run_front(own, stages, frequencies, front, c, own_windows, own_sums)
        position, state = _pop_front(
            whole, stages, frequencies, front, payload, position, state, symbols
        )
        if position > payload.size:
            break
    return position, state
