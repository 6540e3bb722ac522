"""Compiled kernels of `dsin.runtime.patch_search`."""

import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import kernel
from dsin.runtime.patch_correlation import NO_VARIANCE, TIE, Float64, Image

Float32 = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

MARGIN = 1e-5
"""Covers the float32 rounding of bounds and scores."""
SLACK = 1e-6
"""Added to squared norms of rests, which are differences of nearly equal numbers."""
OWN_ROWS = 2
"""Window rows each way around the own row that are searched first: stereo is nearly rectified."""
TOO_MANY = 50_000
"""Evaluations of one patch after which it is given up. About 10 ms; comparing even a single patch
with all windows in float64 takes seconds, so that is for images where most patches are hopeless."""
FAST = {"reassoc", "contract", "nsz", "arcp"}


@kernel(fastmath=FAST)
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
def _window_sums(
    planes: Float32, r: int, ph: int, pw: int, axis: Float64, sums: Float64, inverse: Float64
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


@kernel(fastmath=FAST)
def describe_windows(
    planes: Float32,
    down: Float32,
    across: Float32,
    plane: Indices,
    u: Indices,
    v: Indices,
    axis: Float64,
    first: int,
    last: int,
    inverse_norm: Float32,
    features: Float32,
) -> None:
    """Fill rows first..last of the window norms and features."""
    ph, pw = down.shape[1], across.shape[1]
    width, cols = planes.shape[2], inverse_norm.shape[1]
    column = np.empty(width, np.float32)
    sums, inverse, kept = np.empty((3, cols)), np.empty(cols), np.empty(cols, np.float32)
    column_of = -1
    for r in range(first, last):
        _window_sums(planes, r, ph, pw, axis, sums, inverse)
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
def _describe_patch(
    patch: Float32,
    down: Float32,
    across: Float32,
    plane: Indices,
    u: Indices,
    v: Indices,
    unit_patch: Float32,
    features: Float32,
) -> bool:
    """Centre and scale the patch, and describe it as the windows are; False if it is flat."""
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
                centred = patch[k, i, j] - axis[k] * mean
                square += centred * centred
    norm = np.sqrt(square)
    if norm <= NO_VARIANCE:
        return False
    for k in range(3):
        for i in range(ph):
            for j in range(pw):
                unit_patch[k, i, j] = (patch[k, i, j] - axis[k] * mean) / norm
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
    x: Image, i: int, j: int, y: Image, r: int, c: int, ph: int, pw: int, affine: Float64
) -> float:
    """Pearson correlation of one patch and one window, in float64 from the pictures."""
    sx = sy = xx = yy = xy = 0.0
    for a in range(ph):
        for b in range(pw):
            for k in range(3):
                p = q = affine[k, 3]
                for s in range(3):
                    p += affine[k, s] * x[i + a, j + b, s]
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
def _bounds_of_row(
    wanted: Float32,
    features: Float32,
    r: int,
    low: int,
    high: int,
    weight: float,
    across: Float64,
    out: Float32,
) -> None:
    """out[low:high]: upper bounds of the weighted scores in row r."""
    for c in range(low, high):
        out[c] = 0
    for k in range(wanted.shape[0]):
        factor = wanted[k]
        line = features[k, r]
        for c in range(low, high):
            out[c] += factor * line[c]
    for c in range(low, high):
        out[c] *= np.float32(weight * across[c])


