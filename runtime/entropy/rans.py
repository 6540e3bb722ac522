"""rANS: symbols to bytes and back, given the integer frequencies of every symbol.

After Duda, "Asymmetric numeral systems" (arXiv:1311.2540), the range variant with a single state.
The coder knows no model: each symbol comes with its own row of L frequencies, all at least 1, that
sum to 2**16. Any engine that yields the same rows yields the same bytes.

    payload
    byte 0..4    state after the last encoding step, little-endian, 2**31 <= state < 2**39
    byte 5..     refill bytes, in the order in which the decoder takes them

Decoding a symbol s whose frequencies before it sum to `start`:

    slot  = state mod 2**16                       start <= slot < start + frequency[s]
    state = frequency[s] * (state div 2**16) + slot - start
    while state < 2**31:  state = 256 * state + next byte

The encoder runs the same steps backwards from the last symbol, starting at state 2**31. So an
intact payload leaves the decoder at exactly 2**31 with no byte to spare; any other ending is
refused. That costs 4 bytes. It catches every cut, and all but about one in 2**31 of random bytes,
but it is no checksum: the payload of a similar message may differ by a single bit. What decodes
at all, encodes to the very same bytes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dsin.runtime.compiled import entry_point, kernel
from dsin.runtime.errors import PacketError

FREQUENCY_BITS = 16
TOTAL = 1 << FREQUENCY_BITS
"""Sum of the frequencies of one symbol."""
INITIAL_STATE = 1 << 31
"""State of an encoder before its first symbol, and least state between two symbols."""
STATE_END = INITIAL_STATE << 8
STATE_BYTES = 5


@entry_point()
def push_all(symbols: NDArray[Any], frequencies: NDArray[Any], stack: NDArray[Any]) -> int:
    """Encode symbols (n,) from the last to the first; return how many bytes `stack` got.

    The stack (uint8, 2 n + 5) read from its top is the payload.
    """
    state = INITIAL_STATE
    size = 0
    for i in range(symbols.size - 1, -1, -1):
        symbol = symbols[i]
        start = 0
        for s in range(symbol):
            start += np.int64(frequencies[i, s])
        frequency = np.int64(frequencies[i, symbol])
        while state >= frequency << 23:  # 2**39 / 2**16: the step below would leave the range
            stack[size] = state & 255
            state >>= 8
            size += 1
        state = (state // frequency << FREQUENCY_BITS) + state % frequency + start
    for byte in range(STATE_BYTES - 1, -1, -1):
        stack[size] = (state >> (8 * byte)) & 255
        size += 1
    return size


@kernel()
def push_step(
    stack: NDArray[Any], size: int, state: int, start: int, frequency: int
) -> tuple[int, int]:
    """One step of the encoder: the new size of the stack, and the new state."""
    while state >= frequency << 23:  # 2**39 / 2**16: the step below would leave the range
        stack[size] = state & 255
        state >>= 8
        size += 1
    # Neither is negative, which spares half of what a division in Python takes.
    whole = np.int64(np.uint64(state) // np.uint64(frequency))
    return size, (whole << FREQUENCY_BITS) + (state - whole * frequency) + start


@intrinsic  # type: ignore[untyped-decorator]
def _high_product(_typing: Any, _a: Any, _b: Any) -> Any:
    """The upper half of the product of two uint64."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(each, wide) for each in args))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


