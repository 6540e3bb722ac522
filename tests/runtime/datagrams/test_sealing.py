"""Datagrams are taken once, from the other end of the session only, however they were treated."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.datagrams.sealing import (
    FORGED,
    MALFORMED,
    MAX_BYTES,
    MAX_CONTENT,
    MAX_SEQUENCE,
    REPEATED,
    STALE,
    UNKNOWN,
    WINDOW,
    Opener,
    RejectedError,
    ReplayWindow,
    Sealer,
    new_key,
)
from dsin.runtime.errors import StreamError

KEY = new_key()


def reason_of(opener: Opener, datagram: bytes) -> str | None:
    try:
        opener.open(datagram)
    except RejectedError as error:
        return error.reason
    return None


def test_the_largest_content_makes_the_largest_datagram_and_comes_back() -> None:
    content = bytes(range(256)) * 4 + bytes(MAX_CONTENT - 1024)
    _, datagram = Sealer(7, KEY).seal(content)
    assert len(datagram) == MAX_BYTES
    assert content[:256] not in datagram
    assert Opener(7, KEY).open(datagram) == content


def test_sequence_numbers_never_repeat_and_end() -> None:
    sealer = Sealer(7, KEY)
    assert [sealer.seal(b"a")[0] for _ in range(3)] == [0, 1, 2]
    assert sealer.seal(b"a")[1] != sealer.seal(b"a")[1]
    sealer._next = MAX_SEQUENCE
    opener = Opener(7, KEY)
    assert opener.open(sealer.seal(b"last")[1]) == b"last"
    with pytest.raises(StreamError, match="connect again"):
        sealer.seal(b"one more")


@given(st.lists(st.integers(0, 2 * WINDOW), max_size=300))
def test_each_datagram_is_taken_once_in_any_order_unless_it_is_too_old(order: list[int]) -> None:
    window, seen = ReplayWindow(), set()
    for sequence in order:
        newest = max(seen, default=-1)
        if newest - sequence >= WINDOW or sequence in seen:
            reason = STALE if newest - sequence >= WINDOW else REPEATED
            with pytest.raises(RejectedError, match=reason):
                window.check(sequence)
            continue
        window.check(sequence)
        window.add(sequence)
        seen.add(sequence)
    assert (window.highest, window.received) == (max(seen, default=-1), len(seen))
    assert window._bits < 1 << WINDOW


@given(st.integers(0, 10_000), st.integers(1, 255), st.binary(min_size=1, max_size=50))
def test_a_datagram_that_was_altered_anywhere_is_refused(
    place: int, change: int, content: bytes
) -> None:
    datagram = bytearray(Sealer(7, KEY).seal(content)[1])
    datagram[place % len(datagram)] ^= change
    opener = Opener(7, KEY)
    assert reason_of(opener, bytes(datagram)) in (FORGED, UNKNOWN)
    datagram[place % len(datagram)] ^= change
    assert opener.open(bytes(datagram)) == content  # the forged one has left no trace


@given(st.binary(max_size=MAX_BYTES + 50))
def test_garbage_is_refused(garbage: bytes) -> None:
    assert reason_of(Opener(7, KEY), garbage) in (MALFORMED, UNKNOWN, FORGED)


def test_replayed_old_and_foreign_datagrams_are_told_apart() -> None:
    sealer, opener = Sealer(7, KEY), Opener(7, KEY)
    datagrams = [sealer.seal(bytes([n % 256]))[1] for n in range(WINDOW + 1)]
    reasons = Counter(reason_of(opener, datagrams[n]) for n in (1, 1, WINDOW, 1, 0))
    assert reasons == {None: 2, REPEATED: 2, STALE: 1}
    assert reason_of(opener, Sealer(8, KEY).seal(b"a")[1]) == UNKNOWN


def test_the_other_direction_has_a_key_of_its_own() -> None:
    _, reflected = Sealer(7, KEY).seal(b"a")
    assert reason_of(Opener(7, new_key()), reflected) == FORGED
