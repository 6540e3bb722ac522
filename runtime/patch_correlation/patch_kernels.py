"""Compiled kernels of `dsin.runtime.patch_correlation.patch_search`.

All in one file, for numba's cache of an entry point notices a change in its own file only.
"""

import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.patch_correlation.definition import NO_VARIANCE, TIE, Float64

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]
Basis = tuple[Float32, Float32, Indices, Indices, Indices]
"""down, across, plane, u, v: function k lives in plane[k] and is down[u[k]] ⊗ across[v[k]]."""
SideArrays = tuple[Float32, Float32, Float32, Float32, Float32]
"""mixed, image, inverse_norm, doubt and features of a `PreparedSide`."""
Query = tuple[Float32, Float32]
"""A patch: centred and of norm 1 (height, 3 · width), and its features."""
Prior = tuple[Float64, Float64]
"""The prior's two factors for one patch: (window rows,) and (window columns,)."""
Survivors = tuple[Int32, Float32]
"""Places (row · columns + column) of windows that may win, and upper bounds of their scores."""
Found = tuple[Int32, Int32, Float64, Indices]
"""row, col, score and how many windows were compared in full, each (patch rows, columns)."""

LineRoom = tuple[Float64, Float64, Float64, Float32, Float32, Float32]
"""Working space for one row of windows: (4, W), (4, columns) and (columns,); (W,), and twice
(columns,). Allocating it in Python spares half a second of compilation."""
RowRoom = tuple[Float32, Float32, Int32, Float32, Float32, Float32, Float64, Indices]
"""Working space for a row of patches: of each patch its two queries, its survivors, their bounds
and the float32 prior across; one line of the picture; two levels and three columns of each patch.
"""

MARGIN = 1e-5
"""Covers the float32 rounding of bounds and scores of windows and patches with contrast."""
ROUNDING = 1e-6
"""Float32 error of a correlation, times norm of the window (or patch) over that once centred."""
SLACK = 1e-6
"""Added to squared norms of rests, which are differences of nearly equal numbers."""
SURELY_FLAT, HARDLY_FLAT = 0.3 * NO_VARIANCE, 10 * NO_VARIANCE
"""Norms between these are too close to NO_VARIANCE for float32."""
OWN_ROWS = 2
"""Window rows each way around the own row that are searched first: stereo is nearly rectified."""
FIRST_BAND = 0.004
"""How far below the best bound survivors are scored first."""
LANES = 8
"""Float32 numbers in a vector of most processors."""
LISTED = 4096
"""Survivors of one patch that the search of a whole row of patches has room for."""
TOO_CLOSE = 1000
"""Candidates within the margin beyond which a patch is given up: texture that repeats."""
DONE, CROWDED, TIED = 0, 1, 2
"""State of a patch: found; more survivors than were listed; more near ties than TOO_CLOSE."""
FAST = {"reassoc", "contract", "nsz", "arcp"}
FINITE = {*FAST, "nnan"}
LARGE = np.float32(3e38)
AXIS = (3 / 5**0.5, 1.0, 1 / 5**0.5)


