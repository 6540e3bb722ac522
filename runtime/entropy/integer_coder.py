"""Integers to bytes and back: each under one of a set of tables, chosen by its scale.

A table is a distribution over -reach..reach and one more symbol, the escape, behind which any other
16-bit integer is written out. Tables are integers, and they come with the bundle, so that no
machine computes them; the coder is that of `dsin.runtime.entropy.rans`, with the same payload.

    entry      0 ... 2·reach        2·reach + 1
    symbol    -reach ... reach      escape: then value + 2**15 as two bytes, high byte first,
                                    each with frequency 256 for every value

The frequencies of a table are at least 1 and sum to 2**16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.entropy.flag_coder import Flags, flag_intervals, pop_flags
from dsin.runtime.entropy.rans import (
    FREQUENCY_BITS,
    INITIAL_STATE,
    STATE_BYTES,
    TOTAL,
    close_payload,
    open_payload,
    pop_step,
    push_fast,
    push_step,
    reciprocals,
)
from dsin.runtime.errors import BundleError, PacketError

MAX_TABLES = 256
MAX_REACH = 4096
HALF_RANGE = 1 << 15
"""Values are -2**15 to 2**15 - 1."""
BYTE = TOTAL >> 8
"""Frequency of each value of an escaped byte."""

Integers = NDArray[np.int32]
Choice = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ScaleTables:
    """`reach` int32 (K,), and `frequencies` uint16, all tables one after the other."""

    reach: NDArray[np.int32]
    frequencies: NDArray[np.uint16]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "ScaleTables":
        """From the arrays `reach` and `frequencies`. Raises BundleError if they are not tables."""
        reach, frequencies = arrays.get("reach"), arrays.get("frequencies")
        problem = _problem(reach, frequencies)
        if problem or reach is None or frequencies is None:
            raise BundleError(f"the tables of scales {problem}: export the bundle again")
        return cls(np.ascontiguousarray(reach), np.ascontiguousarray(frequencies))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Inverse of `from_arrays`."""
        return {"reach": self.reach, "frequencies": self.frequencies}

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Where each table begins in `frequencies`, and where the last one ends, (K + 1,)."""
        return np.concatenate([[0], np.cumsum(2 * self.reach.astype(np.int64) + 2)])

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        """Sum of the frequencies before each entry in its table."""
        before = np.cumsum(self.frequencies, dtype=np.int64) - self.frequencies
        tables = np.repeat(np.arange(len(self.reach)), np.diff(self.first))
        return (before - TOTAL * tables).astype(np.int32)

    @cached_property
    def reciprocals(self) -> NDArray[np.uint64]:
        """Those of the frequencies, for the encoder."""
        return reciprocals(self.frequencies)

    @cached_property
    def costs(self) -> NDArray[np.float32]:
        """What each entry costs in bits, the escape with the value behind it."""
        bits = FREQUENCY_BITS - np.log2(self.frequencies.astype(np.float64))
        bits[self.first[1:] - 1] += 16
        return bits.astype(np.float32)

    def bits(self, values: Integers, choice: Choice) -> float:
        """What the tables say that the values cost; both (n,)."""
        return float(self.entry_bits(values, choice).sum(dtype=np.float64))

    def entry_bits(self, values: Integers, choice: Choice) -> NDArray[np.float32]:
        """The same for each value, (n,)."""
        reach = self.reach[choice]
        escaped = np.abs(values) > reach
        entries = self.first[choice] + np.where(escaped, 2 * reach + 1, values + reach)
        return self.costs[entries]


def encode_integers(
    tables: ScaleTables, values: Integers, choice: Choice, flags: Flags | None = None
) -> bytes:
    """Payload of values (n,), each under the table that `choice` (n,) names; `flags` come first.

    Raises ValueError for a value beyond 16 bits or a table that does not exist.
    """
    _check_choice(tables, choice)
    if values.shape != choice.shape:
        raise ValueError(f"{values.shape} values, but tables for {choice.shape}")
    if values.size and (values.min() < -HALF_RANGE or values.max() >= HALF_RANGE):
        raise ValueError("a value does not fit 16 bits")
    # Without flags their kernel, which takes half a second to compile, is never called.
    ahead = np.empty((0, 2), np.int64) if flags is None else flag_intervals(flags)
    stack = np.empty(6 * values.size + 2 * len(ahead) + STATE_BYTES, np.uint8)
    size = _push_all(
        np.ascontiguousarray(values, np.int32), np.ascontiguousarray(choice), tables.reach,
        tables.first, tables.starts, tables.frequencies, tables.reciprocals, ahead, stack,
    )  # fmt: skip
    return stack[:size][::-1].tobytes()


class IntegerDecoder:
    """Takes the values of a payload part by part, as the tables for them become known.

        decoder = IntegerDecoder(tables, payload)
        first, second = decoder.take(choice), decoder.take(another_choice)
        decoder.close()

    Raises PacketError for bytes that are not such a payload; `close` notices a damaged one.
    """

    def __init__(self, tables: ScaleTables, payload: bytes) -> None:
        self._tables = tables
        self._data, self._state = open_payload(payload)
        self._position = STATE_BYTES

    def take(self, choice: Choice) -> Integers:
        """The next values, int32 (n,), one for each table of `choice` (n,)."""
        tables = self._tables
        _check_choice(tables, choice)
        values = np.empty(choice.size, np.int32)
        self._position, self._state = _pop_all(
            self._data, self._position, self._state, np.ascontiguousarray(choice), tables.reach,
            tables.first, tables.starts, tables.frequencies, values,
        )  # fmt: skip
        if self._position > self._data.size:
            raise PacketError("the payload is cut short or belongs to another model: send it again")
        return values

    def take_flags(self, shape: tuple[int, int]) -> Flags:
        """The next flags, bool of that shape."""
        flags = np.zeros(shape, np.bool_)
        self._position, self._state = pop_flags(self._data, self._position, self._state, flags)
        if self._position > self._data.size:
            raise PacketError("the payload is cut short or belongs to another model: send it again")
        return flags

    def close(self) -> None:
        """Check that the payload ends here. Raises PacketError."""
        close_payload(self._data, self._position, self._state)


@entry_point()
def _push_all(
    values: NDArray[Any], choice: NDArray[Any], reach: NDArray[Any], first: NDArray[Any],
    starts: NDArray[Any], frequencies: NDArray[Any], reciprocals: NDArray[Any],
    ahead: NDArray[Any], stack: NDArray[Any],
) -> int:  # fmt: skip
    """Encode from the last value to the first, then what comes ahead of them, (n, 2) of start and
    frequency; how many bytes the stack got."""
    # One type of each, so that each step is compiled once.
    state, size, byte_frequency = np.int64(INITIAL_STATE), np.int64(0), np.int64(BYTE)
    for i in range(values.size - 1, -1, -1):
        most = np.int64(reach[choice[i]])
        value = np.int64(values[i])
        entry = value + most
        if abs(value) > most:
            written = value + HALF_RANGE
            size, state = push_step(stack, size, state, (written & 255) * BYTE, byte_frequency)
            size, state = push_step(stack, size, state, (written >> 8) * BYTE, byte_frequency)
            entry = 2 * most + 1
        entry += first[choice[i]]
        size, state = push_fast(
            stack, size, state, np.int64(starts[entry]), np.int64(frequencies[entry]),
            reciprocals[entry],
        )  # fmt: skip
    for i in range(len(ahead) - 1, -1, -1):
        size, state = push_step(stack, size, state, ahead[i, 0], ahead[i, 1])
    for byte in range(STATE_BYTES - 1, -1, -1):
        stack[size] = (state >> (8 * byte)) & 255
        size += 1
    return int(size)


@kernel()
def _entry_of(slot: int, low: int, high: int, starts: NDArray[Any]) -> int:
    """The last entry of low..high whose start is at most `slot`: usually the middle one."""
    middle = (low + high - 1) // 2
    if starts[middle] <= slot:
        if slot < starts[middle + 1]:
            return middle
        low = middle + 1
    else:
        high = middle - 1
    while low < high:
        at = (low + high + 1) // 2
        if starts[at] <= slot:
            low = at
        else:
            high = at - 1
    return low


@entry_point()
def _pop_all(
    data: NDArray[Any], position: int, state: int, choice: NDArray[Any], reach: NDArray[Any],
    first: NDArray[Any], starts: NDArray[Any], frequencies: NDArray[Any], values: NDArray[Any],
) -> tuple[int, int]:  # fmt: skip
    for i in range(choice.size):
        most = np.int64(reach[choice[i]])
        low = first[choice[i]]
        entry = _entry_of(state & (TOTAL - 1), low, low + 2 * most + 1, starts)
        position, state = pop_step(
            data, position, state, np.int64(starts[entry]), np.int64(frequencies[entry])
        )
        value = entry - low - most
        if value > most:
            value = -HALF_RANGE
            for place in (BYTE, 1):
                byte = (state & (TOTAL - 1)) // BYTE
                position, state = pop_step(data, position, state, byte * BYTE, np.int64(BYTE))
                value += byte * place
        values[i] = value
        if position > data.size:
            break
    return position, state


def _check_choice(tables: ScaleTables, choice: Choice) -> None:
    if choice.dtype != np.uint8 or choice.ndim != 1:
        raise ValueError("expected the numbers of tables as uint8 (n,)")
    if choice.size and choice.max() >= len(tables.reach):
        raise ValueError(f"there is no table {choice.max()}: there are {len(tables.reach)}")


def _problem(reach: NDArray[Any] | None, frequencies: NDArray[Any] | None) -> str | None:
    """What is wrong with tables of any origin."""
    if reach is None or frequencies is None:
        return "are missing"
    if reach.dtype != np.int32 or frequencies.dtype != np.uint16:
        return "are of the wrong type"
    if reach.ndim != 1 or frequencies.ndim != 1 or not 1 <= reach.size <= MAX_TABLES:
        return "are of the wrong shape"
    if reach.min() < 0 or reach.max() > MAX_REACH:
        return f"reach beyond {MAX_REACH}"
    ends = np.cumsum(2 * reach.astype(np.int64) + 2)
    if ends[-1] != frequencies.size or frequencies.min() < 1:
        return "have the wrong size or an impossible symbol"
    sums = np.add.reduceat(frequencies.astype(np.int64), np.concatenate([[0], ends[:-1]]))
    return None if np.all(sums == TOTAL) else f"do not sum to {TOTAL}"
