"""The fast exact search behind `dsin.runtime.patch_correlation.match`.

A position is evaluated only if it can still win. Three bounds see to that:

1. Correlation is at most 1, so a position whose prior is below the best score so far is out.
2. With unit vectors p and y split into their leading DCT coefficients (index k) and a rest,
   p·y ≤ p_k·y_k + |p_rest|·|y_rest|. The right side is one dot product of K + 1 numbers, and what
   belongs to y is prepared beforehand.
3. Survivors are evaluated best bound first, in float32, and those within `MARGIN` of the best once
   more in float64, as the definition does.

Colours are an orthonormal rotation of H-space, which changes no dot product but puts almost all
variance of natural images (grey) into one plane, where most of the coefficients are spent.

Patches that bounds do not help with (noise, an unrelated image, texture that repeats) are compared
with all windows that remain, in float64 (`dsin.runtime.patch_scan`). At 320x1224, on one core of a
Xeon with AVX-512, that took 0.016 s per patch of pure noise, 0.043 s where the prior was off as
well and no window was left out; giving up took 0.004 to 0.022 s before. The worst picture, with
all 816 patches given up, thus takes 17 s with the prior and 53 s without, over the cores.
`l2` has no such bounds: matrix products compare every patch with all windows.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dsin.runtime.patch_correlation import (
    H_SPACE,
    MEAN,
    STD,
    Float64,
    Image,
    Matches,
    Measure,
    PreparedSide,
    cut,
    first_best,
    rgb_to_lab,
    to_h_space,
    unit,
)
from dsin.runtime.patch_kernels import (
    SLACK,
    Basis,
    convert,
    describe_windows,
    search_row,
)
from dsin.runtime.patch_scan import scan, window_norms

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")
Found = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64]

ORDERS = (4, 1, 1)
"""Highest total order u + v of the DCT coefficients kept in each rotated plane."""
# Grey (R = G = B) is (2, 0, 1) in H-space; the other two axes carry colour.
ROTATION = np.array([[2, 0, 1], [0, 5**0.5, 0], [-1, 0, 2]]) / 5**0.5


def prepare(
    y_dec: Image, patch: tuple[int, int], measure: Measure, threads: int | None
) -> PreparedSide:
    """See `dsin.runtime.patch_correlation.prepare`; the image is checked already."""
    image = np.ascontiguousarray(y_dec)
    if measure != "pearson":
        none = np.zeros((0, 0, 0), np.float32)
        return PreparedSide(image, patch, measure, none, np.zeros((0, 0), np.float32), none)
    height, width = image.shape[:2]
    rows, cols = height - patch[0] + 1, width - patch[1] + 1
    planes = _planes(image, threads)
    basis, axis = _basis(patch), ROTATION.sum(1)
    inverse_norm = np.empty((rows, cols), np.float32)
    features = np.empty((len(basis[2]) + 1, rows, cols), np.float32)

    def band(part: range) -> None:
        describe_windows(planes, basis, axis, part.start, part.stop, inverse_norm, features)

    _in_threads(band, _bands(rows, 32), threads)
    return PreparedSide(image, patch, measure, planes, inverse_norm, features)


def search(
    x_dec: Image,
    side: PreparedSide,
    weights: tuple[Float64, Float64] | None,
    threads: int | None,
) -> Matches:
    """See `dsin.runtime.patch_correlation.match`; `weights` are the prior's factors or None."""
    ph, pw = side.patch
    grid = (x_dec.shape[0] // ph, x_dec.shape[1] // pw)
    if weights is None:
        windows = (x_dec.shape[0] - ph + 1, x_dec.shape[1] - pw + 1)
        weights = np.ones((grid[0], windows[0])), np.ones((grid[1], windows[1]))
    x_dec = np.ascontiguousarray(x_dec)
    row, col = np.zeros((2, *grid), np.int32)
    score = np.zeros(grid, np.float64)
    out = (row, col, score)
    if side.measure == "pearson":
        hard = _search_pruned(x_dec, side, weights, out, threads)
        if hard.any():
            _scan(x_dec, side, weights, out, np.argwhere(hard), threads)
    else:
        _search_all(x_dec, side, weights, out)
    return Matches(row, col, score.astype(np.float32))


def _search_pruned(
    x_dec: Image,
    side: PreparedSide,
    weights: tuple[Float64, Float64],
    out: Found,
    threads: int | None,
) -> npt.NDArray[np.bool_]:
    """Fill `out`; returns which patches were given up."""
    planes, basis = _planes(x_dec, threads), _basis(side.patch)
    prepared = (side.planes, side.image, side.inverse_norm, side.features)
    hard = np.zeros(out[0].shape, np.bool_)

    def patch_row(i: int) -> None:
        prior = (weights[0][i], weights[1])
        search_row(i, planes, x_dec, prepared, basis, prior, _AFFINE, out, hard)

    _in_threads(patch_row, range(len(hard)), threads)
    return hard


def _scan(
    x_dec: Image,
    side: PreparedSide,
    weights: tuple[Float64, Float64],
    out: Found,
    where: npt.NDArray[np.intp],
    threads: int | None,
) -> None:
    """Compare the patches at `where` (N, 2) with all windows that may beat out[2]."""
    row, col, score = out
    ph, pw = side.patch
    patches = unit(cut(to_h_space(x_dec), side.patch)[where[:, 0] * row.shape[1] + where[:, 1]])
    patches = patches.reshape(-1, 3, ph, pw)
    wanted = _describe(patches, _basis(side.patch))
    planes = np.ascontiguousarray(to_h_space(side.image).transpose(2, 0, 1))
    norms = np.empty(side.inverse_norm.shape)
    _in_threads(
        lambda part: window_norms(planes, part.start, part.stop, (ph, pw), norms),
        _bands(len(norms), 32),
        threads,
    )

    def one(n: int) -> None:
        i, j = where[n]
        prior, own = (weights[0][i], weights[1][j]), (int(i) * ph, int(j) * pw)
        found = scan(patches[n], wanted[n], planes, norms, side.features, prior, own, score[i, j])
        row[i, j], col[i, j], score[i, j] = found

    _in_threads(one, range(len(where)), threads)


def _describe(patches: Float64, basis: Basis) -> Float32:
    """The features (N, K + 1) of centred patches (N, 3, height, width) of norm 1 in H-space."""
    down, across, plane, u, v = basis
    rotated = np.tensordot(patches, ROTATION, (1, 1)).transpose(0, 3, 1, 2)
    leading = (down @ rotated @ across.T)[:, plane, u, v]
    rest = np.sqrt(np.maximum(1 - (leading**2).sum(1), 0) + SLACK)
    return np.concatenate([leading, rest[:, None]], 1).astype(np.float32)


def _search_all(
    x_dec: Image, side: PreparedSide, weights: tuple[Float64, Float64], out: Found
) -> None:
    """Compare all patches with all windows, by `l2`."""
    grid = out[0].shape
    i, j = np.indices(grid).reshape(2, -1)
    patches, image = cut(rgb_to_lab(x_dec), side.patch), rgb_to_lab(side.image)
    found = first_best(patches, image, side.patch, side.measure, weights[0][i], weights[1][j])
    out[0][:], out[1][:], out[2][:] = (part.reshape(grid) for part in found)


def _planes(image: Image, threads: int | None) -> Float32:
    """(3, H, W): rotated H-space."""
    planes = np.empty((3, *image.shape[:2]), np.float32)
    _in_threads(
        lambda part: convert(image, _ROTATED, planes, part.start, part.stop),
        _bands(image.shape[0], 32),
        threads,
    )
    return planes


def _affine(rotation: Float64) -> Float64:
    """(3, 4): RGB 0..255 to (rotated) H-space."""
    matrix = rotation @ H_SPACE / np.array(STD)
    return np.concatenate([matrix, -matrix @ np.array(MEAN)[:, None]], 1)


_AFFINE = _affine(np.eye(3))
_ROTATED = _affine(ROTATION)


def _basis(patch: tuple[int, int]) -> Basis:
    """The leading functions of the orthonormal DCT-II on a patch, low orders first."""
    top = max(ORDERS) + 1
    down, across = (_dct(top, length) for length in patch)
    orders = [
        (plane, u, v)
        for plane, most in enumerate(ORDERS)
        for u in range(min(most + 1, patch[0]))
        for v in range(min(most + 1 - u, patch[1]))
    ]
    plane, u, v = np.array(orders, np.int64).T.copy()
    return down, across, plane, u, v


def _dct(count: int, length: int) -> Float32:
    k, n = np.arange(count)[:, None], np.arange(length) + 0.5
    table = np.cos(np.pi * k * n / length) * np.sqrt(2 / length)
    table[0] /= np.sqrt(2)
    result: Float32 = table.astype(np.float32)
    return result


def _bands(rows: int, height: int) -> list[range]:
    return [range(r, min(r + height, rows)) for r in range(0, rows, height)]


def _in_threads(work: Callable[[T], R], parts: Iterable[T], threads: int | None) -> None:
    """Kernels release the GIL; plain threads need no threading layer and may be nested."""
    count = threads or len(os.sched_getaffinity(0))
    if count == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, parts))