@entry_point(fastmath=FAST)
def convert(
    image: Float32, affine: Float64, levels: Float32, planes: Float32, mixed: Float32,
    first: int, last: int,
) -> None:  # fmt: skip
    """Rows first..last of `levels` (clipped, numbers only) and of the colours in rotated H-space,
    plane by plane (3, H, W) and, unless that is empty, mixed (H, 3 · W)."""
    m = affine
    for i in range(first, last):
        for j in range(image.shape[1]):
            for k in range(3):
                v = np.float32(image[i, j, k])
                levels[i, j, k] = min(v, np.float32(255)) if v > 0 else np.float32(0)
            # In float64: near the mean the sums cancel, and that error would not fall with them.
            r = np.float64(levels[i, j, 0])
            g = np.float64(levels[i, j, 1])
            b = np.float64(levels[i, j, 2])
            for k in range(3):
                planes[k, i, j] = m[k, 0] * r + m[k, 1] * g + m[k, 2] * b + m[k, 3]
                if mixed.shape[0] > 0:
                    mixed[i, 3 * j + k] = planes[k, i, j]


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
def _window_sums(
    planes: Float32, r: int, ph: int, pw: int, axis: Float64, lines: Float64, sums: Float64,
    norms: Float64,
) -> None:  # fmt: skip
    """Of the windows of row r, in float64: sums of each plane less the joint mean (0..2), norm
    before (3), and `norms` after subtracting that mean."""
    width = planes.shape[2]
    for k in range(4):
        for c in range(width):
            lines[k, c] = 0
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
    for c in range(norms.shape[0]):
        p = q = s = square = 0.0
        for t in range(pw):
            p += lines[0, c + t]
            q += lines[1, c + t]
            s += lines[2, c + t]
            square += lines[3, c + t]
        mean = (axis[0] * p + axis[1] * q + axis[2] * s) / (3 * pixels)
        norms[c] = np.sqrt(max(square - 3 * pixels * mean * mean, 0.0))
        sums[0, c] = p - axis[0] * mean * pixels
        sums[1, c] = q - axis[1] * mean * pixels
        sums[2, c] = s - axis[2] * mean * pixels
        sums[3, c] = np.sqrt(square)


@kernel()
def _doubt(before: float, norm: float) -> float:
    """How far beyond MARGIN float32 may err in the score of a window with these norms."""
    if norm < SURELY_FLAT:
        return 0.0
    if norm < HARDLY_FLAT:
        return 2.0
    return min(max(ROUNDING * before / norm - MARGIN / 2, 0.0), 2.0)


@entry_point(fastmath=FAST)
def describe_windows(
    planes: Float32, basis: Basis, axis: Float64, first: int, last: int,
    inverse_norm: Float32, doubt: Float32, features: Float32, room: LineRoom,
) -> None:  # fmt: skip
    """Fill rows first..last of the window norms, doubts and features."""
    down, across, plane, u, v = basis
    ph, pw = down.shape[1], across.shape[1]
    width, cols = planes.shape[2], inverse_norm.shape[1]
    lines, sums, norms, column, kept, inverse = room
    column_of = -1
    for r in range(first, last):
        _window_sums(planes, r, ph, pw, axis, lines, sums, norms)
        for c in range(cols):
            inverse_norm[r, c] = 1 / norms[c] if norms[c] >= SURELY_FLAT else 0.0
            # Where the norm itself is in doubt, so are features: then the rest alone is the bound.
            inverse[c] = inverse_norm[r, c] if norms[c] >= HARDLY_FLAT else 0.0
            doubt[r, c] = _doubt(sums[3, c], norms[c])
            kept[c] = 0
        for k in range(plane.shape[0]):
            out = features[r, k]
            if u[k] == 0 and v[k] == 0:
                for c in range(cols):
                    out[c] = sums[plane[k], c] * inverse[c] / np.sqrt(ph * pw)
                    kept[c] += out[c] * out[c]
                column_of = -1
                continue
            if column_of != plane[k] * ph + u[k]:
                column_of = plane[k] * ph + u[k]
                for c in range(width):
                    column[c] = 0
                for t in range(ph):
                    tap = down[u[k], t]
                    source = planes[plane[k], r + t]
                    for c in range(width):
                        column[c] += tap * source[c]
            _slide(column, across[v[k]], out)
            for c in range(cols):
                out[c] *= inverse[c]
                kept[c] += out[c] * out[c]
        rest = features[r, plane.shape[0]]
        for c in range(cols):
            # A patch's own rest is at least √SLACK, so the bound grows by the doubt at least.
            rest[c] = np.sqrt(max(1 - kept[c], 0.0) + SLACK) + doubt[r, c] / np.sqrt(SLACK)
            if inverse_norm[r, c] == 0:
                rest[c] = 0.0


