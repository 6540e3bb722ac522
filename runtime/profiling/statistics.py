"""Statistics of repeated measurements, and whether they are valid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SAMPLES = 100
"""With fewer, p99 would be the largest sample."""
LEAST_SECONDS = 10.0
"""Shorter runs end before caches, clocks and temperatures have settled."""
MOST_CV = 0.05
"""A latency that spreads more than this depends on something that was not controlled."""
MOST_DROP = 0.1
"""A chip that lost more than this share of its speed during the run was throttled or shared."""


@dataclass(frozen=True)
class Statistics:
    """Of at least one value, in the values' unit; percentiles are linearly interpolated.

    `cv` is the coefficient of variation, standard deviation over mean, without a unit.
    """

    samples: int
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float
    cv: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistics":
        """Statistics of positive values, rounded to 1e-4."""
        array = np.asarray(values, np.float64)
        low, p50, p90, p95, p99, high = np.percentile(array, [0, 50, 90, 95, 99, 100]).round(4)
        mean = float(array.mean())
        cv = float(array.std()) / mean if mean > 0 else 0.0
        points = map(float, (low, p50, p90, p95, p99, high, round(mean, 4), round(cv, 4)))
        return cls(len(array), *points)


def reasons_against(
    latency: Statistics,
    *,
    seconds: float,
    gmacs_before: float,
    gmacs_after: float,
    throttle_events: int = 0,
    late_frames: int = 0,
) -> tuple[str, ...]:
    """Why these measurements do not count, in words; empty where they do.

    `gmacs_before` and `gmacs_after` are what the chip did in the same product before and after the
    run, in GMAC/s; `throttle_events` is what the system counted; `late_frames` are those of a paced
    run that came while another was still being worked on.
    """
    reasons = []
    if latency.samples < LEAST_SAMPLES:
        reasons.append(f"too short: {latency.samples} samples, at least {LEAST_SAMPLES} are needed")
    if seconds < LEAST_SECONDS:
        reasons.append(f"too short: {seconds:.1f} s, at least {LEAST_SECONDS:.0f} s are needed")
    if latency.cv > MOST_CV:
        reasons.append(
            f"unstable: the latency's CV is {100 * latency.cv:.1f} %, "
            f"at most {100 * MOST_CV:.0f} % is allowed"
        )
    if gmacs_after < (1 - MOST_DROP) * gmacs_before:
        reasons.append(
            f"throttled or shared: a matrix product ran at {gmacs_before:.1f} GMAC/s before "
            f"and at {gmacs_after:.1f} after"
        )
    if throttle_events:
        reasons.append(f"throttled: the system counted {throttle_events} throttling events")
    if late_frames:
        reasons.append(
            f"too fast: {late_frames} of {latency.samples} frames came while the one before "
            "was still being worked on"
        )
    return tuple(reasons)
