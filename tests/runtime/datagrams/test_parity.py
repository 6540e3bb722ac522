"""Parity: any as many pieces of a block as it has data give the data again."""

from itertools import combinations

import pytest

from dsin.runtime.datagrams.parity import parity_pieces, restored

DATA = [bytes([10 * number + k for k in range(5)]) for number in range(4)]


def test_any_four_of_seven_pieces_give_the_four_of_the_data() -> None:
    pieces = [*DATA, *parity_pieces(DATA, 3)]
    assert {len(piece) for piece in pieces} == {5}
    for chosen in combinations(range(7), 4):
        assert restored({index: pieces[index] for index in chosen}, 4, 3) == DATA
    assert restored(dict(enumerate(pieces)), 4, 3) == DATA


def test_with_fewer_the_first_that_is_missing_is_named() -> None:
    parity = parity_pieces(DATA, 3)
    with pytest.raises(KeyError) as missing:
        restored({0: DATA[0], 3: DATA[3], 4: parity[0]}, 4, 3)
    assert missing.value.args == (1,)
