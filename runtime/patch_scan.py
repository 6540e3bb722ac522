"""Compiled kernels of `dsin.runtime.patch_search` for patches that its bounds hardly help with.

All in float64, so that nothing has to be decided anew, and a row of windows at a time, so that the
cost has a limit: that of correlating the patch with the whole image.

Whoever changes `patch_kernels` must also touch this file: numba's cache of `scan` notices a change
here, not one in a kernel that is called from here.
"""

import numpy as np

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.patch_correlation import TIE, Float64
from dsin.runtime.patch_kernels import (
    FAST,
    MARGIN,
    Float32,
    Prior,
    bounds_of_row,
    reach,
    window_sums,
)

BLOCK = 128
"""Windows that are compared together if the bound of one of them asks for it."""


@entry_point(fastmath=FAST)
def window_norms(
    planes: Float64, first: int, last: int, size: tuple[int, int], out: Float64
) -> None:
    """Fill rows first..last of `out` with 1 / norm of the centred windows, or 0."""
    axis, sums = np.ones(3), np.empty((3, out.shape[1]))
    for r in range(first, last):
        window_sums(planes, r, size[0], size[1], axis, sums, out[r])


@kernel(fastmath=FAST)
def _add_line(source: Float64, taps: Float64, out: Float64) -> None:
    """out[c] += Σ taps[t] · source[c + t], eight taps at a time."""
    count = out.shape[0]
    whole = taps.shape[0] // 8 * 8
    for t in range(0, whole, 8):
        p, q, r, s = taps[t], taps[t + 1], taps[t + 2], taps[t + 3]
        u, v, w, z = taps[t + 4], taps[t + 5], taps[t + 6], taps[t + 7]
        for c in range(count):
            out[c] += (
                p * source[c + t] + q * source[c + t + 1]
                + r * source[c + t + 2] + s * source[c + t + 3]
                + u * source[c + t + 4] + v * source[c + t + 5]
                + w * source[c + t + 6] + z * source[c + t + 7]
            )  # fmt: skip
    for t in range(whole, taps.shape[0]):
        for c in range(count):
            out[c] += taps[t] * source[c + t]


@kernel()
def _scan_row(
    patch: Float64,
    planes: Float64,
    norms: Float64,
    bounds: Float32,
    prior: Prior,
    r: int,
    low: int,
    least: float,
    values: Float64,
) -> None:
    """Scores of the windows from column `low` on, for which there are bounds; -inf: below least."""
    values[:] = -np.inf
    for start in range(0, bounds.shape[0], BLOCK):
        stop = min(start + BLOCK, bounds.shape[0])
        if bounds[start:stop].max() < least:
            continue
        first = low + start
        scores = values[first : low + stop]
        scores[:] = 0
        for k in range(3):
            for t in range(patch.shape[1]):
                _add_line(planes[k, r + t, first:], patch[k, t], scores)
        for c in range(scores.shape[0]):
            scores[c] *= norms[r, first + c] * prior[0][r] * prior[1][first + c]


@entry_point()
def scan(
    patch: Float64,
    wanted: Float32,
    planes: Float64,
    norms: Float64,
    features: Float32,
    prior: Prior,
    own: tuple[int, int],
    best: float,
) -> tuple[int, int, float]:
    """Row, column and score of the first best window of the image for one patch.

    `patch` (3, height, width) is centred and of norm 1, `planes` (3, H, W) the image, both in
    H-space; `wanted` and `features` describe them for the bounds. `best` is a score that some
    window reaches, and `own` the patch's place, from which the search goes up and down.
    """
    down, across = prior
    rows, columns = norms.shape
    tops, columns_of = np.full(rows, -np.inf), np.zeros(rows, np.int64)
    bounds, values = np.empty(columns, np.float32), np.empty(columns)
    for step in range(2 * rows):
        r = own[0] + (step + 1) // 2 if step % 2 else own[0] - step // 2
        if r < 0 or r >= rows or down[r] < best - MARGIN:
            continue
        low, high = reach(across, own[1], (best - MARGIN) / down[r])
        line = bounds[: high - low]
        bounds_of_row(wanted, features[:, :, low:], r, down[r], across[low:], line)
        _scan_row(patch, planes, norms, line, prior, r, low, best - MARGIN, values)
        tops[r] = values.max()
        columns_of[r] = np.argmax(values >= tops[r] - TIE)
        best = max(best, tops[r])
    row = int(np.argmax(tops >= tops.max() - TIE))
    return row, int(columns_of[row]), float(tops[row])
