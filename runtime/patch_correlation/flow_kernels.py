"""The kernels of `dsin.runtime.patch_correlation.side_flow`, which says what they compute.

A field is two float32 arrays (rows, columns), how far down and right the content of each window
lies in the other picture. Windows are WINDOW pixels wide and STRIDE apart; the last one of a row
or column ends at the border. Pictures are grey, float32 (H, W), both sides at least LEAST.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.patch_correlation.block_refinement import (
    BLOCK,
    FORGIVEN,
    MOVED,
    NEIGHBOURS,
    Shifts,
    block_cost,
)
from dsin.runtime.patch_correlation.block_refinement import (
    FOREIGN as FOREIGN_PATCH,
)
from dsin.runtime.pictures import Image

Floats = npt.NDArray[np.float32]

WINDOW, STRIDE = 8, 4
LEAST = WINDOW + 1
"""A window between pixels touches one more each way."""
SHARE = FORGIVEN / WINDOW**2
STEPS = 12
"""Steps of an inverse search, at most."""
FARTHEST = 8.0
"""Pixels that an inverse search may go from where it started, each way."""
WORSE = 1.2
"""A step that makes the difference so many times larger than the least so far ends the search."""
SETTLED = 1e-3
"""Square of a step, in pixels, that is none."""
FOREIGN = 1.02
"""What the difference at a neighbour's start counts, relative to that at the own start."""
FLAT = 0.064
"""Added to the squares of gradients, so that a flat window stays where it is."""
NOISE = 3.0
"""Grey levels by which even the best match differs: smaller differences do not count for more."""
SMOOTHNESS = 8.0
JUMP = 0.05
"""Pixels: differences between neighbours far above it are taken for edges, and cost linearly."""
SWEEPS = 6
RELAXATION = 1.6
MIDDLE = 128
"""Grey level taken from values before they are squared, so that float32 is precise enough."""
MOST = 2.0
"""Pixels that one solution may change a displacement by, each way."""


@entry_point()
def gradients(x: Floats, down: Floats, right: Floats) -> None:
    """Central differences, one-sided at the border."""
    height, width = x.shape
    for i in range(height):
        above, below = max(i - 1, 0), min(i + 1, height - 1)
        for j in range(width):
            before, behind = max(j - 1, 0), min(j + 1, width - 1)
            down[i, j] = (x[below, j] - x[above, j]) / np.float32(below - above)
            right[i, j] = (x[i, behind] - x[i, before]) / np.float32(behind - before)


@entry_point(fastmath=True)
def search_all(
    x: Floats, slopes: tuple[Floats, Floats], y: Floats, start: tuple[Floats, Floats],
    found: tuple[Floats, Floats], first: int, last: int,
) -> None:  # fmt: skip
    """The inverse search of every window of rows first..last, from `start`."""
    for i in range(first, last):
        for j in range(found[0].shape[1]):
            down, right = _search(x, slopes, y, start, i, j)
            found[0][i, j], found[1][i, j] = down, right


@entry_point(fastmath=True)
def local_systems(
    x: Floats, slopes: tuple[Floats, Floats], y: Floats, field: tuple[Floats, Floats],
    systems: Floats, first: int, last: int,
) -> None:  # fmt: skip
    """Of each window of rows first..last, where the field puts it, (6, rows, columns): the products
    of the gradients (down with down, down with right, right with right), the gradients with the
    difference (down, right), and the weight of all that."""
    for i in range(first, last):
        for j in range(field[0].shape[1]):
            _local_system(x, slopes, y, field, systems, i, j)


