"""The fast exact search behind `dsin.runtime.patch_correlation.match`.

A position is scored only if it can still win. Three bounds see to that:

1. Correlation is at most 1, so a position whose prior is below the best score so far is out.
2. With unit vectors p and y split into their leading DCT coefficients (index k) and a rest,
   p·y ≤ p_k·y_k + |p_rest|·|y_rest|. The right side is one dot product of K + 1 numbers, and what
   belongs to y is prepared beforehand.
3. Survivors are scored best bound first, in float32, and those within the margin of the best once
   more in float64, as the definition does.

Colours are an orthonormal rotation of H-space, which changes no dot product but puts almost all
variance of natural images (grey) into one plane, where most of the coefficients are spent.

Exactness. Float32 errs in a score by about 1e-6 times the window's norm over its norm once centred
(the same of the patch). That is far below the margin unless a window is nearly flat in H-space,
where its *doubt* is added to bound and score alike, up to where it is always scored in float64.

Worst case. A patch with more than `LISTED` survivors is searched by itself, and where most windows
survive, by matrix products together with others like it
(`dsin.runtime.patch_correlation.patch_dense`): noise needs about as many of those as brute force
does. So do exact repetitions, in float64.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from dsin.runtime.compiled import Crew, bands, crew
from dsin.runtime.patch_correlation import patch_dense
from dsin.runtime.patch_correlation.definition import (
    H_SPACE,
    MEAN,
    NO_VARIANCE,
    STD,
    Float64,
    Image,
    Matches,
    Measure,
    PreparedSide,
    check_pair,
    cut,
    origins,
    prior_weights,
    rgb_to_lab,
    to_h_space,
    unit,
)
from dsin.runtime.patch_correlation.patch_kernels import (
    CROWDED,
    DONE,
    LISTED,
    MARGIN,
    ROUNDING,
    TIED,
    Basis,
    Found,
    LineRoom,
    RowRoom,
    SideArrays,
    convert,
    decide,
    describe_windows,
    search_one,
    search_row,
)

Float32 = npt.NDArray[np.float32]
Prior = tuple[Float64, Float64]

ORDERS = (4, 1, 1)
"""Highest total order u + v of the DCT coefficients kept in each rotated plane."""
MOST_LISTED = 0.4
"""Share of the windows in reach above which scoring survivors costs more than matrix products."""
FEW = 32
"""Patches for which matrix products are not worth setting up."""
# Grey (R = G = B) is (2, 0, 1) in H-space; the other two axes carry colour.
ROTATION = np.array([[2, 0, 1], [0, 5**0.5, 0], [-1, 0, 2]]) / 5**0.5


def prepare(
    y_dec: Image, patch: tuple[int, int], measure: Measure, threads: int | None
) -> PreparedSide:
    """See `dsin.runtime.patch_correlation.definition.prepare`; the image is checked already."""
    with crew(threads) as share:
        return _prepare(y_dec, patch, measure, share)


def _prepare(
    y_dec: Image, patch: tuple[int, int], measure: Measure, share: Crew[Any]
) -> PreparedSide:
    levels, planes, mixed = _converted(y_dec, share)
    if measure != "pearson":
        none, flat = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32)
        return PreparedSide(levels, patch, measure, none, flat, flat, flat, none)
    rows, cols = levels.shape[0] - patch[0] + 1, levels.shape[1] - patch[1] + 1
    basis, axis = _basis(patch), ROTATION.sum(1)
    inverse_norm, doubt = np.empty((2, rows, cols), np.float32)
    features = np.empty((rows, len(basis[2]) + 1, cols), np.float32)

    def band(part: range) -> None:
        room = _line_room(planes.shape[2], cols)
        first, last = part.start, part.stop
        describe_windows(planes, basis, axis, first, last, inverse_norm, doubt, features, room)

    share(band, bands(rows, 32))
    return PreparedSide(levels, patch, measure, planes, mixed, inverse_norm, doubt, features)


def search(x_dec: Image, side: PreparedSide, weights: Prior | None, threads: int | None) -> Matches:
    """See `dsin.runtime.patch_correlation.match`; `weights` are the prior's factors or None."""
    row, col, score, _ = _search(x_dec, side, weights, threads)
    own, size = origins(x_dec.shape[:2], side.patch), side.patch
    # From the window's corner to that of the piece: they differ for partial patches only.
    row += (np.arange(len(own[0]), dtype=np.int32) * size[0] - own[0])[:, None]
    col += np.arange(len(own[1]), dtype=np.int32) * size[1] - own[1]
    return Matches(row, col, score.astype(np.float32))