@kernel(fastmath=FAST)
def _correlate(unit_patch: Float32, mixed: Float32, r: int, c: int) -> float:
    """Dot product with one window, four pixel rows at a time: five times faster than one."""
    rows, width = unit_patch.shape
    start, stop = 3 * c, 3 * c + width
    total = 0.0
    whole = rows // 4 * 4
    for i in range(0, whole, 4):
        # Short float32 sums: where a window is flat, rounding errors all have one sign.
        part = np.float32(0)
        p, q, s, t = unit_patch[i], unit_patch[i + 1], unit_patch[i + 2], unit_patch[i + 3]
        e, f = mixed[r + i, start:stop], mixed[r + i + 1, start:stop]
        g, h = mixed[r + i + 2, start:stop], mixed[r + i + 3, start:stop]
        for j in range(width):
            part += p[j] * e[j] + q[j] * f[j] + s[j] * g[j] + t[j] * h[j]
        total += part
    for i in range(whole, rows):
        part = np.float32(0)
        for j in range(width):
            part += unit_patch[i, j] * mixed[r + i, start + j]
        total += part
    return total


@kernel(fastmath=FAST)
def _describe_patch(
    planes: Float32, at: tuple[int, int], basis: Basis, unit_patch: Float32, features: Float32,
    column: Float32,
) -> tuple[float, float]:  # fmt: skip
    """Centre and scale the patch at `at`, and describe it as the windows are; its norm after and
    before. `column` is room for a row of a patch."""
    down, across, plane, u, v = basis
    ph, pw = down.shape[1], across.shape[1]
    top, left, right = at[0], at[1], at[1] + pw
    # The joint mean is that of H-space: along (2, 0, 1) + (0, 1, 0) + (-1, 0, 2), rotated back.
    axis, sums = AXIS, np.empty(3)
    before = 0.0
    for k in range(3):
        whole = 0.0
        for i in range(ph):
            line, total = planes[k, top + i, left:right], 0.0
            for j in range(pw):
                value = np.float64(line[j])
                total += value
                before += value * value
            whole += total
        sums[k] = whole
    mean = (axis[0] * sums[0] + axis[1] * sums[1] + axis[2] * sums[2]) / (3 * ph * pw)
    square = 0.0
    for k in range(3):
        away = axis[k] * mean
        for i in range(ph):
            line = planes[k, top + i, left:right]
            for j in range(pw):
                value = np.float64(line[j]) - away
                square += value * value
    norm = np.sqrt(square)
    scale = 1 / max(norm, SURELY_FLAT)
    for i in range(ph):
        out = unit_patch[i]
        for k in range(3):
            line, away = planes[k, top + i, left:right], axis[k] * mean
            for j in range(pw):
                out[3 * j + k] = scale * (line[j] - away)
    kept = 0.0
    for n in range(plane.shape[0]):
        if v[n] == 0:
            for j in range(pw):
                column[j] = 0
            for i in range(ph):
                tap, line = down[u[n], i], planes[plane[n], top + i, left:right]
                for j in range(pw):
                    column[j] += tap * line[j]
        if u[n] == 0 and v[n] == 0:
            value = (sums[plane[n]] - axis[plane[n]] * mean * ph * pw) / np.sqrt(ph * pw)
        else:
            part, taps = np.float32(0), across[v[n]]
            for j in range(pw):
                part += column[j] * taps[j]
            value = np.float64(part)
        value *= scale
        features[n] = value
        kept += value * value
    features[plane.shape[0]] = np.sqrt(max(1 - kept, 0.0) + SLACK)
    return norm, np.sqrt(before)


