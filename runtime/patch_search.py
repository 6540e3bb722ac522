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

Patches that bounds do not help with (noise, or an unrelated image) are compared with all windows by
matrix products instead, so that the worst case costs what brute force does.
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
)
from dsin.runtime.patch_kernels import convert, describe_windows, search_row

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")

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
    basis = _Basis(patch)
    inverse_norm = np.empty((rows, cols), np.float32)
    features = np.empty((len(basis.plane) + 1, rows, cols), np.float32)

    def band(part: range) -> None:
        describe_windows(
            planes, basis.down, basis.across, basis.plane, basis.u, basis.v,
            ROTATION.sum(1), part.start, part.stop, inverse_norm, features,
        )  # fmt: skip

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
    if side.measure == "pearson":
        hard = _search_pruned(x_dec, side, weights, (row, col, score), threads)
    else:
        hard = np.ones(grid, np.bool_)
    if hard.any():
        _search_all(x_dec, side, weights, (row, col, score), np.argwhere(hard))
    return Matches(row, col, score.astype(np.float32))


def _search_pruned(
    x_dec: Image,
    side: PreparedSide,
    weights: tuple[Float64, Float64],
    out: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64],
    threads: int | None,
) -> npt.NDArray[np.bool_]:
    """Fill `out`; returns which patches were given up."""
    planes = _planes(x_dec, threads)
    basis = _Basis(side.patch)
    rows = out[0].shape[0]
    hard = np.zeros((rows, out[0].shape[1]), np.bool_)

    def patch_row(i: int) -> None:
        search_row(
            i, planes, x_dec, side.planes, side.image, side.inverse_norm, side.features,
            basis.down, basis.across, basis.plane, basis.u, basis.v,
            weights[0][i], weights[1], _AFFINE, out[0], out[1], out[2], hard,
        )  # fmt: skip

    _in_threads(patch_row, range(rows), threads)
    return hard


def _search_all(
    x_dec: Image,
    side: PreparedSide,
    weights: tuple[Float64, Float64],
    out: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64],
    where: npt.NDArray[np.intp],
) -> None:
    """Compare the patches at `where` (N, 2) with all windows."""
    colours = to_h_space if side.measure == "pearson" else rgb_to_lab
    i, j = where.T
    patches = cut(colours(x_dec), side.patch)[i * out[0].shape[1] + j]
    found = first_best(
        patches, colours(side.image), side.patch, side.measure, weights[0][i], weights[1][j]
    )
    out[0][i, j], out[1][i, j], out[2][i, j] = found


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


class _Basis:
    """The leading functions of the orthonormal DCT-II on a patch, low orders first.

    Function k lives in plane[k] and is down[u[k]] ⊗ across[v[k]].
    """

    def __init__(self, patch: tuple[int, int]) -> None:
        top = max(ORDERS) + 1
        self.down, self.across = (_dct(top, length) for length in patch)
        orders = [
            (plane, u, v)
            for plane, most in enumerate(ORDERS)
            for u in range(min(most + 1, patch[0]))
            for v in range(min(most + 1 - u, patch[1]))
        ]
        self.plane, self.u, self.v = np.array(orders, np.int64).T.copy()


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
