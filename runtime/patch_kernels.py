"""Compiled kernels of `dsin.runtime.patch_search`."""

import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.patch_correlation import NO_VARIANCE, TIE, Float64, Image

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Basis = tuple[Float32, Float32, Indices, Indices, Indices]
"""down, across, plane, u, v: function k lives in plane[k] and is down[u[k]] ⊗ across[v[k]]."""
Side = tuple[Float32, Image, Float32, Float32]
"""planes, image, inverse_norm and features of a `PreparedSide`."""
Query = tuple[Float32, Float32]
"""A patch: centred and of norm 1 (3, height, width), and its features."""
Prior = tuple[Float64, Float64]
"""The prior's two factors for one patch: (window rows,) and (window columns,)."""
Survivors = tuple[Indices, Float32]
"""Places (row · columns + column) of windows that may win, and upper bounds of their scores."""

MARGIN = 1e-5
"""Covers the float32 rounding of bounds and scores."""
SLACK = 1e-6
"""Added to squared norms of rests, which are differences of nearly equal numbers."""
OWN_ROWS = 2
"""Window rows each way around the own row that are searched first: stereo is nearly rectified."""
TOO_MANY = 30_000
"""Evaluations of one patch after which it is given up: about as dear as comparing it with half of
all windows, which would then be the better way."""
TOO_CLOSE = 1000
"""Candidates within `MARGIN` of the best beyond which a patch is given up: texture that repeats."""
FAST = {"reassoc", "contract", "nsz", "arcp"}


@entry_point(fastmath=FAST)
def convert(image: Image, affine: Float64, planes: Float32, first: int, last: int) -> None:
    m = affine.astype(np.float32)
    for i in range(first, last):
        for j in range(image.shape[1]):
            r = np.float32(image[i, j, 0])
            g = np.float32(image[i, j, 1])
            b = np.float32(image[i, j, 2])
            for k in range(3):
                planes[k, i, j] = m[k, 0] * r + m[k, 1] * g + m[k, 2] * b + m[k, 3]


@kernel(fastmath=FAST)
def _slide(source: Float32, taps: Float32, out: Float32) -> None:
    """out[c] = Σ taps[t] · source[c + t], four taps at a time."""
    count = out.shape[0]
    whole = taps.shape[0] // 4 * 4
    for c in range(count):
        out[c] = 0
    for t in range(0, whole, 4):
        a, b, d, e = taps[t], taps[t + 1], taps[t + 2], taps[t + 3]
        for c in range(count):
            out[c] += (
                a * source[c + t] + b * source[c + t + 1]
                + d * source[c + t + 2] + e * source[c + t + 3]
            )  # fmt: skip
    for t in range(whole, taps.shape[0]):
        for c in range(count):
            out[c] += taps[t] * source[c + t]


@kernel(fastmath=FAST)
def window_sums(
    planes: Image, r: int, ph: int, pw: int, axis: Float64, sums: Float64, inverse: Float64
) -> None:
    """Sums of each plane, less the joint mean, and 1 / norm of the windows of row r; float64."""
    width = planes.shape[2]
    lines = np.zeros((4, width))
    for t in range(ph):
        for c in range(width):
            p = np.float64(planes[0, r + t, c])
            q = np.float64(planes[1, r + t, c])
            s = np.float64(planes[2, r + t, c])
            lines[0, c] += p
            lines[1, c] += q
            lines[2, c] += s
            lines[3, c] += p * p + q * q + s * s
    pixels = ph * pw
    for c in range(inverse.shape[0]):
        p = q = s = square = 0.0
        for t in range(pw):
            p += lines[0, c + t]
            q += lines[1, c + t]
            s += lines[2, c + t]
            square += lines[3, c + t]
        mean = (axis[0] * p + axis[1] * q + axis[2] * s) / (3 * pixels)
        norm = np.sqrt(max(square - 3 * pixels * mean * mean, 0.0))
        inverse[c] = 1 / norm if norm > NO_VARIANCE else 0.0
        sums[0, c] = p - axis[0] * mean * pixels
        sums[1, c] = q - axis[1] * mean * pixels
        sums[2, c] = s - axis[2] * mean * pixels