@entry_point(fastmath=True)
def solve(field: tuple[Floats, Floats], systems: Floats, smoothness: float) -> None:
    """Change the field, in place, by what minimises the sum of all windows' linearised differences
    and of the differences between neighbours: successive over-relaxation in a chequered order."""
    down, right = field
    rows, columns = down.shape
    below, beside = _bonds(down, right, np.float32(smoothness))
    steps = _relaxations(down, right, systems, below, beside)
    # Of both directions, with a border, which bonds of 0 keep out.
    new = np.zeros((2, rows + 2, columns + 2), np.float32)
    turn = np.zeros((2, columns), np.float32)
    for j in range(columns):
        turn[j % 2, j] = 1
        # Assigning slices takes seconds to compile.
        for i in range(rows):
            new[0, i + 1, j + 1], new[1, i + 1, j + 1] = down[i, j], right[i, j]
    to = np.zeros((2, columns), np.float32)
    for _ in range(SWEEPS):
        for colour in range(2):
            for i in range(rows):
                # One call for both: each copy takes its time to compile.
                for k in range(2):
                    _relax_row(
                        new[k], steps[2 * k, i], steps[1, i], steps[3 + k, i], below, beside,
                        new[1 - k], i, to[k],
                    )  # fmt: skip
                # All of the row was computed, of which this colour counts: so it is vectorised.
                for k in range(2):
                    _take_turn(new[k, i + 1], to[k], turn[(i + colour) % 2])
    for i in range(rows):
        for j in range(columns):
            down[i, j] += min(max(new[0, i + 1, j + 1] - down[i, j], -MOST), MOST)
            right[i, j] += min(max(new[1, i + 1, j + 1] - right[i, j], -MOST), MOST)


@entry_point(fastmath=True)
def doubts(
    x: Floats, y: Floats, field: tuple[Floats, Floats], doubt: Floats, variance: Floats,
    first: int, last: int,
) -> None:  # fmt: skip
    """How badly each STRIDE×STRIDE block of x in rows first..last of blocks, with half a STRIDE
    around it, matches where the field puts its pixels: mean square of the difference, FORGIVEN of
    its mean taken away; and the variance of x there."""
    height, width = x.shape
    margin = STRIDE // 2
    highest, lowest = max(first * STRIDE - margin, 0), min(last * STRIDE + margin, height)
    differences = np.empty((lowest - highest, width), np.float32)
    down, right = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(highest, lowest):
        _displacements_of_row(field[0], i, np.int64(1), down)
        _displacements_of_row(field[1], i, np.int64(1), right)
        for j in range(width):
            seen = _between(y, i + down[j], j + right[j])
            differences[i - highest, j] = seen - x[i, j]
    for i in range(first, last):
        top, bottom = max(i * STRIDE - margin, 0), min((i + 1) * STRIDE + margin, height)
        sums = _sums_of_columns(differences[top - highest : bottom - highest], x[top:bottom])
        for j in range(doubt.shape[1]):
            left, end = max(j * STRIDE - margin, 0), min((j + 1) * STRIDE + margin, width)
            linear, square = np.float32(0), np.float32(0)
            total, squares = np.float32(0), np.float32(0)
            for k in range(left, end):
                linear += sums[0, k]
                square += sums[1, k]
                total += sums[2, k]
                squares += sums[3, k]
            n = np.float32((bottom - top) * (end - left))
            doubt[i, j] = max(square - np.float32(FORGIVEN) * linear * linear / n, 0) / n
            variance[i, j] = max(squares - total * total / n, 0) / n


@entry_point(fastmath=True)
def places(
    field: tuple[Floats, Floats], row: Floats, column: Floats, first: int, last: int
) -> None:
    """Where each pixel in rows first..last of a picture twice as large as the field's lies in the
    other one; `row` and `column` are of these rows."""
    for i in range(first, last):
        _displacements_of_row(field[0], i, np.int64(2), row[i - first])
        _displacements_of_row(field[1], i, np.int64(2), column[i - first])
        for j in range(row.shape[1]):
            row[i - first, j] = np.float32(i) + 2 * row[i - first, j]
            column[i - first, j] = np.float32(j) + 2 * column[i - first, j]


@entry_point()
def refine_all(
    x: Image, y: Image, shifts: tuple[Shifts, Shifts], patch: tuple[int, int],
    field: tuple[Floats, Floats], found: tuple[Shifts, Shifts], cost: Floats, first: int, last: int,
) -> None:  # fmt: skip
    """The displacement of every block in rows first..last of blocks, among those of the patches and
    of the field. x and y are uint8 (3, H, W)."""
    for i in range(first, last):
        for j in range(cost.shape[1]):
            found[0][i, j], found[1][i, j], cost[i, j] = _refine_block(
                x, y, shifts, patch, field, i, j
            )


