"""The coder alone: round trips, the format's literal bytes, and what damage does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsin.runtime.entropy import rans
from dsin.runtime.errors import PacketError

FAIR = [16384, 16384, 16384, 16384]
SURE = [65533, 1, 1, 1]


def rows(*frequencies: list[int]) -> NDArray[np.uint16]:
    return np.array(frequencies, np.uint16)


def readable_encode(symbols: list[int], frequencies: list[list[int]]) -> bytes:
    """The format in plain Python, straight from its description."""
    state, refill = 1 << 31, bytearray()
    for symbol, row in reversed(list(zip(symbols, frequencies, strict=True))):
        while state >= row[symbol] << 23:
            refill.append(state % 256)
            state //= 256
        state = (state // row[symbol]) * 65536 + sum(row[:symbol]) + state % row[symbol]
    return state.to_bytes(5, "little") + bytes(reversed(refill))


def readable_decode(payload: bytes, frequencies: list[list[int]]) -> list[int]:
    """Its inverse; raises PacketError or IndexError for anything but an intact payload."""
    state, refill, symbols = int.from_bytes(payload[:5], "little"), list(payload[5:]), []
    for row in frequencies:
        slot, symbol = state % 65536, 0
        while slot >= row[symbol]:
            slot -= row[symbol]
            symbol += 1
        symbols.append(symbol)
        state = row[symbol] * (state // 65536) + slot
        while state < 1 << 31:
            state = state * 256 + refill.pop(0)
    if state != 1 << 31 or refill:
        raise PacketError("not an intact payload")
    return symbols


@st.composite
def messages(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Symbols, each with frequencies anywhere between fair and certain."""
    count = draw(st.integers(2, 9))
    n = draw(st.integers(0, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.dirichlet(np.full(count, draw(st.sampled_from([0.01, 0.3, 10.0]))), n)
    frequencies = 1 + np.floor(weights * (rans.TOTAL - count)).astype(np.int64)
    frequencies[:, 0] += rans.TOTAL - frequencies.sum(axis=1)
    symbols = [rng.choice(count, p=row / rans.TOTAL) for row in frequencies]
    return np.array(symbols, np.uint8), frequencies.astype(np.uint16)


@given(messages())
@settings(deadline=None, max_examples=60)
def test_what_was_encoded_is_decoded(message: tuple[NDArray[np.uint8], NDArray[np.uint16]]) -> None:
    symbols, frequencies = message
    payload = rans.encode(symbols, frequencies)
    assert np.array_equal(rans.decode(payload, frequencies), symbols)
    assert payload == readable_encode(symbols.tolist(), frequencies.tolist())
    assert readable_decode(payload, frequencies.tolist()) == symbols.tolist()
    chosen = np.take_along_axis(frequencies, symbols[:, None].astype(np.intp), 1)
    bits = (rans.FREQUENCY_BITS - np.log2(chosen)).sum()
    assert len(payload) <= bits / 8 * 1.01 + 16


def test_the_bytes_of_a_small_message_never_change() -> None:
    frequencies = rows(FAIR, SURE, FAIR, SURE, [1, 2, 3, 65530], FAIR)
    payload = rans.encode(np.array([3, 0, 1, 2, 1, 0], np.uint8), frequencies)
    assert payload.hex() == "2bc03e001000010000"


def test_an_empty_message_is_the_initial_state() -> None:
    nothing = np.empty((0, 4), np.uint16)
    assert rans.encode(np.empty(0, np.uint8), nothing) == bytes([0, 0, 0, 128, 0])
    assert rans.decode(bytes([0, 0, 0, 128, 0]), nothing).size == 0


def test_rare_symbols_take_two_bytes_each() -> None:
    payload = rans.encode(np.full(1000, 3, np.uint8), rows(*[SURE] * 1000))
    assert len(payload) == 2000 + rans.STATE_BYTES
    assert rans.decode(payload, rows(*[SURE] * 1000)).tolist() == [3] * 1000


@pytest.fixture
def message() -> tuple[bytes, NDArray[np.uint8], NDArray[np.uint16]]:
    rng = np.random.default_rng(5)
    frequencies = rows(*[FAIR, [60000, 5000, 500, 36], [9, 65525, 1, 1]] * 20)
    symbols = np.array([rng.choice(4, p=row / rans.TOTAL) for row in frequencies], np.uint8)
    return rans.encode(symbols, frequencies), symbols, frequencies


def test_every_truncation_is_refused(
    message: tuple[bytes, NDArray[np.uint8], NDArray[np.uint16]],
) -> None:
    payload, _, frequencies = message
    for length in range(len(payload)):
        with pytest.raises(PacketError):
            rans.decode(payload[:length], frequencies)


def test_a_flipped_bit_is_refused_or_makes_another_message(
    message: tuple[bytes, NDArray[np.uint8], NDArray[np.uint16]],
) -> None:
    payload, symbols, frequencies = message
    refused = 0
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            other = rans.decode(bytes(damaged), frequencies)
        except PacketError:
            refused += 1
        else:
            assert not np.array_equal(other, symbols)
            assert rans.encode(other, frequencies) == damaged
    assert refused > 0.5 * 8 * len(payload)


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_foreign_bytes_are_refused_or_a_message(payload: bytes) -> None:
    frequencies = rows(*[[9, 65525, 1, 1], FAIR] * 25)
    try:
        symbols = rans.decode(payload, frequencies)
    except PacketError:
        return
    assert rans.encode(symbols, frequencies) == payload


def test_a_byte_too_many_is_refused(
    message: tuple[bytes, NDArray[np.uint8], NDArray[np.uint16]],
) -> None:
    payload, _, frequencies = message
    with pytest.raises(PacketError, match="damaged"):
        rans.decode(payload + b"\0", frequencies)


@pytest.mark.parametrize("bad", [[0, 32768, 32768], [1, 1, 1], [65535, 65535, 2]])
def test_rows_that_are_no_frequencies_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="sum to 65536"):
        rans.encode(np.zeros(1, np.uint8), rows(bad))


@pytest.mark.parametrize("shape", [(4,), (1, 1), (1, 257), (1, 1, 4)])
def test_what_are_no_rows_of_an_alphabet_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(n, L\) with L in 2..256"):
        rans.encode(np.zeros(1, np.uint8), np.full(shape, 1, np.uint16))


def test_a_symbol_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="below 4"):
        rans.encode(np.array([4], np.uint8), rows(FAIR))


def test_a_step_without_division_is_the_same() -> None:
    rng = np.random.default_rng(0)
    frequencies = [1, 2, 3, 255, 256, 32767, 32768, 65535, *rng.integers(1, 1 << 16, 40)]
    stacks = np.zeros((2, 16), np.uint8)
    for frequency in map(int, frequencies):
        (reciprocal,) = rans.reciprocals(np.array([frequency], np.uint16))
        # Where a quotient that is a little too large or small would show, up to the largest state.
        most = (rans.STATE_END - 1) // frequency * frequency
        edges = [
            frequency << 23,
            frequency << 22,
            most,
            (rans.INITIAL_STATE // frequency + 1) * frequency,
        ]
        states = [state + away for state in edges for away in (-1, 0, 1)]
        for state in [*states, *rng.integers(rans.INITIAL_STATE, rans.STATE_END, 10)]:
            if not rans.INITIAL_STATE <= state < rans.STATE_END:
                continue
            step = 3, int(state), rans.TOTAL - frequency, frequency
            assert rans.push_fast(stacks[0], *step, reciprocal) == rans.push_step(stacks[1], *step)
            np.testing.assert_array_equal(*stacks)