@kernel(inline="always")
def _norm_exactly(image: Float32, r: int, c: int, size: tuple[int, int], affine: Float64) -> float:
    """Norm of a centred window in H-space, in float64 from the levels."""
    mean = _mean(image, r, c, size, affine)
    square = 0.0
    for a in range(size[0]):
        for b in range(size[1]):
            for k in range(3):
                away = _colour(image, r + a, c + b, k, affine) - mean
                square += away * away
    return float(np.sqrt(square))


@kernel(fastmath=FAST)
def _colour(image: Float32, i: int, j: int, k: int, affine: Float64) -> float:
    value = affine[k, 3]
    for s in range(3):
        value += affine[k, s] * np.float64(image[i, j, s])
    return float(value)


@kernel(fastmath=FAST)
def _mean(image: Float32, r: int, c: int, size: tuple[int, int], affine: Float64) -> float:
    """Joint mean of a window."""
    total = 0.0
    for a in range(size[0]):
        for b in range(size[1]):
            for k in range(3):
                total += _colour(image, r + a, c + b, k, affine)
    return total / (3 * size[0] * size[1])


@kernel(fastmath=FAST)
def _score_exactly(
    x: Float32, own: tuple[int, int], y: Float32, r: int, c: int, size: tuple[int, int],
    affine: Float64,
) -> float:  # fmt: skip
    """Pearson correlation of one patch and one window, in float64 from the levels."""
    mean_x = _mean(x, own[0], own[1], size, affine)
    mean_y = _mean(y, r, c, size, affine)
    xx = yy = xy = 0.0
    for a in range(size[0]):
        for b in range(size[1]):
            for k in range(3):
                p = _colour(x, own[0] + a, own[1] + b, k, affine) - mean_x
                q = _colour(y, r + a, c + b, k, affine) - mean_y
                xx += p * p
                yy += q * q
                xy += p * q
    if np.sqrt(xx) <= NO_VARIANCE or np.sqrt(yy) <= NO_VARIANCE:
        return 0.0
    return float(xy / np.sqrt(xx * yy))


@kernel(fastmath=FINITE)
def _bounds_of_row(
    wanted: Float32, features: Float32, low: int, weight: float, across: Float32, least: float,
    out: Float32,
) -> int:  # fmt: skip
    """out: upper bounds of the weighted scores of one row from column `low` on; how many of them
    reach `least`. Counting is vectorised, the largest would not be."""
    count = out.shape[0]
    high = low + count
    odd = wanted.shape[0] % 4
    for c in range(count):
        out[c] = 0
    for k in range(odd):
        factor, line = wanted[k], features[k, low:high]
        for c in range(count):
            out[c] += factor * line[c]
    for k in range(odd, wanted.shape[0], 4):
        a, b, d, e = wanted[k], wanted[k + 1], wanted[k + 2], wanted[k + 3]
        p, q = features[k, low:high], features[k + 1, low:high]
        s, t = features[k + 2, low:high], features[k + 3, low:high]
        for c in range(count):
            out[c] += a * p[c] + b * q[c] + d * s[c] + e * t[c]
    prior, factor, limit = across[low:high], np.float32(weight), np.float32(least)
    reached = np.int32(0)
    for c in range(count):
        out[c] *= factor * prior[c]
        reached += np.int32(out[c] >= limit)
    return int(reached)


@kernel()
def _reach(across: Float32, own: int, least: float, low: int, high: int) -> tuple[int, int]:
    """The columns from `low` to before `high` around `own` whose weight is at least `least`; it
    falls both ways. Given those of a similar weight, from which they are a few steps."""
    limit = np.float32(least)
    if across[own] < limit:
        if own + 1 == across.shape[0] or across[own + 1] < limit:
            return own, own
        own += 1  # the peak of the original's prior
    low, high = min(low, own), max(high, own + 1)
    while across[low] < limit:
        low += 1
    while low > 0 and across[low - 1] >= limit:
        low -= 1
    while across[high - 1] < limit:
        high -= 1
    while high < across.shape[0] and across[high] >= limit:
        high += 1
    return low, high