@entry_point(fastmath=FAST)
def describe_windows(
    planes: Float32, basis: Basis, axis: Float64, first: int, last: int,
    inverse_norm: Float32, features: Float32,
) -> None:  # fmt: skip
    """Fill rows first..last of the window norms and features."""
    down, across, plane, u, v = basis
    ph, pw = down.shape[1], across.shape[1]
    width, cols = planes.shape[2], inverse_norm.shape[1]
    column = np.empty(width, np.float32)
    sums, inverse, kept = np.empty((3, cols)), np.empty(cols), np.empty(cols, np.float32)
    column_of = -1
    for r in range(first, last):
        window_sums(planes, r, ph, pw, axis, sums, inverse)
        kept[:] = 0
        for k in range(plane.shape[0]):
            out = features[k, r]
            if u[k] == 0 and v[k] == 0:
                for c in range(cols):
                    out[c] = sums[plane[k], c] * inverse[c] / np.sqrt(ph * pw)
                    kept[c] += out[c] * out[c]
                column_of = -1
                continue
            if column_of != plane[k] * ph + u[k]:
                column_of = plane[k] * ph + u[k]
                column[:] = 0
                for t in range(ph):
                    tap = down[u[k], t]
                    source = planes[plane[k], r + t]
                    for c in range(width):
                        column[c] += tap * source[c]
            _slide(column, across[v[k]], out)
            for c in range(cols):
                out[c] *= np.float32(inverse[c])
                kept[c] += out[c] * out[c]
        for c in range(cols):
            inverse_norm[r, c] = inverse[c]
            rest = np.sqrt(max(1 - kept[c], 0.0) + SLACK)
            features[plane.shape[0], r, c] = rest if inverse[c] > 0 else 0.0


@kernel(fastmath=FAST)
def _correlate(unit_patch: Float32, planes: Float32, r: int, c: int) -> float:
    """Dot product with one window of the planes."""
    total = 0.0
    for k in range(3):
        # Short float32 sums: where a window is flat, rounding errors all have one sign.
        part = np.float32(0)
        for i in range(unit_patch.shape[1]):
            for j in range(unit_patch.shape[2]):
                part += unit_patch[k, i, j] * planes[k, r + i, c + j]
        total += part
    return total


@kernel(fastmath=FAST)
def _describe_patch(patch: Float32, basis: Basis, unit_patch: Float32, features: Float32) -> bool:
    """Centre and scale the patch, and describe it as the windows are; False if it is flat."""
    down, across, plane, u, v = basis
    ph, pw = patch.shape[1], patch.shape[2]
    # The joint mean is that of H-space: along (2, 0, 1) + (0, 1, 0) + (-1, 0, 2), rotated back.
    axis = np.array([3.0, np.sqrt(5.0), 1.0]) / np.sqrt(5.0)
    total = 0.0
    for k in range(3):
        for i in range(ph):
            for j in range(pw):
                total += axis[k] * patch[k, i, j]
    mean = total / (3 * ph * pw)
    square = 0.0
    for k in range(3):
        for i in range(ph):
            for j in range(pw):
                unit_patch[k, i, j] = patch[k, i, j] - axis[k] * mean
                square += unit_patch[k, i, j] ** 2
    norm = np.sqrt(square)
    if norm <= NO_VARIANCE:
        return False
    unit_patch /= np.float32(norm)
    kept = 0.0
    for k in range(plane.shape[0]):
        value = 0.0
        for i in range(ph):
            line = np.float32(0)
            for j in range(pw):
                line += unit_patch[plane[k], i, j] * across[v[k], j]
            value += line * down[u[k], i]
        features[k] = value
        kept += value * value
    features[plane.shape[0]] = np.sqrt(max(1 - kept, 0.0) + SLACK)
    return True