def reciprocals(frequencies: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """For `push_fast`: ceil(2**63 / frequency) of frequencies (n,), at least 1."""
    each = frequencies.astype(np.uint64)
    found: NDArray[np.uint64] = (np.uint64((1 << 63) - 1) + each) // each
    return found


@kernel()
def push_fast(
    stack: NDArray[Any], size: int, state: int, start: int, frequency: int, reciprocal: int
) -> tuple[int, int]:
    """As `push_step`, in half the time: with a product instead of the division. It is the same,
    since state * (reciprocal * frequency - 2**63) < 2**39 * 2**16 is less than 2**63."""
    while state >= frequency << 23:
        stack[size] = state & 255
        state >>= 8
        size += 1
    whole = np.int64(_high_product(np.uint64(state) << np.uint64(1), np.uint64(reciprocal)))
    return size, state + whole * (TOTAL - frequency) + start


@kernel()
def pop_step(
    data: NDArray[Any], position: int, state: int, start: int, frequency: int
) -> tuple[int, int]:
    """One step of the decoder, once the symbol is known: the new position and state."""
    state = frequency * (state >> FREQUENCY_BITS) + (state & (TOTAL - 1)) - start
    while state < INITIAL_STATE:
        state <<= 8
        if position < data.size:
            state |= np.int64(data[position])
        position += 1
    return position, state


@kernel()
def pop(
    payload: NDArray[Any], position: int, state: int, frequencies: NDArray[Any]
) -> tuple[int, int, int]:
    """Decode one symbol with its frequencies (L,): (symbol, position, state).

    Past the end of the payload the bytes are zeros and the position goes on counting, so no
    payload can make it read elsewhere; `is_intact` tells in the end.
    """
    slot = state & (TOTAL - 1)
    symbol = 0
    frequency = np.int64(frequencies[0])
    while slot >= frequency and symbol < frequencies.size - 1:
        slot -= frequency
        symbol += 1
        frequency = np.int64(frequencies[symbol])
    state = frequency * (state >> FREQUENCY_BITS) + slot
    while state < INITIAL_STATE:
        state <<= 8
        if position < payload.size:
            state |= np.int64(payload[position])
        position += 1
    return symbol, position, state


@entry_point()
def _pop_all(
    payload: NDArray[Any], state: int, frequencies: NDArray[Any], symbols: NDArray[Any]
) -> tuple[int, int]:
    position = STATE_BYTES
    for i in range(symbols.size):
        symbols[i], position, state = pop(payload, position, state, frequencies[i])
        if position > payload.size:
            break
    return position, state


def encode(symbols: NDArray[np.uint8], frequencies: NDArray[np.uint16]) -> bytes:
    """Payload of symbols (n,), 0..L-1, with frequencies (n, L).

    Raises ValueError for rows that are not frequencies, or a symbol without a frequency.
    """
    _check(frequencies)
    if symbols.shape != frequencies.shape[:1] or np.any(symbols >= frequencies.shape[1]):
        raise ValueError(f"expected {len(frequencies)} symbols below {frequencies.shape[1]}")
    stack = np.empty(2 * symbols.size + STATE_BYTES, np.uint8)
    size = push_all(np.ascontiguousarray(symbols), np.ascontiguousarray(frequencies), stack)
    return stack[:size][::-1].tobytes()


def decode(payload: bytes, frequencies: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Symbols (n,) of a payload, given the frequencies (n, L) that it was made with.

    Raises PacketError for a payload that is cut, altered, or has bytes to spare.
    """
    _check(frequencies)
    data, state = open_payload(payload)
    symbols = np.empty(len(frequencies), np.uint8)
    position, state = _pop_all(data, state, np.ascontiguousarray(frequencies), symbols)
    close_payload(data, position, state)
    return symbols


def open_payload(payload: bytes) -> tuple[NDArray[np.uint8], int]:
    """The payload as an array, and the state that it starts with.

    Raises PacketError where there is no valid state.
    """
    state = int.from_bytes(payload[:STATE_BYTES], "little")
    if len(payload) < STATE_BYTES or not INITIAL_STATE <= state < STATE_END:
        raise PacketError("the payload does not start with a coder state: send the packet again")
    return np.frombuffer(bytes(payload), np.uint8), state


def close_payload(data: NDArray[np.uint8], position: int, state: int) -> None:
    """Check how decoding ended. Raises PacketError unless every byte was used, and no more."""
    if position != data.size or state != INITIAL_STATE:
        raise PacketError("the payload is damaged or belongs to another model: send it again")


def _check(frequencies: NDArray[np.uint16]) -> None:
    if frequencies.ndim != 2 or not 2 <= frequencies.shape[1] <= 256:
        raise ValueError("expected frequencies of shape (n, L) with L in 2..256")
    sums = frequencies.sum(axis=1, dtype=np.int64)
    if np.any(frequencies < 1) or np.any(sums != TOTAL):
        raise ValueError(f"frequencies must be at least 1 and sum to {TOTAL}")
