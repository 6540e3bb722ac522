"""Matches of patches, refined for every 8×8 block.

A patch has one displacement, but what it shows may lie at several depths. Each block of x_dec
therefore chooses anew, among the displacements of the patch that holds its centre and of the
patches above, below, left and right of that, each moved sideways by up to REACH pixels:

    cost(block, displacement) = sum over R, G, B of (Σ d² - 0.9 · (Σ d)² / n)

where d is x_dec minus the displaced y_dec over the block and MARGIN pixels around it, n the number
of these pixels. So 0.9 of a difference in brightness is forgiven. The cost grows by 0.2 % for each
pixel of movement and by 1 % for a neighbour's displacement; the least one wins, the first of equal
ones in the order: own patch, below, above, right, left; then movement from left to right. Windows
end at the edge of the image; displacements that would leave it are no candidates, and a block that
has none takes its patch's, moved until the block itself lies inside.

All sums are of integers, so that every machine chooses alike.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import entry_point, kernel, thread_pool
from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation.definition import Matches
from dsin.runtime.pictures import Image, Planes, to_planes

BLOCK = 8
"""Side of a block in pixels."""
MARGIN = 4
REACH = 3
FORGIVEN = 0.9
MOVED, FOREIGN = 0.002, 0.01
WHOLE = BLOCK + 2 * MARGIN
NEIGHBOURS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))

Shifts = npt.NDArray[np.int32]


class Refined(NamedTuple):
    """For each block, (rows, columns): where its content lies in y, seen from its own place, in
    pixels (int32), and the cost, per pixel and channel (float32; infinite where none was found)."""

    down: Shifts
    right: Shifts
    cost: npt.NDArray[np.float32]


def refine(x_dec: Image, y_dec: Image, matches: Matches, patch: tuple[int, int]) -> Refined:
    """Displacements of all blocks. Images are uint8 H×W×3, H and W multiples of BLOCK.

    Raises FrameError for other images, or matches that are not of them.
    """
    _check(x_dec, y_dec, matches, patch)
    rows, columns = (length // BLOCK for length in x_dec.shape[:2])
    down, right = (np.empty((rows, columns), np.int32) for _ in range(2))
    cost = np.empty((rows, columns), np.float32)
    x, y = (np.ascontiguousarray(image.transpose(2, 0, 1)) for image in (x_dec, y_dec))
    first, second = displacements(matches, patch)
    with thread_pool():
        _refine_all(x, y, first, second, *patch, down, right, cost)
    return Refined(down, right, cost)


def displacements(matches: Matches, patch: tuple[int, int]) -> tuple[Shifts, Shifts]:
    """How far down and right each patch's match lies from the patch, in pixels."""
    i, j = np.indices(matches.row.shape, dtype=np.int32)
    return matches.row - i * np.int32(patch[0]), matches.col - j * np.int32(patch[1])


def paste(image: Image, refined: Refined, rows: range | None = None) -> Image:
    """The image whose blocks are those of `image`, uint8 H×W×3, where `refined` says they lie; or
    these rows of blocks of it."""
    part = rows or range(len(refined.down))
    pasted = np.empty((len(part) * BLOCK, *image.shape[1:]), np.uint8)
    _paste_all(np.ascontiguousarray(image), refined.down, refined.right, part.start, pasted)
    return pasted


class SidePlanes(NamedTuple):
    """What the fusion takes of a side image, float32: y and y_dec put together from where the
    blocks of x_dec lie in them, (1, 3, H, W), and the cost of each block, (1, 1, H/8, W/8)."""

    y_syn: Planes
    y_dec_syn: Planes
    cost: npt.NDArray[np.float32]


def side_planes(
    x_dec: Image, y_dec: Image, y: Image, matches: Matches, patch: tuple[int, int]
) -> SidePlanes:
    """Refine matches and put the side image together. Images as for `refine`."""
    refined = refine(x_dec, y_dec, matches, patch)
    y_syn, y_dec_syn = (to_planes(paste(image, refined)) for image in (y, y_dec))
    return SidePlanes(y_syn, y_dec_syn, refined.cost[None, None])


