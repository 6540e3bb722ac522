"""Which range of an activation 8 bits should hold: candidates from its values on real frames."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsin.calibration.qdq import Range

Floats = NDArray[np.floating]
SAMPLES = 20_000
"""Values kept of one tensor and frame."""
MOST_SAMPLES = 80_000
SHRINKS = np.linspace(1.0, 0.3, 36)
"""Shares of the whole range that are tried."""
LEVELS = 255
PERCENTILE = 99.99
METHODS = ("extremes", f"percentile {PERCENTILE}", "squared error")
"""Divergence of distributions and nearer percentiles came out far worse."""


class Extent(NamedTuple):
    """Least and largest value of each feature, (features,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def feature_extents(
    runs: Iterable[Mapping[str, Floats]], names: Sequence[str]
) -> dict[str, Extent]:
    """Of those among the named tensors that are (1, features, h, w), over all runs."""
    seen: dict[str, Extent] = {}
    for run in runs:
        for name in names:
            if run[name].ndim == 4:
                ends = run[name].min((0, 2, 3)), run[name].max((0, 2, 3))
                low, high = (end.astype(np.float64) for end in ends)
                known = seen.get(name, Extent(low, high))
                seen[name] = Extent(np.minimum(known.low, low), np.maximum(known.high, high))
    return seen


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
        """Evenly spread values of all frames, at most MOST_SAMPLES."""
        values = np.concatenate(self._kept)
        return values[:: -(-values.size // MOST_SAMPLES)]


def candidates(seen: Observed) -> dict[str, Range]:
    """Ranges by each of METHODS: the extremes, percentiles of either end, the least squared
    error."""
    if not seen.high > seen.low:
        return dict.fromkeys(METHODS, Range(seen.low, seen.high))
    sample = seen.sample.astype(np.float64)
    low, high = np.percentile(sample, [100 - PERCENTILE, PERCENTILE])
    shrunk = [Range(seen.low * f, seen.high * f) for f in SHRINKS.tolist()]
    ranges = (
        Range(seen.low, seen.high), Range(min(float(low), 0.0), max(float(high), 0.0)),
        min(shrunk, key=lambda r: _squared_error(sample, r)),
    )  # fmt: skip
    return dict(zip(METHODS, ranges, strict=True))


def _rounded(values: Floats, range_: Range) -> Floats:
    step = max(range_.high - range_.low, 1e-12) / LEVELS
    return np.asarray(np.rint(np.clip(values, *range_) / step) * step)


def _squared_error(sample: Floats, range_: Range) -> float:
    return float(np.square(sample - _rounded(sample, range_)).mean())


def observe(runs: Iterable[Mapping[str, Floats]], names: Sequence[str]) -> dict[str, Observed]:
    """What the named tensors are in all runs."""
    seen = {name: Observed() for name in names}
    for run in runs:
        for name in names:
            seen[name].add(run[name])
    return seen