def evaluations(
    x_dec: Image, y_dec: Image, patch: tuple[int, int] = (20, 24), *, prior: bool = True
) -> npt.NDArray[np.int64]:
    """How many windows the search compares in full, for each patch (patch rows, patch columns)."""
    check_pair(x_dec, y_dec, patch)
    weights = prior_weights(x_dec.shape[:2], patch) if prior else None
    return _search(x_dec, prepare(y_dec, patch, "pearson", None), weights, None)[3]


def _search(x_dec: Image, side: PreparedSide, weights: Prior | None, threads: int | None) -> Found:
    own = origins(x_dec.shape[:2], side.patch)
    if weights is None:
        rows, cols = (n - k + 1 for n, k in zip(x_dec.shape[:2], side.patch, strict=True))
        weights = np.ones((len(own[0]), rows)), np.ones((len(own[1]), cols))
    grid = len(own[0]), len(own[1])
    row, col = np.zeros((2, *grid), np.int32)
    out: Found = (row, col, np.zeros(grid), np.zeros(grid, np.int64))
    with crew(threads) as share:
        levels, planes, _ = _converted(x_dec, share, mix=False)
        if side.measure != "pearson":
            _compare_all(levels, side, weights, np.indices(grid).reshape(2, -1).T, out)
            return out
        state = _search_pruned(levels, planes, side, weights, own, out, share)
    crowded = np.argwhere(state == CROWDED)
    for some in _chunks(crowded):
        _compare(levels, side, weights, own, some, out, state)
    tied = np.argwhere(state == TIED)
    if len(tied):
        _compare_all(levels, side, weights, tied, out)
    return out


