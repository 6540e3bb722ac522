"""The search where pruning does not help: matrix products of patches with all windows left.

Noise, an unrelated picture or texture that repeats leave a patch with more windows than are worth
scoring one by one. Those patches are compared together: the windows of one row are the columns of
a matrix, and the patches its other side. The next row of windows differs by one row of pixels, so
the matrix is a ring of pixel rows of which one is replaced; patches are stored twice in a row, so
that the turned order of theirs is a plain slice.

Float32 first, keeping the windows within the margin of the best, which float64 then decides; where
these are too many (exact repetitions), float64 throughout, by the definition's rule for ties. The
prior rules out whole tiles of windows. With `l2`, which has no such bound, all is float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from dsin.runtime.compiled import entry_point
from dsin.runtime.patch_correlation.definition import Float64, Image, Measure, tie_of

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
TILE = (16, 408)
"""Rows and columns of windows that a patch is compared with or not."""
AT_ONCE = 1024
"""Patches in one pass over the windows: bounds the memory."""
ROUGH = 1e-4
"""More than the scores that a float64 comparison starts from may be wrong by."""
NEAR = 64
"""Windows of a patch within the margin of its best that are kept for float64 to decide."""


class Patches(NamedTuple):
    """Patches to compare: (N, 3, height, width) in the images' colours, and where they lie.

    `down` (N, rows) and `across` (N, columns) are the prior's factors; `best` (N,) is a score that
    some window reaches.
    """

    values: Image
    down: Float64
    across: Float64
    best: Float64


class Windows(NamedTuple):
    """What they are compared with: planes (3, H, W), and per window (rows, columns).

    `pearson`: `factor` is 1 / norm and `doubt` the float32 error. `l2`: `factor` is the sum of
    squares.
    """

    planes: Image
    factor: Image
    doubt: Float32


def near_best(
    patches: Patches, windows: Windows, margin: Float64
) -> tuple[Indices, Indices, Indices]:
    """Float32 comparison: the places (row · columns + column) of windows near each patch's best.

    `margin` (N,) is what the scores of a patch may err by. Returns (N, NEAR) places, (N,) how many
    there are, more than NEAR where there are too many, and (N,) how many windows were compared.
    """
    every = len(patches.best)
    places, upper = np.zeros((every, NEAR), np.int64), np.zeros((every, NEAR))
    count, compared = np.zeros((2, every), np.int64)
    best = patches.best.copy()
    doubled = _doubled(patches.values)
    for rows in _bands(windows.factor.shape[0]):
        alive_down = patches.down[:, rows.start : rows.stop].max(1)
        tiles = []
        for first in range(0, windows.factor.shape[1], TILE[1]):
            cols = slice(first, min(first + TILE[1], windows.factor.shape[1]))
            reachable = alive_down * patches.across[:, cols].max(1) >= best - margin
            who = np.flatnonzero(reachable & (count <= NEAR))
            if len(who):
                tiles.append((cols, who, doubled[who]))
                compared[who] += len(rows) * (cols.stop - cols.start)
        if not tiles:
            continue
        for r, ring, turn in _rows(windows.planes, rows, patches.values.shape[2:]):
            for cols, who, mine in tiles:
                products = mine[:, turn] @ ring[:, cols]
                _keep_near(
                    products, who, r, cols.start, windows.factor, windows.doubt, patches.down,
                    patches.across, margin, best, places, upper, count,
                )  # fmt: skip
    return places, count, compared


def first_best(
    patches: Patches, windows: Windows, measure: Measure
) -> tuple[Indices, Indices, Float64]:
    """Float64 comparison of at most AT_ONCE patches: row, column and score of the first best.

    Ties as in the definition; scores with the prior.
    """
    tie = tie_of(measure, patches.values.shape[2:])
    every, rows = len(patches.best), windows.factor.shape[0]
    tops, where = np.full((every, rows), -np.inf), np.zeros((every, rows), np.int64)
    own = (patches.values.reshape(every, -1) ** 2).sum(1)
    best = patches.best - ROUGH if measure == "pearson" else np.full(every, -np.inf)
    doubled = _doubled(patches.values)
    for band in _bands(rows):
        limit = patches.down[:, band.start : band.stop].max(1) * patches.across.max(1)
        who = np.flatnonzero((limit >= best - tie) | (measure != "pearson"))
        if not len(who):
            continue
        mine = doubled[who]
        for r, ring, turn in _rows(windows.planes, band, patches.values.shape[2:]):
            scores = mine[:, turn] @ ring
            weight = patches.down[who, r, None] * patches.across[who]
            if measure == "pearson":
                scores *= windows.factor[r] * weight
            else:
                scores *= 2
                scores -= own[who, None] + windows.factor[r]
                scores[scores > -tie] = 0
                scores /= weight
            tops[who, r] = scores.max(1)
            where[who, r] = (scores >= tops[who, r, None] - tie).argmax(1)
        best = np.maximum(best, tops.max(1))
    row = (tops >= tops.max(1, keepdims=True) - tie).argmax(1)
    everyone = np.arange(every)
    return row, where[everyone, row], tops[everyone, row]


def _bands(rows: int) -> Iterator[range]:
    return (range(r, min(r + TILE[0], rows)) for r in range(0, rows, TILE[0]))


def _doubled(values: Image) -> Image:
    """Patches as rows of numbers, pixel row by pixel row, twice: (N, 2 · height · 3 · width)."""
    flat = values.transpose(0, 2, 1, 3).reshape(len(values), -1)
    return np.concatenate([flat, flat], 1)


def _rows(planes: Image, rows: range, patch: tuple[int, ...]) -> Iterator[tuple[int, Image, slice]]:
    """For each row of windows: its number, the windows as columns of a matrix, and which columns
    of doubled patches belong to its rows."""
    ph, pw = patch
    line = 3 * pw
    columns = planes.shape[2] - pw + 1
    ring = np.empty((ph, 3, pw, columns), planes.dtype)
    matrix = ring.reshape(ph * line, columns)
    for r in range(rows.start, rows.stop + ph - 1):
        ring[r % ph] = sliding_window_view(planes[:, r], pw, axis=1).transpose(0, 2, 1)
        first = r - ph + 1
        if first >= rows.start:
            # Slot s holds pixel row s, s + height, ...: the ring begins at `first`'s slot.
            turn = (-first) % ph
            yield first, matrix, slice(turn * line, (turn + ph) * line)


@entry_point()
def _keep_near(
    products: Float32, who: Indices, r: int, start: int, factor: Float32, doubt: Float32,
    down: Float64, across: Float64, margin: Float64, best: Float64, places: Indices, upper: Float64,
    count: Indices,
) -> None:  # fmt: skip
    """Keep those windows of one tile's row that come near the best of their patch."""
    columns = factor.shape[1]
    room = places.shape[1]
    for m in range(who.shape[0]):
        n = who[m]
        for c in range(products.shape[1]):
            col = start + c
            score = products[m, c] * factor[r, col] * (down[n, r] * across[n, col])
            if score + doubt[r, col] < best[n] - margin[n]:
                continue
            best[n] = max(best[n], score - doubt[r, col])
            if count[n] == room:
                kept = 0
                for k in range(room):
                    if upper[n, k] >= best[n] - margin[n]:
                        places[n, kept], upper[n, kept] = places[n, k], upper[n, k]
                        kept += 1
                count[n] = kept
            if count[n] < room:
                places[n, count[n]] = r * columns + col
                upper[n, count[n]] = score + doubt[r, col]
                count[n] += 1
            else:
                count[n] = room + 1
                break