@kernel()
def _reach(across: Float64, own: int, least: float) -> tuple[int, int]:
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
def search_row(
    i: int,
    x_planes: Float32,
    x: Image,
    y_planes: Float32,
    y: Image,
    inverse_norm: Float32,
    features: Float32,
    down: Float32,
    across: Float32,
    plane: Indices,
    u: Indices,
    v: Indices,
    prior_down: Float64,
    prior_across: Float64,
    affine: Float64,
    row: npt.NDArray[np.int32],
    col: npt.NDArray[np.int32],
    score: Float64,
    hard: npt.NDArray[np.bool_],
) -> None:
    """Search all patches of patch row i."""
    ph, pw = down.shape[1], across.shape[1]
    rows, cols = inverse_norm.shape
    unit_patch = np.empty((3, ph, pw), np.float32)
    wanted = np.empty(features.shape[0], np.float32)
    bounds = np.empty(cols, np.float32)
    places = np.empty(rows * cols, np.int64)
    upper = np.empty(rows * cols, np.float32)
    for j in range(row.shape[1]):
        own_r, own_c = i * ph, j * pw
        patch = x_planes[:, own_r : own_r + ph, own_c : own_c + pw]
        row[i, j], col[i, j], score[i, j] = own_r, own_c, 0
        if not _describe_patch(patch, down, across, plane, u, v, unit_patch, wanted):
            continue
        prior = prior_across[j]
        best = (
            _correlate(unit_patch, y_planes, own_r, own_c)
            * inverse_norm[own_r, own_c] * prior_down[own_r] * prior[own_c]
        )  # fmt: skip
        # A first good guess near the own row, where stereo puts it.
        guess, guess_r, guess_c = best, own_r, own_c
        for r in range(max(own_r - OWN_ROWS, 0), min(own_r + OWN_ROWS + 1, rows)):
            low, high = _reach(prior, own_c, best / prior_down[r])
            _bounds_of_row(wanted, features, r, low, high, prior_down[r], prior, bounds)
            for c in range(low, high):
                if bounds[c] > guess:
                    guess, guess_r, guess_c = bounds[c], r, c
        value = (
            _correlate(unit_patch, y_planes, guess_r, guess_c)
            * inverse_norm[guess_r, guess_c] * prior_down[guess_r] * prior[guess_c]
        )  # fmt: skip
        best = max(best, value)
        found = 0
        for r in range(rows):
            if prior_down[r] < best - MARGIN:
                continue
            low, high = _reach(prior, own_c, (best - MARGIN) / prior_down[r])
            _bounds_of_row(wanted, features, r, low, high, prior_down[r], prior, bounds)
            for c in range(low, high):
                if bounds[c] >= best - MARGIN:
                    places[found] = r * cols + c
                    upper[found] = bounds[c]
                    found += 1
        if found > TOO_MANY:
            at = np.argmax(upper[:found])
            r, c = places[at] // cols, places[at] % cols
            value = (
                _correlate(unit_patch, y_planes, r, c)
                * inverse_norm[r, c] * prior_down[r] * prior[c]
            )  # fmt: skip
            best = max(best, value)
            if np.sum(upper[:found] >= best - MARGIN) > 4 * TOO_MANY:
                hard[i, j] = True
                continue
        order = np.argsort(-upper[:found], kind="mergesort")
        close = 0
        for n in range(found):
            at = order[n]
            if upper[at] < best - MARGIN:
                break
            if n >= TOO_MANY:
                hard[i, j] = True
                break
            r, c = places[at] // cols, places[at] % cols
            value = (
                _correlate(unit_patch, y_planes, r, c)
                * inverse_norm[r, c] * prior_down[r] * prior[c]
            )  # fmt: skip
            best = max(best, value)
            upper[at] = value
            close = n + 1
        if hard[i, j]:
            continue
        near = order[:close][upper[order[:close]] >= best - MARGIN]
        if near.shape[0] == 1:
            at = near[0]
            row[i, j], col[i, j] = places[at] // cols, places[at] % cols
            score[i, j] = upper[at]
            continue
        near.sort()
        values = np.empty(near.shape[0])
        for n in range(near.shape[0]):
            r, c = places[near[n]] // cols, places[near[n]] % cols
            values[n] = _score_exactly(x, own_r, own_c, y, r, c, ph, pw, affine)
            values[n] *= prior_down[r] * prior[c]
        n = _first_best(places[near] // cols, values)
        row[i, j], col[i, j] = places[near[n]] // cols, places[near[n]] % cols
        score[i, j] = values[n]


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
