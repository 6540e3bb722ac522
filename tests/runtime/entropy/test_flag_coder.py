"""Maps of flags: what goes in comes out, cheaply where flags are rare or lie together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_integer_coder import TABLES

from dsin.runtime.entropy.flag_coder import flag_intervals
from dsin.runtime.entropy.integer_coder import IntegerDecoder, encode_integers
from dsin.runtime.entropy.rans import STATE_BYTES, TOTAL
from dsin.runtime.errors import PacketError

NOTHING = np.zeros(0, np.int32), np.zeros(0, np.uint8)
maps = arrays.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@settings(max_examples=60, deadline=None)
@given(maps, st.lists(st.integers(-300, 300), max_size=20))
def test_flags_and_the_values_behind_them_come_back(flags: np.ndarray, items: list[int]) -> None:
    values, choice = np.array(items, np.int32), np.full(len(items), 5, np.uint8)
    decoder = IntegerDecoder(TABLES, encode_integers(TABLES, values, choice, flags))
    np.testing.assert_array_equal(decoder.take_flags(flags.shape), flags)
    np.testing.assert_array_equal(decoder.take(choice), values)
    decoder.close()


def test_the_first_intervals_are_those_of_the_definition() -> None:
    flags = np.array([[False, True], [True, False]])
    # Contexts 0, 0, 0, 2: of 0 flags, of 1 of which 0 are set, of 2 of which 1 is set, of 0.
    half, quarter = TOTAL // 2, TOTAL // 4
    expected = [(0, half), (TOTAL - quarter, quarter), (half, half), (0, half)]
    assert [tuple(row) for row in flag_intervals(flags)] == expected


@pytest.mark.parametrize(("rows", "columns"), [(12, 40), (128, 128)])
def test_a_map_of_one_kind_costs_a_few_bytes(rows: int, columns: int) -> None:
    for flags in (np.zeros((rows, columns), np.bool_), np.ones((rows, columns), np.bool_)):
        assert len(encode_integers(TABLES, *NOTHING, flags)) <= STATE_BYTES + 4
        cell = flags.copy()
        cell[4:6, 6:8] = ~cell[4:6, 6:8]
        assert len(encode_integers(TABLES, *NOTHING, cell)) <= STATE_BYTES + 10


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 20), st.integers(0, 20))
def test_foreign_bytes_are_refused_or_decode_to_themselves(
    payload: bytes, rows: int, columns: int
) -> None:
    try:
        decoder = IntegerDecoder(TABLES, payload)
        flags = decoder.take_flags((rows, columns))
        decoder.close()
    except PacketError:
        return
    assert encode_integers(TABLES, *NOTHING, flags) == payload