def refine_reference(
    x_dec: Image, y_dec: Image, matches: Matches, patch: tuple[int, int]
) -> Refined:
    """The definition of `refine`, slow."""
    _check(x_dec, y_dec, matches, patch)
    size = x_dec.shape[:2]
    rows, columns = (length // BLOCK for length in size)
    shifts = displacements(matches, patch)
    out = np.empty((rows, columns), np.int32), np.empty((rows, columns), np.int32)
    cost = np.empty((rows, columns), np.float32)
    for i, j in np.ndindex(rows, columns):
        corner = i * BLOCK, j * BLOCK
        best, where = np.inf, _inside(corner, _own(shifts, corner, patch), size)
        for down, right, penalty in _candidates(shifts, corner, patch):
            total = _cost(x_dec, y_dec, corner, (down, right)) * (1 + penalty)
            if total < best:
                best, where = total, _inside(corner, (down, right), size)
        out[0][i, j], out[1][i, j] = where
        cost[i, j] = best
    return Refined(*out, cost)


def _own(
    shifts: tuple[Shifts, Shifts], corner: tuple[int, int], patch: tuple[int, int]
) -> tuple[int, int]:
    i, j = _patch_of(shifts, corner, patch)
    return int(shifts[0][i, j]), int(shifts[1][i, j])


def _patch_of(
    shifts: tuple[Shifts, Shifts], corner: tuple[int, int], patch: tuple[int, int]
) -> tuple[int, int]:
    i, j = (
        min((start + BLOCK // 2) // length, count - 1)
        for start, length, count in zip(corner, patch, shifts[0].shape, strict=True)
    )
    return i, j


def _candidates(
    shifts: tuple[Shifts, Shifts], corner: tuple[int, int], patch: tuple[int, int]
) -> list[tuple[int, int, float]]:
    i, j = _patch_of(shifts, corner, patch)
    own = _own(shifts, corner, patch)
    found = []
    for k, m in NEIGHBOURS:
        a, b = i + k, j + m
        if not (0 <= a < shifts[0].shape[0] and 0 <= b < shifts[0].shape[1]):
            continue
        down, right = int(shifts[0][a, b]), int(shifts[1][a, b])
        foreign = (k, m) != (0, 0)
        if foreign and (down, right) == own:
            continue
        for move in range(-REACH, REACH + 1):
            found.append((down, right + move, MOVED * abs(move) + FOREIGN * foreign))
    return found


def _cost(x: Image, y: Image, corner: tuple[int, int], shift: tuple[int, int]) -> float:
    (top, bottom), (left, right) = (
        (max(start - MARGIN, 0), min(start + BLOCK + MARGIN, length))
        for start, length in zip(corner, x.shape, strict=False)
    )
    a, b = shift
    if top + a < 0 or bottom + a > x.shape[0] or left + b < 0 or right + b > x.shape[1]:
        return np.inf
    there = y[top + a : bottom + a, left + b : right + b].astype(np.int64)
    d = (x[top:bottom, left:right] - there).reshape(-1, 3)
    total = (d * d).sum(0) - FORGIVEN * d.sum(0) ** 2 / len(d)
    return float(total.sum()) / (3 * len(d))


def _inside(
    corner: tuple[int, int], shift: tuple[int, int], size: tuple[int, ...]
) -> tuple[int, int]:
    down, right = (
        min(max(move, -start), length - BLOCK - start)
        for start, move, length in zip(corner, shift, size, strict=False)
    )
    return down, right


def _check(x_dec: Any, y_dec: Any, matches: Matches, patch: tuple[int, int]) -> None:
    for name, image in (("x_dec", x_dec), ("y_dec", y_dec)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise FrameError(f"{name} is not an 8-bit colour image")
    if x_dec.shape != y_dec.shape or x_dec.shape[0] % BLOCK or x_dec.shape[1] % BLOCK:
        raise FrameError(f"both images must be of one size, a multiple of {BLOCK} each way")
    grid = tuple(-(-n // p) for n, p in zip(x_dec.shape, patch, strict=False))
    if matches.row.shape != grid or matches.col.shape != grid:
        raise FrameError("the matches are of another image or another patch")


@entry_point(parallel=True)
def _refine_all(
    x: Image, y: Image, first: Shifts, second: Shifts, ph: int, pw: int, down: Shifts,
    right: Shifts, cost: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    rows, columns = down.shape
    for i in numba.prange(rows):
        for j in range(columns):
            down[i, j], right[i, j], cost[i, j] = _refine_block(x, y, first, second, ph, pw, i, j)


@entry_point()
def _paste_all(image: Image, down: Shifts, right: Shifts, first: int, pasted: Image) -> None:
    for i in range(first, first + pasted.shape[0] // BLOCK):
        for j in range(down.shape[1]):
            top, left = i * BLOCK + down[i, j], j * BLOCK + right[i, j]
            for r in range(BLOCK):
                for c in range(BLOCK):
                    for k in range(3):
                        value = image[top + r, left + c, k]
                        pasted[(i - first) * BLOCK + r, j * BLOCK + c, k] = value


@kernel()
def _refine_block(
    x: Image, y: Image, first: Shifts, second: Shifts, ph: int, pw: int, i: int, j: int
) -> tuple[int, int, float]:
    _, height, width = x.shape
    top, left = i * BLOCK, j * BLOCK
    pi = min((top + BLOCK // 2) // ph, first.shape[0] - 1)
    pj = min((left + BLOCK // 2) // pw, first.shape[1] - 1)
    own, own_right = first[pi, pj], second[pi, pj]
    best, down, right = np.inf, own, own_right
    # What the least cost cannot exceed: candidates above it are given up early.
    limit = block_cost(x, y, top, left, own, own_right, np.inf)
    for k, m in NEIGHBOURS:
        a, b = pi + k, pj + m
        if a < 0 or b < 0 or a >= first.shape[0] or b >= first.shape[1]:
            continue
        penalty = FOREIGN if k or m else 0.0
        if (k or m) and first[a, b] == own and second[a, b] == own_right:
            continue
        for move in range(-REACH, REACH + 1):
            total = block_cost(x, y, top, left, first[a, b], second[a, b] + move, limit)
            total *= 1 + (MOVED * abs(move) + penalty)
            if total < best:
                best, down, right = total, first[a, b], second[a, b] + move
                limit = min(limit, best)
    down = min(max(down, -top), height - BLOCK - top)
    right = min(max(right, -left), width - BLOCK - left)
    return down, right, best


@kernel()
def block_cost(
    x: Image, y: Image, top: int, left: int, down: int, right: int, limit: float
) -> float:
    """Cost of one displacement, per pixel and channel; infinite where it is above `limit`. For use
    in other kernels; x and y are uint8 (3, H, W), `top` and `left` where the block begins."""
    _, height, width = x.shape
    r0, r1 = max(top - MARGIN, 0), min(top + BLOCK + MARGIN, height)
    c0, c1 = max(left - MARGIN, 0), min(left + BLOCK + MARGIN, width)
    if r0 + down < 0 or r1 + down > height or c0 + right < 0 or c1 + right > width:
        return np.inf
    n = (r1 - r0) * (c1 - c0)
    if n == WHOLE * WHOLE:
        return _whole_cost(x, y, r0, c0, r0 + down, c0 + right, limit)
    total = 0.0
    for c in range(3):
        linear, square = np.int32(0), np.int32(0)
        for row in range(r0, r1):
            mine, theirs = x[c, row, c0:c1], y[c, row + down, c0 + right : c1 + right]
            for p in range(c1 - c0):
                # Without these types numba computes in 64 bits.
                d = np.int32(np.int32(mine[p]) - np.int32(theirs[p]))
                linear = np.int32(linear + d)
                square = np.int32(square + np.int32(d * d))
        # No channel's share is negative. Divided as below, so that equal costs stay equal.
        total += square - FORGIVEN * (float(linear) * linear) / n
        if total / (3 * n) > limit and c < 2:
            return np.inf
    return float(total / (3 * n))


@kernel()
def _whole_cost(x: Image, y: Image, i: int, j: int, k: int, m: int, limit: float) -> float:
    """`block_cost` of a block whose margins are whole, from (i, j) in x and (k, m) in y: loops of a
    constant length, four rows at once, are vectorised."""
    total, n = 0.0, WHOLE * WHOLE
    for c in range(3):
        linear, square = np.int32(0), np.int32(0)
        for row in range(0, WHOLE, 4):
            a, b = x[c, i + row, j : j + WHOLE], x[c, i + row + 1, j : j + WHOLE]
            d, e = x[c, i + row + 2, j : j + WHOLE], x[c, i + row + 3, j : j + WHOLE]
            p, q = y[c, k + row, m : m + WHOLE], y[c, k + row + 1, m : m + WHOLE]
            s, t = y[c, k + row + 2, m : m + WHOLE], y[c, k + row + 3, m : m + WHOLE]
            for at in range(WHOLE):
                first = np.int32(np.int32(a[at]) - np.int32(p[at]))
                second = np.int32(np.int32(b[at]) - np.int32(q[at]))
                third = np.int32(np.int32(d[at]) - np.int32(s[at]))
                fourth = np.int32(np.int32(e[at]) - np.int32(t[at]))
                linear += np.int32(np.int32(first + second) + np.int32(third + fourth))
                square += np.int32(
                    np.int32(np.int32(first * first) + np.int32(second * second))
                    + np.int32(np.int32(third * third) + np.int32(fourth * fourth))
                )
                linear, square = np.int32(linear), np.int32(square)
        total += square - FORGIVEN * (float(linear) * linear) / n
        if total / (3 * n) > limit and c < 2:
            return np.inf
    return float(total / (3 * n))