@kernel()
def _widened(low: int, high: int, columns: int) -> tuple[int, int]:
    """The range low..high made a multiple of LANES long, as far as there are columns: what is left
    over of a vector loop is computed one by one. An empty one stays empty."""
    count = min(-(-(high - low) // LANES) * LANES, columns)
    low = min(low, columns - count)
    return low, low + count


@kernel()
def _bound_row(
    query: Float32, features: Float32, weight: float, across: Float32, own: int, least: float,
    reach: tuple[int, int], line: Float32,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """Bounds of one row of windows, of this weight, at the beginning of `line`.

    Returns the columns that may reach `least`, given those of a similar row in `reach`; the columns
    that bounds were computed for; and how many of these do reach it.
    """
    low, high = _reach(across, own, least / weight, reach[0], reach[1])
    first, end = _widened(low, high, across.shape[0])
    reached = _bounds_of_row(query, features, first, weight, across, least, line[: end - first])
    return low, high, first, end, reached


@kernel()
def _score(
    patch: Float32, mixed: Float32, inverse_norm: Float32, prior: Prior, r: int, c: int
) -> float:
    """Weighted score of one window, in float32."""
    correlation = _correlate(patch, mixed, r, c) * inverse_norm[r, c]
    # Beyond 1 is an error that doubt does not cover, of a window that is nearly flat.
    return float(min(max(correlation, -1.0), 1.0) * prior[0][r] * prior[1][c])


@kernel(inline="always")
def _surely(patch: Float32, side: SideArrays, prior: Prior, r: int, c: int) -> float:
    """A score that the window certainly reaches."""
    return float(_score(patch, side[0], side[2], prior, r, c) - side[3][r, c])


@kernel(inline="always")
def _best_near_own_rows(
    query: Query, side: SideArrays, prior: Prior, own: tuple[int, int], best: float,
    across: Float32, line: Float32,
) -> float:  # fmt: skip
    """A good score to begin with: those of the best bounds of the own row and those near it."""
    low, high = own[1], own[1] + 1
    for n in range(2 * OWN_ROWS + 1):
        # 0, 1, -1, 2, -2
        r = own[0] + (n + 1) // 2 * (2 * (n % 2) - 1)
        if r < 0 or r >= prior[0].shape[0]:
            continue
        low, high, first, end, reached = _bound_row(
            query[1], side[4][r], prior[0][r], across, own[1], best, (low, high), line
        )
        if reached > 0:
            at = 0
            for c in range(end - first):
                if line[c] > line[at]:
                    at = c
            best = max(best, _surely(query[0], side, prior, r, first + at))
    return best


@kernel()
def _append(
    bounds: Float32, least: float, place: int, reached: int, survivors: Survivors, count: int
) -> int:
    """Append the windows from `place` on whose bound reaches `least`, as `reached` of them do; the
    new count, which may be more than there is room for."""
    places, upper = survivors
    c = 0
    while reached > 0:
        if bounds[c] >= np.float32(least):
            if count < places.shape[0]:
                places[count] = place + c
                upper[count] = bounds[c]
            count += 1
            reached -= 1
        c += 1
    return count


@kernel()
def _evaluate(
    query: Query, side: SideArrays, prior: Prior, best: float, margin: float, survivors: Survivors
) -> tuple[Int32, int]:
    """Score survivors, best bounds first, until none can win.

    Returns the places of those within the margin of the best in raster order, written over the
    first ones, and how many were scored.
    """
    places, upper = survivors
    columns = prior[1].shape[0]
    top = -LARGE
    for n in range(places.shape[0]):
        top = max(top, upper[n])
    # Bands of bounds, each twice as wide as the one before: as good as sorting, and cheaper.
    band, least, count = FIRST_BAND, np.inf, 0
    while least > best - margin:
        least = max(top - band, best - margin)
        band *= 2
        for n in range(places.shape[0]):
            if places[n] < 0 or upper[n] < least or upper[n] < best - margin:
                continue
            r, c = places[n] // columns, places[n] % columns
            value = _score(query[0], side[0], side[2], prior, r, c)
            upper[n] = value + side[3][r, c]
            best = max(best, value - side[3][r, c])
            places[n] = -1 - places[n]  # so that it is known as scored
            count += 1
    found = 0
    for n in range(places.shape[0]):
        if places[n] < 0 and upper[n] >= best - margin:
            places[found] = -1 - places[n]
            found += 1
    return places[:found], count


@kernel(inline="always")
def _first_best(places: Int32, columns: int, values: Float64) -> int:
    """Index of the first of the best values in raster order, ties as the definition has them."""
    best = values[0]
    for n in range(values.shape[0]):
        best = max(best, values[n])
    for n in range(values.shape[0]):
        top = values[n]
        for m in range(n, values.shape[0]):
            if places[m] // columns != places[n] // columns:
                break
            top = max(top, values[m])
        if top >= best - TIE and values[n] >= top - TIE:
            return n
    return 0


@entry_point()
def decide(
    x: Float32, own: tuple[int, int], y: Float32, size: tuple[int, int], prior: Prior,
    affine: Float64, places: Int32,
) -> tuple[int, int, float]:  # fmt: skip
    """Row, column and score of the first best of some places in raster order, in float64."""
    columns = prior[1].shape[0]
    values = np.empty(places.shape[0])
    for n in range(places.shape[0]):
        r, c = places[n] // columns, places[n] % columns
        values[n] = _score_exactly(x, own, y, r, c, size, affine) * prior[0][r] * prior[1][c]
    n = _first_best(places, columns, values)
    return int(places[n] // columns), int(places[n] % columns), float(values[n])


@kernel(inline="always")
def _settle(
    query: Query, x: Float32, own: tuple[int, int], side: SideArrays, prior: Prior, affine: Float64,
    best: float, margin: float, survivors: Survivors, at: tuple[int, int], out: Found,
) -> int:  # fmt: skip
    """Evaluate the survivors of patch `at` and fill `out`; the patch's new state."""
    row, col, score, evaluated = out
    near, count = _evaluate(query, side, prior, best, margin, survivors)
    evaluated[at] += count
    if near.shape[0] > TOO_CLOSE:
        return TIED
    r, c = near[0] // prior[1].shape[0], near[0] % prior[1].shape[0]
    if near.shape[0] == 1 and side[3][r, c] <= MARGIN and margin <= 2 * MARGIN:
        row[at], col[at], score[at] = r, c, _score(query[0], side[0], side[2], prior, r, c)
        return DONE
    size = query[0].shape[0], query[0].shape[1] // 3
    row[at], col[at], score[at] = decide(x, own, side[1], size, prior, affine, near)
    return DONE


@kernel(inline="always")
def _begin(
    query: Query, x_planes: Float32, x: Float32, own: tuple[int, int], basis: Basis,
    affine: Float64, line: Float32,
) -> float:  # fmt: skip
    """Fill the query; the margin that its scores need, or -1 for a flat patch."""
    ph, pw = query[0].shape[0], query[0].shape[1] // 3
    norm, before = _describe_patch(x_planes, own, basis, query[0], query[1], line)
    if norm < HARDLY_FLAT and _norm_exactly(x, own[0], own[1], (ph, pw), affine) <= NO_VARIANCE:
        return -1.0
    return MARGIN + _doubt(before, max(norm, SURELY_FLAT))


@entry_point()
def search_row(
    i: int,
    own: tuple[Indices, Indices],
    x_planes: Float32,
    x: Float32,
    side: SideArrays,
    basis: Basis,
    prior: Prior,
    affine: Float64,
    room: RowRoom,
    out: Found,
    state: npt.NDArray[np.uint8],
) -> None:
    """Search all patches of patch row i; prior[1] is (patch columns, window columns).

    One row of windows after the other, each for all patches: its features then stay in the cache.
    Patches with too many survivors, or too many near ties, are left to others, as `state` says. All
    of `room` is written over, but the prior.
    """
    patches, columns = prior[1].shape
    units, wanted, places, upper, across, line, levels, spans = room
    best, margin = levels[0], levels[1]
    found, low, high = spans[0], spans[1], spans[2]
    for j in range(patches):
        at = own[0][i], own[1][j]
        weight = prior[0], prior[1][j]
        out[0][i, j], out[1][i, j], out[2][i, j] = at[0], at[1], 0
        found[j], low[j], high[j] = 0, at[1], at[1] + 1
        query = units[j], wanted[j]
        margin[j] = _begin(query, x_planes, x, at, basis, affine, line)
        if margin[j] > 0:
            first_best = _surely(units[j], side, weight, at[0], at[1]) - margin[j]
            best[j] = (
                _best_near_own_rows(query, side, weight, at, first_best, across[j], line)
                - margin[j]
            )
    for r in range(prior[0].shape[0]):
        weight_r, features = prior[0][r], side[4][r]
        for j in range(patches):
            least = best[j] - margin[j]
            if margin[j] > 0 and found[j] <= LISTED and weight_r >= least:
                low[j], high[j], first, _, reached = _bound_row(
                    wanted[j], features, weight_r, across[j], own[1][j], least, (low[j], high[j]),
                    line,
                )  # fmt: skip
                if reached > 0:
                    found[j] = _append(
                        line, least, r * columns + first, reached, (places[j], upper[j]), found[j]
                    )
    for j in range(patches):
        if margin[j] < 0:
            state[i, j] = DONE
        elif found[j] > LISTED:
            state[i, j] = CROWDED
            out[2][i, j] = best[j]
        else:
            state[i, j] = _settle(
                (units[j], wanted[j]), x, (own[0][i], own[1][j]), side, (prior[0], prior[1][j]),
                affine, best[j], margin[j], (places[j, : found[j]], upper[j, : found[j]]), (i, j),
                out,
            )  # fmt: skip


@entry_point()
def search_one(
    at: tuple[int, int],
    own: tuple[int, int],
    x_planes: Float32,
    x: Float32,
    side: SideArrays,
    basis: Basis,
    prior: Prior,
    affine: Float64,
    out: Found,
    state: npt.NDArray[np.uint8],
    most: float,
) -> None:
    """Search one patch that was left over, with room for all windows; out[2] has a score that some
    window reaches. It stays CROWDED where more than this share of the windows in reach survive."""
    query = (
        np.empty((basis[0].shape[1], 3 * basis[1].shape[1]), np.float32),
        np.empty(basis[2].shape[0] + 1, np.float32),
    )
    line, across = np.empty(x_planes.shape[2], np.float32), prior[1].astype(np.float32)
    margin = _begin(query, x_planes, x, own, basis, affine, line)
    places = np.empty(prior[0].shape[0] * prior[1].shape[0], np.int32)
    upper = np.empty(places.shape[0], np.float32)
    best = out[2][at]
    least, count, reached = best - margin, 0, 0
    low, high = own[1], own[1] + 1
    for r in range(prior[0].shape[0]):
        if prior[0][r] >= least:
            low, high = _reach(across, own[1], least / prior[0][r], low, high)
            reached += high - low
    for r in range(prior[0].shape[0]):
        if prior[0][r] >= least:
            low, high = _reach(across, own[1], least / prior[0][r], low, high)
            bounds = line[: high - low]
            found = _bounds_of_row(query[1], side[4][r], low, prior[0][r], across, least, bounds)
            place = r * across.shape[0] + low
            count = _append(bounds, least, place, found, (places, upper), count)
            if count > max(LISTED, most * reached):
                return
    survivors = places[:count], upper[:count]
    state[at] = _settle(query, x, own, side, prior, affine, best, margin, survivors, at, out)
