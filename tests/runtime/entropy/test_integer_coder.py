"""Integers under Gaussian tables: what goes in comes out, at the price that the tables say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.calibration.scale_tables import gaussian_tables
from dsin.runtime.entropy.integer_coder import IntegerDecoder, ScaleTables, encode_integers
from dsin.runtime.errors import BundleError, PacketError

SCALES = np.geomspace(0.11, 32, 64)
TABLES = gaussian_tables(SCALES)


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values that follow their tables."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(0, len(SCALES), count).astype(np.uint8)
    return np.rint(rng.normal(0, SCALES[choice])).astype(np.int32), choice


def test_tables_are_gaussians_as_far_as_their_least_frequency_reaches() -> None:
    """In 65,536ths, from -reach to reach and then what is beyond; 38.292 % within half a sigma."""
    tables = gaussian_tables(np.array([0.3, 1.0])).to_arrays()
    assert tables["reach"].tolist() == [1, 5]
    assert tables["frequencies"].tolist() == [
        *(3132, 59271, 3132, 1),
        *(1, 15, 392, 3971, 15842, 25093, 15842, 3971, 392, 15, 1, 1),
    ]


def decoded(payload: bytes, *choices: np.ndarray) -> list[np.ndarray]:
    decoder = IntegerDecoder(TABLES, payload)
    parts = [decoder.take(choice) for choice in choices]
    decoder.close()
    return parts


def test_a_round_trip_in_parts() -> None:
    values, choice = drawn(5000)
    payload = encode_integers(TABLES, values, choice)
    first, second = decoded(payload, choice[:1234], choice[1234:])
    np.testing.assert_array_equal(np.concatenate([first, second]), values)


def test_the_payload_costs_what_the_tables_say_and_that_is_the_entropy() -> None:
    values, choice = drawn(200_000)
    bits = 8 * len(encode_integers(TABLES, values, choice))
    assert bits == pytest.approx(TABLES.bits(values, choice), rel=1e-4, abs=50)
    density = np.exp(-((values / SCALES[choice]) ** 2) / 2) / SCALES[choice] / np.sqrt(2 * np.pi)
    wide = SCALES[choice] > 2  # where the density is the probability of an integer
    ideal = -np.log2(density[wide]).sum()
    assert TABLES.bits(values[wide], choice[wide]) == pytest.approx(ideal, rel=5e-3)


def test_certain_symbols_cost_next_to_nothing() -> None:
    zeros = np.zeros(200_000, np.int32)
    assert len(encode_integers(TABLES, zeros, zeros.astype(np.uint8))) < 60


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**15), 2**15 - 1), st.integers(0, len(SCALES) - 1))))
def test_any_16_bit_integer_under_any_table(items: list[tuple[int, int]]) -> None:
    values = np.array([value for value, _ in items], np.int32)
    choice = np.array([table for _, table in items], np.uint8)
    (found,) = decoded(encode_integers(TABLES, values, choice), choice)
    np.testing.assert_array_equal(found, values)


def test_what_does_not_fit_is_refused() -> None:
    one = np.zeros(1, np.uint8)
    with pytest.raises(ValueError, match="16 bits"):
        encode_integers(TABLES, np.array([2**15], np.int32), one)
    with pytest.raises(ValueError, match="no table 64"):
        encode_integers(TABLES, np.zeros(1, np.int32), one + np.uint8(64))
    for choice in (one.astype(np.int32), one[None]):
        with pytest.raises(ValueError, match="the numbers of tables as uint8"):
            encode_integers(TABLES, np.zeros(1, np.int32), choice)
    with pytest.raises(ValueError, match="tables for"):
        encode_integers(TABLES, np.zeros(2, np.int32), one)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_foreign_bytes_are_refused_or_decode_to_themselves(payload: bytes, count: int) -> None:
    choice = (np.arange(count) % len(SCALES)).astype(np.uint8)
    try:
        (values,) = decoded(payload, choice)
    except PacketError:
        return
    assert encode_integers(TABLES, values, choice) == payload


def test_every_cut_and_every_flipped_bit_of_the_last_bytes_is_noticed() -> None:
    values, choice = drawn(300, seed=1)
    payload = encode_integers(TABLES, values, choice)
    for length in range(len(payload)):
        with pytest.raises(PacketError):
            decoded(payload[:length], choice)
    with pytest.raises(PacketError):
        decoded(payload + b"\0", choice)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda a: a.pop("reach"), "are missing"),
        (lambda a: a.update(reach=a["reach"].astype(np.int64)), "wrong type"),
        (lambda a: a.update(reach=a["reach"][None]), "wrong shape"),
        (lambda a: a.update(reach=a["reach"] - 99), "reach beyond"),
        (lambda a: a.update(frequencies=a["frequencies"][1:]), "wrong size"),
        (lambda a: a.update(frequencies=a["frequencies"] * 0), "impossible symbol"),
        (lambda a: a.update(frequencies=a["frequencies"] | 1), "do not sum"),
    ],
)
def test_tables_of_a_hostile_bundle_are_refused(spoil: object, problem: str) -> None:
    arrays = {name: array.copy() for name, array in TABLES.to_arrays().items()}
    assert callable(spoil)
    spoil(arrays)
    with pytest.raises(BundleError, match=problem):
        ScaleTables.from_arrays(arrays)