def _search_pruned(
    x: Float32, planes: Float32, side: PreparedSide, weights: Prior,
    own: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]], out: Found, share: Crew[Any],
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Fill `out`; returns the state of each patch."""
    basis, prepared = _basis(side.patch), _side(side)
    state = np.full(out[0].shape, DONE, np.uint8)

    across = weights[1].astype(np.float32)
    places = own[0].astype(np.int64), own[1].astype(np.int64)  # as `search_one` has them

    def patch_row(i: int) -> None:
        prior = (weights[0][i], weights[1])
        room = _row_room(basis, across, planes.shape[2])
        search_row(i, places, planes, x, prepared, basis, prior, _AFFINE, room, out, state)

    def patch(at: npt.NDArray[np.intp], most: float) -> None:
        i, j = int(at[0]), int(at[1])
        place, prior = (int(own[0][i]), int(own[1][j])), (weights[0][i], weights[1][j])
        search_one((i, j), place, planes, x, prepared, basis, prior, _AFFINE, out, state, most)

    share(patch_row, range(len(state)))
    share(partial(patch, most=MOST_LISTED), np.argwhere(state == CROWDED))
    left = np.argwhere(state == CROWDED)
    if len(left) <= FEW:
        share(partial(patch, most=1.0), left)
    return state


def _line_room(width: int, columns: int) -> LineRoom:
    return (
        np.empty((4, width)), np.empty((4, columns)), np.empty(columns),
        np.empty(width, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32),
    )  # fmt: skip


def _row_room(basis: Basis, across: Float32, width: int) -> RowRoom:
    patches = len(across)
    return (
        np.empty((patches, basis[0].shape[1], 3 * basis[1].shape[1]), np.float32),
        np.empty((patches, len(basis[2]) + 1), np.float32),
        np.empty((patches, LISTED), np.int32), np.empty((patches, LISTED), np.float32),
        across, np.empty(width, np.float32), np.empty((2, patches)),
        np.empty((3, patches), np.int64),
    )  # fmt: skip


def compile_search_row(patch: tuple[int, int]) -> None:
    """Search a row without patches for nothing but the types, in a side image without pixels."""
    nothing, plane = np.zeros((0, 0, 3), np.float32), np.zeros((0, 0), np.float32)
    side = PreparedSide(nothing, patch, "pearson", nothing, plane, plane, plane, nothing)
    row, col = np.zeros((2, 1, 0), np.int32)
    out: Found = (row, col, np.zeros((1, 0)), np.zeros((1, 0), np.int64))
    own, weights = (
        (np.zeros(1, np.int32), np.zeros(0, np.int32)),
        (np.ones((1, 0)), np.ones((0, 0))),
    )
    with crew(1) as share:
        _search_pruned(nothing, nothing, side, weights, own, out, share)


def _compare(
    x: Float32, side: PreparedSide, weights: Prior,
    own: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]], where: npt.NDArray[np.intp],
    out: Found, state: npt.NDArray[np.uint8],
) -> None:  # fmt: skip
    """Compare the patches at `where` (N, 2) with all windows that may win, in float32 first."""
    row, col, score, evaluated = out
    i, j = where.T
    values = _patches(x, side.patch, where, row.shape[1])
    rotated = np.tensordot(values, ROTATION, (1, 1)).transpose(0, 3, 1, 2).astype(np.float32)
    patches = patch_dense.Patches(rotated, weights[0][i], weights[1][j], score[i, j])
    windows = patch_dense.Windows(side.planes, side.inverse_norm, side.doubt)
    margins = _patch_margins(x, side.patch, where, row.shape[1])
    places, count, compared = patch_dense.near_best(patches, windows, margins)
    evaluated[i, j] += compared
    for n, (a, b) in enumerate(where):
        if count[n] > patch_dense.NEAR:
            state[a, b] = TIED
            continue
        near = np.sort(places[n, : count[n]]).astype(np.int32)
        place, prior = (int(own[0][a]), int(own[1][b])), (weights[0][a], weights[1][b])
        found = decide(x, place, side.image, side.patch, prior, _AFFINE, near)
        row[a, b], col[a, b], score[a, b] = found
        state[a, b] = DONE


def _compare_all(
    x: Float32, side: PreparedSide, weights: Prior, where: npt.NDArray[np.intp], out: Found
) -> None:
    """Compare the patches at `where` (N, 2) in float64, by the definition's rules."""
    row, col, score, evaluated = out
    colours = to_h_space if side.measure == "pearson" else rgb_to_lab
    planes = np.ascontiguousarray(colours(side.image).transpose(2, 0, 1))
    windows = patch_dense.Windows(planes, _window_factor(planes, side), side.doubt)
    evaluated[where[:, 0], where[:, 1]] += windows.factor.size
    for some in _chunks(where):
        i, j = some.T
        values = _patches(x, side.patch, some, row.shape[1], side.measure)
        patches = patch_dense.Patches(values, weights[0][i], weights[1][j], score[i, j])
        row[i, j], col[i, j], score[i, j] = patch_dense.first_best(patches, windows, side.measure)


def _patches(
    x: Float32,
    patch: tuple[int, int],
    where: npt.NDArray[np.intp],
    across: int,
    measure: Measure = "pearson",
) -> Float64:
    """The patches at `where`, (N, 3, height, width); for `pearson` centred and of norm 1."""
    colours = to_h_space if measure == "pearson" else rgb_to_lab
    flat = cut(colours(x), patch)[where[:, 0] * across + where[:, 1]]
    values = unit(flat) if measure == "pearson" else flat
    return values.reshape(-1, 3, *patch)