@kernel()
def _score_exactly(
    x: Image, own: tuple[int, int], y: Image, r: int, c: int, size: tuple[int, int], affine: Float64
) -> float:
    """Pearson correlation of one patch and one window, in float64 from the pictures."""
    ph, pw = size
    sx = sy = xx = yy = xy = 0.0
    for a in range(ph):
        for b in range(pw):
            for k in range(3):
                p = q = affine[k, 3]
                for s in range(3):
                    p += affine[k, s] * x[own[0] + a, own[1] + b, s]
                    q += affine[k, s] * y[r + a, c + b, s]
                sx += p
                sy += q
                xx += p * p
                yy += q * q
                xy += p * q
    n = 3 * ph * pw
    vx, vy = max(xx - sx * sx / n, 0.0), max(yy - sy * sy / n, 0.0)
    if np.sqrt(vx) <= NO_VARIANCE or np.sqrt(vy) <= NO_VARIANCE:
        return 0.0
    return float((xy - sx * sy / n) / np.sqrt(vx * vy))


@kernel(fastmath=FAST)
def bounds_of_row(
    wanted: Float32, features: Float32, r: int, weight: float, across: Float64, out: Float32
) -> None:
    """out: upper bounds of the weighted scores in row r, as far as `out` reaches."""
    count = out.shape[0]
    for c in range(count):
        out[c] = 0
    for k in range(wanted.shape[0]):
        factor = wanted[k]
        line = features[k, r]
        for c in range(count):
            out[c] += factor * line[c]
    for c in range(count):
        out[c] *= np.float32(weight * across[c])


@kernel()
def reach(across: Float64, own: int, least: float) -> tuple[int, int]:
    """The columns low..high around `own` whose weight is at least `least`."""
    if own + 1 < across.shape[0] and across[own + 1] > across[own]:
        own += 1  # the peak of the original's prior
    low = own
    while low > 0 and across[low - 1] >= least:
        low -= 1
    high = own
    while high < across.shape[0] and across[high] >= least:
        high += 1
    return low, high


@kernel()
def _score(patch: Float32, side: Side, prior: Prior, r: int, c: int) -> float:
    """Weighted score of one window, in float32."""
    weight = side[2][r, c] * prior[0][r] * prior[1][c]
    return float(_correlate(patch, side[0], r, c) * weight)


@kernel()
def _first_guess(
    query: Query, side: Side, prior: Prior, own: tuple[int, int], bounds: Float32
) -> float:
    """A good score to begin with: of the own place, or of the best bound near the own row."""
    (patch, wanted), features, (down, across) = query, side[3], prior
    best = _score(patch, side, prior, own[0], own[1])
    top, at = best, own
    for r in range(max(own[0] - OWN_ROWS, 0), min(own[0] + OWN_ROWS + 1, down.shape[0])):
        low, high = reach(across, own[1], best / down[r])
        line = bounds[: high - low]
        bounds_of_row(wanted, features[:, :, low:], r, down[r], across[low:], line)
        for c in range(high - low):
            if line[c] > top:
                top, at = line[c], (r, low + c)
    return max(best, _score(patch, side, prior, at[0], at[1]))


@kernel()
def _survivors(
    query: Query, side: Side, prior: Prior, own_col: int, best: float, survivors: Survivors
) -> int:
    """Collect the windows whose bound reaches `best`, in raster order; returns how many."""
    places, upper = survivors
    wanted, features, (down, across) = query[1], side[3], prior
    columns = across.shape[0]
    bounds = np.empty(columns, np.float32)
    found = 0
    for r in range(down.shape[0]):
        if down[r] < best - MARGIN:
            continue
        low, high = reach(across, own_col, (best - MARGIN) / down[r])
        line = bounds[: high - low]
        bounds_of_row(wanted, features[:, :, low:], r, down[r], across[low:], line)
        for c in range(high - low):
            if line[c] >= best - MARGIN:
                places[found] = r * columns + low + c
                upper[found] = line[c]
                found += 1
    return found