@kernel()
def _refine_block(
    x: Image, y: Image, shifts: Any, patch: tuple[int, int], field: Any, i: int, j: int
) -> tuple[int, int, float]:
    down, right = _displacement_of_block(field, i, j)
    pi = min((i * BLOCK + BLOCK // 2) // patch[0], shifts[0].shape[0] - 1)
    pj = min((j * BLOCK + BLOCK // 2) // patch[1], shifts[0].shape[1] - 1)
    best, to_down, to_right = np.inf, down, right
    for move in (0, -1, 1):
        cost = block_cost(x, y, i * BLOCK, j * BLOCK, down, right + move, best)
        cost *= 1 + MOVED * abs(move)
        if cost < best:
            best, to_down, to_right = cost, down, right + move
    for k, m in NEIGHBOURS:
        a, b = pi + k, pj + m
        if a < 0 or b < 0 or a >= shifts[0].shape[0] or b >= shifts[0].shape[1]:
            continue
        # As 64 bits, as above: so the cost is compiled once.
        to_a, to_b = np.int64(shifts[0][a, b]), np.int64(shifts[1][a, b])
        if to_a == down and to_b == right:
            continue
        if (a != pi or b != pj) and (to_a == shifts[0][pi, pj] and to_b == shifts[1][pi, pj]):
            continue
        cost = block_cost(x, y, i * BLOCK, j * BLOCK, to_a, to_b, best)
        cost *= 1 + (FOREIGN_PATCH if k != 0 or m != 0 else 0.0)
        if cost < best:
            best, to_down, to_right = cost, to_a, to_b
    to_down = min(max(to_down, -i * BLOCK), x.shape[1] - (i + 1) * BLOCK)
    to_right = min(max(to_right, -j * BLOCK), x.shape[2] - (j + 1) * BLOCK)
    return to_down, to_right, best


@kernel(fastmath=True)
def _displacement_of_block(field: Any, i: int, j: int) -> tuple[int, int]:
    """At the block's centre, in whole pixels of the large picture."""
    centre = BLOCK // 4
    down, right = _displacement(field, i * 2 * centre + centre, j * 2 * centre + centre, 1)
    before_down, before_right = _displacement(
        field, i * 2 * centre + centre - 1, j * 2 * centre + centre - 1, 1
    )
    return int(np.rint(down + before_down)), int(np.rint(right + before_right))


@kernel(fastmath=True)
def _search(
    x: Floats, slopes: Any, y: Floats, start: Any, i: int, j: int
) -> tuple[np.float32, np.float32]:
    """Of one window: the best start of its own and its four neighbours', then Gauss-Newton steps
    with the gradients of x."""
    height, width = x.shape
    top, left = min(i * STRIDE, height - WINDOW), min(j * STRIDE, width - WINDOW)
    mine, there = np.empty((2, WINDOW, WINDOW), np.float32)
    first, second = np.empty((2, WINDOW, WINDOW), np.float32)
    for p in range(WINDOW):
        for q in range(WINDOW):
            mine[p, q] = x[top + p, left + q]
            first[p, q] = slopes[0][top + p, left + q]
            second[p, q] = slopes[1][top + p, left + q]
    _centre(mine)
    _centre(first)
    _centre(second)
    best, down, right = _best_start(mine, y, start, there, i, j)
    dd, dr, rr = np.float32(FLAT), np.float32(0), np.float32(FLAT)
    for p in range(WINDOW):
        for q in range(WINDOW):
            dd += first[p, q] * first[p, q]
            dr += first[p, q] * second[p, q]
            rr += second[p, q] * second[p, q]
    determinant = dd * rr - dr * dr
    if determinant <= np.float32(1e-6) * dd * rr:
        return down, right
    own_down, own_right = down, right
    at_down, at_right = down, right
    for _ in range(STEPS):
        _window(y, top + at_down, left + at_right, there)
        d_down, d_right, difference = np.float32(0), np.float32(0), np.float32(0)
        for p in range(WINDOW):
            for q in range(WINDOW):
                d = there[p, q] - mine[p, q]
                d_down += d * first[p, q]
                d_right += d * second[p, q]
                difference += d * d
        if difference < best:
            best, down, right = difference, at_down, at_right
        elif difference > np.float32(WORSE) * best:
            break
        move_down = (rr * d_down - dr * d_right) / determinant
        move_right = (dd * d_right - dr * d_down) / determinant
        at_down -= move_down
        at_right -= move_right
        if abs(at_down - own_down) > FARTHEST or abs(at_right - own_right) > FARTHEST:
            break
        if move_down * move_down + move_right * move_right < SETTLED:
            break
    return down, right


@kernel(fastmath=True)
def _best_start(
    mine: Floats, y: Floats, start: Any, there: Floats, i: int, j: int
) -> tuple[np.float32, np.float32, np.float32]:
    """The least difference, and the start that has it, down and right."""
    rows, columns = start[0].shape
    top = min(i * STRIDE, y.shape[0] - WINDOW)
    left = min(j * STRIDE, y.shape[1] - WINDOW)
    best, at = np.float32(np.inf), (i, j)
    for k, m in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        a, b = i + k, j + m
        if a < 0 or b < 0 or a >= rows or b >= columns:
            continue
        same = start[0][a, b] == start[0][i, j] and start[1][a, b] == start[1][i, j]
        if (k != 0 or m != 0) and same:
            continue
        _window(y, top + start[0][a, b], left + start[1][a, b], there)
        difference = np.float32(0)
        for p in range(WINDOW):
            for q in range(WINDOW):
                d = there[p, q] - mine[p, q]
                difference += d * d
        if k != 0 or m != 0:
            difference *= np.float32(FOREIGN)
        if difference < best:
            best, at = difference, (a, b)
    return best, start[0][at], start[1][at]


@kernel(fastmath=True)
def _window(y: Floats, row: float, column: float, out: Floats) -> None:
    """A window of y between pixels, moved inside where it would leave, without its mean."""
    r = min(max(np.float32(row), np.float32(0)), np.float32(y.shape[0] - LEAST))
    c = min(max(np.float32(column), np.float32(0)), np.float32(y.shape[1] - LEAST))
    i, j = int(r), int(c)
    a, b = r - np.float32(i), c - np.float32(j)
    w00, w01 = (1 - a) * (1 - b), (1 - a) * b
    w10, w11 = a * (1 - b), a * b
    for p in range(WINDOW):
        upper, lower = y[i + p], y[i + p + 1]
        for q in range(WINDOW):
            out[p, q] = (
                w00 * upper[j + q] + w01 * upper[j + q + 1]
                + w10 * lower[j + q] + w11 * lower[j + q + 1]
            )  # fmt: skip
    _centre(out)


@kernel(fastmath=True)
def _centre(values: Floats) -> None:
    total = np.float32(0)
    for p in range(WINDOW):
        for q in range(WINDOW):
            total += values[p, q]
    total /= np.float32(WINDOW * WINDOW)
    for p in range(WINDOW):
        for q in range(WINDOW):
            values[p, q] -= total


@kernel(fastmath=True)
def _local_system(
    x: Floats, slopes: Any, y: Floats, field: Any, systems: Floats, i: int, j: int
) -> None:
    height, width = x.shape
    top, left = min(i * STRIDE, height - WINDOW), min(j * STRIDE, width - WINDOW)
    r = min(max(top + field[0][i, j], np.float32(0)), np.float32(height - LEAST))
    c = min(max(left + field[1][i, j], np.float32(0)), np.float32(width - LEAST))
    row, column = int(r), int(c)
    a, b = r - np.float32(row), c - np.float32(column)
    w00, w01 = (1 - a) * (1 - b), (1 - a) * b
    w10, w11 = a * (1 - b), a * b
    zero = np.float32(0)
    s_d, s_down, s_right, d_down, d_right, d_d = zero, zero, zero, zero, zero, zero
    dd, dr, rr = zero, zero, zero
    for p in range(WINDOW):
        upper, lower = y[row + p], y[row + p + 1]
        for q in range(WINDOW):
            k = column + q
            there = w00 * upper[k] + w01 * upper[k + 1] + w10 * lower[k] + w11 * lower[k + 1]
            d = there - x[top + p, left + q]
            u, v = slopes[0][top + p, left + q], slopes[1][top + p, left + q]
            s_d += d
            s_down += u
            s_right += v
            d_down += d * u
            d_right += d * v
            d_d += d * d
            dd += u * u
            dr += u * v
            rr += v * v
    share = np.float32(SHARE)
    systems[0, i, j] = dd - share * s_down * s_down
    systems[1, i, j] = dr - share * s_down * s_right
    systems[2, i, j] = rr - share * s_right * s_right
    systems[3, i, j] = d_down - share * s_d * s_down
    systems[4, i, j] = d_right - share * s_d * s_right
    rest = np.sqrt(max(d_d - share * s_d * s_d, zero)) / np.float32(WINDOW) + np.float32(NOISE)
    systems[5, i, j] = 1 / (rest * rest)


@kernel(fastmath=True)
def _bonds(down: Floats, right: Floats, smoothness: float) -> tuple[Floats, Floats]:
    """How strongly neighbours hold together: each window with the one above it (rows + 1, columns),
    and with the one left of it (rows, columns + 1); 0 where there is none."""
    rows, columns = down.shape
    below = np.zeros((rows + 1, columns), np.float32)
    beside = np.zeros((rows, columns + 1), np.float32)
    jump = np.float32(JUMP * JUMP)
    for i in range(rows):
        if i > 0:
            for j in range(columns):
                a, b = down[i, j] - down[i - 1, j], right[i, j] - right[i - 1, j]
                below[i, j] = smoothness / np.sqrt(a * a + b * b + jump)
        for j in range(1, columns):
            a, b = down[i, j] - down[i, j - 1], right[i, j] - right[i, j - 1]
            beside[i, j] = smoothness / np.sqrt(a * a + b * b + jump)
    return below, beside


@kernel(fastmath=True)
def _relaxations(
    down: Floats, right: Floats, systems: Floats, below: Floats, beside: Floats
) -> Floats:
    """What one relaxation of each window takes, (5, rows, columns): with the sums e and f of its
    neighbours' displacements, each times its bond, its own become RELAXATION of the way towards
    a·e - b·f + p down and c·f - b·e + q right, if a, b, c, p and q are the five over RELAXATION."""
    rows, columns = down.shape
    steps = np.empty((5, rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            bonds = below[i, j] + below[i + 1, j] + beside[i, j] + beside[i, j + 1]
            total, weight = bonds + np.float32(1e-6), systems[5, i, j]
            dd, rr = weight * systems[0, i, j] + total, weight * systems[2, i, j] + total
            dr = weight * systems[1, i, j]
            share = np.float32(RELAXATION) / (dd * rr - dr * dr)
            a, b, c = rr * share, dr * share, dd * share
            e = -weight * systems[3, i, j] - bonds * down[i, j]
            f = -weight * systems[4, i, j] - bonds * right[i, j]
            steps[0, i, j], steps[1, i, j], steps[2, i, j] = a, b, c
            steps[3, i, j] = np.float32(RELAXATION) * down[i, j] + a * e - b * f
            steps[4, i, j] = np.float32(RELAXATION) * right[i, j] + c * f - b * e
    return steps


@kernel(fastmath=True)
def _relax_row(
    own: Floats, a: Floats, b: Floats, constant: Floats, below: Floats, beside: Floats,
    other: Floats, i: int, out: Floats,
) -> None:  # fmt: skip
    """Where a row of windows relaxes to in one direction: `a` and `b` go with the displacements of
    their neighbours in that direction, and in the `other` one."""
    over, under, side = below[i], below[i + 1], beside[i]
    for j in range(len(out)):
        k = j + 1
        e = over[j] * own[i, k] + under[j] * own[i + 2, k]
        e += side[j] * own[i + 1, j] + side[k] * own[i + 1, k + 1]
        f = over[j] * other[i, k] + under[j] * other[i + 2, k]
        f += side[j] * other[i + 1, j] + side[k] * other[i + 1, k + 1]
        out[j] = constant[j] + a[j] * e - b[j] * f


@kernel(fastmath=True)
def _take_turn(row: Floats, to: Floats, now: Floats) -> None:
    """Relax those of a row, which has a border, whose turn is 1 and not 0."""
    for j in range(len(to)):
        row[j + 1] += now[j] * (to[j] - np.float32(RELAXATION) * row[j + 1])


@kernel(fastmath=True)
def _sums_of_columns(differences: Floats, x: Floats) -> Floats:
    """Differences, their squares, x without MIDDLE, and the squares of that, (4, W)."""
    sums = np.zeros((4, x.shape[1]), np.float32)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            d, v = differences[i, j], x[i, j] - np.float32(MIDDLE)
            sums[0, j] += d
            sums[1, j] += d * d
            sums[2, j] += v
            sums[3, j] += v * v
    return sums


@kernel(fastmath=True)
def _displacements_of_row(part: Floats, row: int, scale: int, out: Floats) -> None:
    """`_displacement` in one direction of each pixel of a row. `scale` is a typed number: numba
    compiles a kernel for each literal that it is called with."""
    rows, columns = part.shape
    r = ((row + np.float32(0.5)) / scale - np.float32(WINDOW / 2)) / STRIDE
    r = min(max(r, np.float32(0)), np.float32(rows - 1))
    i = int(r)
    k, a = min(i + 1, rows - 1), r - np.float32(i)
    # Between the centres of two windows lie `step` pixels, before the first one `margin`.
    step, margin = STRIDE * scale, WINDOW * scale // 2
    before = part[i, 0] * (1 - a) + part[k, 0] * a
    for q in range(margin):
        out[q] = before
    for m in range(1, columns):
        after = part[i, m] * (1 - a) + part[k, m] * a
        slope = (after - before) / np.float32(step)
        first = margin + (m - 1) * step
        for q in range(first, min(first + step, out.shape[0])):
            out[q] = before + slope * (np.float32(q - first) + np.float32(0.5))
        before = after
    for q in range(margin + (columns - 1) * step, out.shape[0]):
        out[q] = before


@kernel(fastmath=True)
def _displacement(field: Any, row: int, column: int, scale: int) -> tuple[np.float32, np.float32]:
    """The field between the centres of its windows, at a pixel of a picture `scale` times as
    large, in pixels of the field's own picture."""
    rows, columns = field[0].shape
    r = ((row + np.float32(0.5)) / scale - np.float32(WINDOW / 2)) / STRIDE
    c = ((column + np.float32(0.5)) / scale - np.float32(WINDOW / 2)) / STRIDE
    r = min(max(r, np.float32(0)), np.float32(rows - 1))
    c = min(max(c, np.float32(0)), np.float32(columns - 1))
    i, j = int(r), int(c)
    k, m = min(i + 1, rows - 1), min(j + 1, columns - 1)
    a, b = r - np.float32(i), c - np.float32(j)
    w00, w01 = (1 - a) * (1 - b), (1 - a) * b
    w10, w11 = a * (1 - b), a * b
    down = w00 * field[0][i, j] + w01 * field[0][i, m] + w10 * field[0][k, j] + w11 * field[0][k, m]
    right = (
        w00 * field[1][i, j] + w01 * field[1][i, m] + w10 * field[1][k, j] + w11 * field[1][k, m]
    )
    return down, right


@kernel(fastmath=True)
def _between(y: Floats, row: float, column: float) -> Any:
    """A value between pixels; the border goes on."""
    r = min(max(np.float32(row), np.float32(0)), np.float32(y.shape[0] - 1))
    c = min(max(np.float32(column), np.float32(0)), np.float32(y.shape[1] - 1))
    i, j = min(int(r), y.shape[0] - 2), min(int(c), y.shape[1] - 2)
    a, b = r - np.float32(i), c - np.float32(j)
    upper = y[i, j] * (1 - b) + y[i, j + 1] * b
    lower = y[i + 1, j] * (1 - b) + y[i + 1, j + 1] * b
    return upper * (1 - a) + lower * a
