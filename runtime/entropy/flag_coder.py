"""A map of flags to bytes and back, by probabilities that are learnt on the way.

Flags are coded row by row. What is before a flag in its row and above it, 0 to 2 flags set, is its
context; outside of the map nothing is set. A context that has seen n flags, of which k were set,
gives a set flag the frequency

    f = (2k + 1) · 2**16 div (2n + 2)             at least 1, at most 2**16 - 1

and a flag that is not set the rest; that one comes first: 0 ≤ slot < 2**16 - f. The coder is that
of `dsin.runtime.entropy.rans`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.entropy.rans import TOTAL, pop_step

CONTEXTS = 3

Flags = NDArray[np.bool_]
"""(rows, columns)."""


@kernel()
def _context(flags: NDArray[Any], row: int, column: int) -> int:
    above = row > 0 and flags[row - 1, column]
    before = column > 0 and flags[row, column - 1]
    return int(above) + int(before)


@kernel()
def _set_frequency(seen: NDArray[Any], context: int) -> int:
    """`seen` is (CONTEXTS, 2): how many flags, and how many of them were set."""
    share: int = TOTAL * (2 * seen[context, 1] + 1) // (2 * seen[context, 0] + 2)
    return min(max(share, 1), TOTAL - 1)


@entry_point()
def flag_intervals(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Start and frequency of each flag, (n, 2), in coding order."""
    rows, columns = flags.shape
    intervals = np.empty((rows * columns, 2), np.int64)
    seen = np.zeros((CONTEXTS, 2), np.int64)
    for row in range(rows):
        for column in range(columns):
            context = _context(flags, row, column)
            frequency = _set_frequency(seen, context)
            at = row * columns + column
            if flags[row, column]:
                intervals[at, 0], intervals[at, 1] = TOTAL - frequency, frequency
            else:
                intervals[at, 0], intervals[at, 1] = 0, TOTAL - frequency
            seen[context, 0] += 1
            seen[context, 1] += flags[row, column]
    return intervals


@entry_point()
def pop_flags(
    data: NDArray[np.uint8], position: int, state: int, flags: NDArray[np.bool_]
) -> tuple[int, int]:
    """Decode all flags: where the coder stands then, and its state.

    Stops early once the payload has run out.
    """
    rows, columns = flags.shape
    seen = np.zeros((CONTEXTS, 2), np.int64)
    for row in range(rows):
        for column in range(columns):
            context = _context(flags, row, column)
            frequency = _set_frequency(seen, context)
            first = TOTAL - frequency
            if (state & (TOTAL - 1)) >= first:
                flags[row, column] = True
                position, state = pop_step(data, position, state, first, frequency)
            else:
                position, state = pop_step(data, position, state, 0, first)
            if position > data.size:
                return position, state
            seen[context, 0] += 1
            seen[context, 1] += flags[row, column]
    return position, state