@kernel()
def _evaluate(
    query: Query, side: Side, prior: Prior, best: float, survivors: Survivors
) -> tuple[float, Indices]:
    """Score survivors, best bound first, until none can win: their `upper` becomes their score.

    Returns the best score and the indices of the survivors within `MARGIN` of it in raster order;
    of none if the patch is given up.
    """
    places, upper = survivors
    columns = prior[1].shape[0]
    if places.shape[0] > TOO_MANY:
        at = places[np.argmax(upper)]
        best = max(best, _score(query[0], side, prior, at // columns, at % columns))
        if np.sum(upper >= best - MARGIN) > 2 * TOO_MANY:
            return best, np.empty(0, np.int64)
    order = np.argsort(-upper, kind="mergesort")
    close = 0
    for n in order:
        if upper[n] < best - MARGIN:
            break
        if close == TOO_MANY:
            return best, np.empty(0, np.int64)
        upper[n] = _score(query[0], side, prior, places[n] // columns, places[n] % columns)
        best = max(best, upper[n])
        close += 1
    near = order[:close][upper[order[:close]] >= best - MARGIN]
    near.sort()
    return best, near


@kernel()
def _decide(
    x: Image, own: tuple[int, int], y: Image, size: tuple[int, int], prior: Prior,
    affine: Float64, places: Indices,
) -> tuple[int, float]:  # fmt: skip
    """The first best of some places in raster order, and its score, in float64."""
    columns = prior[1].shape[0]
    values = np.empty(places.shape[0])
    for n in range(places.shape[0]):
        r, c = places[n] // columns, places[n] % columns
        values[n] = _score_exactly(x, own, y, r, c, size, affine) * prior[0][r] * prior[1][c]
    n = _first_best(places // columns, values)
    return places[n], values[n]


@entry_point()
def search_row(
    i: int,
    x_planes: Float32,
    x: Image,
    side: Side,
    basis: Basis,
    prior: Prior,
    affine: Float64,
    out: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64],
    hard: npt.NDArray[np.bool_],
) -> None:
    """Search all patches of patch row i; prior[1] is (patch columns, window columns).

    Patches given up are marked in `hard`, and their score is one that some window reaches.
    """
    ph, pw = basis[0].shape[1], basis[1].shape[1]
    columns = prior[1].shape[1]
    row, col, score = out
    query = np.empty((3, ph, pw), np.float32), np.empty(side[3].shape[0], np.float32)
    places = np.empty(prior[0].shape[0] * columns, np.int64)
    upper = np.empty(places.shape[0], np.float32)
    bounds = np.empty(columns, np.float32)
    for j in range(row.shape[1]):
        own = (i * ph, j * pw)
        row[i, j], col[i, j], score[i, j] = own[0], own[1], 0
        patch = x_planes[:, own[0] : own[0] + ph, own[1] : own[1] + pw]
        if not _describe_patch(patch, basis, query[0], query[1]):
            continue
        weight = (prior[0], prior[1][j])
        best = _first_guess(query, side, weight, own, bounds)
        found = _survivors(query, side, weight, own[1], best, (places, upper))
        best, near = _evaluate(query, side, weight, best, (places[:found], upper[:found]))
        at, score[i, j] = 0, best
        hard[i, j] = near.shape[0] == 0 or near.shape[0] > TOO_CLOSE
        if near.shape[0] == 1:
            at = places[near[0]]
        elif not hard[i, j]:
            at, score[i, j] = _decide(x, own, side[1], (ph, pw), weight, affine, places[near])
        row[i, j], col[i, j] = at // columns, at % columns


@kernel()
def _first_best(rows: Indices, values: Float64) -> int:
    """Index of the first of the best values in raster order, ties as the definition has them."""
    best = values.max()
    for n in range(values.shape[0]):
        top = values[n]
        for m in range(n, values.shape[0]):
            if rows[m] != rows[n]:
                break
            top = max(top, values[m])
        if top >= best - TIE and values[n] >= top - TIE:
            return n
    return 0