def _patch_margins(
    x: Float32, patch: tuple[int, int], where: npt.NDArray[np.intp], across: int
) -> Float64:
    """What float32 may err by in the scores of each patch, (N,)."""
    flat = cut(to_h_space(x), patch)[where[:, 0] * across + where[:, 1]]
    before = np.sqrt((flat**2).sum(1))
    norm = np.maximum(flat.std(1) * np.sqrt(flat.shape[1]), NO_VARIANCE)
    margins: Float64 = MARGIN + ROUNDING * before / norm
    return margins


def _window_factor(planes: Float64, side: PreparedSide) -> Float64:
    """Of every window (rows, columns): 1 / norm once centred, or for `l2` the sum of squares."""
    ph, pw = side.patch
    squares = _window_sums((planes**2).sum(0), side.patch)
    if side.measure != "pearson":
        return squares
    spread = squares - _window_sums(planes.sum(0), side.patch) ** 2 / (3 * ph * pw)
    norm = np.sqrt(np.maximum(spread, 0))
    factor: Float64 = np.where(norm > NO_VARIANCE, 1 / np.maximum(norm, NO_VARIANCE), 0.0)
    return factor


def _window_sums(plane: Float64, patch: tuple[int, int]) -> Float64:
    down = sliding_window_view(plane, patch[0], axis=0).sum(-1)
    sums: Float64 = sliding_window_view(down, patch[1], axis=1).sum(-1)
    return sums


def _side(side: PreparedSide) -> SideArrays:
    return side.mixed, side.image, side.inverse_norm, side.doubt, side.features


def _converted(
    image: Image, share: Crew[Any], *, mix: bool = True
) -> tuple[Float32, Float32, Float32]:
    """Levels (H, W, 3), clipped and numbers only, and the colours in rotated H-space, plane by
    plane (3, H, W) and, with `mix`, mixed (H, 3 · W)."""
    source = np.ascontiguousarray(image, np.float32)
    height, width = source.shape[:2]
    levels, planes = np.empty_like(source), np.empty((3, height, width), np.float32)
    mixed = np.empty((height if mix else 0, 3 * width), np.float32)
    share(
        lambda part: convert(source, _ROTATED, levels, planes, mixed, part.start, part.stop),
        bands(height, 32),
    )
    return levels, planes, mixed


def _chunks(where: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    most = patch_dense.AT_ONCE
    return (where[n : n + most] for n in range(0, len(where), most))


def _affine(rotation: Float64) -> Float64:
    """(3, 4): RGB 0..255 to (rotated) H-space."""
    matrix = rotation @ H_SPACE / np.array(STD)
    return np.concatenate([matrix, -matrix @ np.array(MEAN)[:, None]], 1)


_AFFINE = _affine(np.eye(3))
_ROTATED = _affine(ROTATION)


def _basis(patch: tuple[int, int]) -> Basis:
    """The leading functions of the orthonormal DCT-II on a patch, low orders first."""
    top = max(ORDERS) + 1
    down, across = (dct(top, length) for length in patch)
    orders = [
        (plane, u, v)
        for plane, most in enumerate(ORDERS)
        for u in range(min(most + 1, patch[0]))
        for v in range(min(most + 1 - u, patch[1]))
    ]
    plane, u, v = np.array(orders, np.int64).T.copy()
    return down, across, plane, u, v


def dct(count: int, length: int) -> Float32:
    """The first `count` functions of the orthonormal DCT-II, (count, length)."""
    k, n = np.arange(count)[:, None], np.arange(length) + 0.5
    table = np.cos(np.pi * k * n / length) * np.sqrt(2 / length)
    table[0] /= np.sqrt(2)
    result: Float32 = table.astype(np.float32)
    return result
