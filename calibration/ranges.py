"""Which range of an activation 8 bits should hold: candidates from its values on real frames."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dsin.calibration.qdq import Range

Floats = NDArray[np.floating]
SAMPLES = 20_000
"""Values kept of one tensor and frame."""
SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the whole range that are tried."""
LEVELS = 255
BINS = 2048


class Observed:
    """Extremes of a tensor over all frames, and a sample of its values."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self._kept: list[Floats] = []

    def add(self, values: Floats) -> None:
        """Take in a tensor of one frame."""
        flat = values.ravel()
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        self._kept.append(flat[:: max(1, flat.size // SAMPLES)].copy())

    @property
    def sample(self) -> Floats:
        """Evenly spread values of all frames."""
        return np.concatenate(self._kept)


def candidates(seen: Observed) -> dict[str, Range]:
    """Ranges by the name of the method: the extremes, percentiles of either end, the least squared
    error, and the least divergence between the distributions before and after (Migacz, "8-bit
    inference with TensorRT", 2017, here for both ends at once)."""
    sample = np.sort(seen.sample.astype(np.float64))
    found = {"extremes": Range(seen.low, seen.high)}
    if not seen.high > seen.low:
        return found
    for share in (99.9, 99.99):
        low, high = np.percentile(sample, [100 - share, share])
        found[f"percentile {share}"] = Range(min(float(low), 0.0), max(float(high), 0.0))
    shrunk = [Range(seen.low * f, seen.high * f) for f in SHRINKS.tolist()]
    found["squared error"] = min(shrunk, key=lambda r: _squared_error(sample, r))
    histogram, edges = np.histogram(sample, BINS, (seen.low, seen.high))
    centres = (edges[1:] + edges[:-1]) / 2
    found["entropy"] = min(shrunk, key=lambda r: _divergence(histogram, centres, r))
    return found


def _rounded(values: Floats, range_: Range) -> Floats:
    step = max(range_.high - range_.low, 1e-12) / LEVELS
    return np.asarray(np.rint(np.clip(values, *range_) / step) * step)


def _squared_error(sample: Floats, range_: Range) -> float:
    return float(np.square(sample - _rounded(sample, range_)).mean())


def _divergence(histogram: NDArray[np.integer], centres: Floats, range_: Range) -> float:
    """Kullback-Leibler divergence of the values, cut to the range, from what 8 bits make of them:
    each level spreads its count evenly over the bins that were not empty."""
    inside = np.clip(centres, *range_)
    step = max(range_.high - range_.low, 1e-12) / LEVELS
    level = np.rint((inside - range_.low) / step).astype(np.int64)
    within = (centres >= range_.low) & (centres <= range_.high)
    counts = histogram.astype(np.float64)
    kept = np.where(within, counts, 0.0)
    # What lies outside counts at the ends, before; afterwards it is not there.
    before = kept.copy()
    first, last = np.flatnonzero(within)[[0, -1]]
    before[first] += counts[centres < range_.low].sum()
    before[last] += counts[centres > range_.high].sum()
    filled = (before > 0).astype(np.float64)
    totals = np.bincount(level, kept, LEVELS + 1)
    shares = np.bincount(level, filled, LEVELS + 1)
    after = filled * (totals / np.maximum(shares, 1))[level]
    p, q = before / before.sum(), after / max(after.sum(), 1e-12)
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))).sum())


def observe(runs: Iterable[Mapping[str, Floats]], names: Sequence[str]) -> dict[str, Observed]:
    """What the named tensors are in all runs."""
    seen = {name: Observed() for name in names}
    for run in runs:
        for name in names:
            seen[name].add(run[name])
    return seen
