"""Tables of rounded Gaussians for `dsin.runtime.entropy.integer_coder`."""

import math

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.entropy.integer_coder import ScaleTables
from dsin.runtime.entropy.rans import TOTAL

TAIL = 2.0**-18
"""Probability beyond the reach of a table, at most: less than the escape's least frequency."""


def gaussian_tables(scales: NDArray[np.float64]) -> ScaleTables:
    """A table for each scale (K,), in steps of the integers."""
    reaches, rows = [], []
    for scale in scales:
        reach = _reach(float(scale))
        edges = np.arange(-reach, reach + 2) - 0.5
        mass = np.diff([_below(edge / scale) for edge in edges])
        reaches.append(reach)
        rows.append(_integers(np.append(mass, max(1 - mass.sum(), 0.0))))
    return ScaleTables.from_arrays(
        {"reach": np.array(reaches, np.int32), "frequencies": np.concatenate(rows)}
    )


def _reach(scale: float) -> int:
    reach = 0
    while 2 * (1 - _below((reach + 0.5) / scale)) > TAIL:
        reach += 1
    return reach


def _below(z: float) -> float:
    """Of the standard normal distribution."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _integers(mass: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Frequencies that sum to TOTAL, each at least 1; the likeliest takes what rounding leaves."""
    counts = np.maximum(np.rint(mass / mass.sum() * TOTAL), 1).astype(np.int64)
    counts[counts.argmax()] += TOTAL - counts.sum()
    return np.asarray(counts, np.uint16)
