"""Frames come back from any of their pieces that are enough, and from nothing else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.runtime.datagrams.assembly import MOST_OPEN, Assembly
from dsin.runtime.datagrams.parity import FAILURES, MAX_PARITY, parity_needed, parity_pieces
from dsin.runtime.datagrams.pieces import (
    MAX_BODY,
    MESSAGE,
    PIECE,
    PIECE_BYTES,
    Piece,
    PieceError,
    Shape,
    block_sizes,
    cut,
    enough,
    joined,
    packed_body,
    parsed,
    unpacked_body,
    wanting,
)
from dsin.runtime.datagrams.sealing import MAX_CONTENT


def body_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@given(st.integers(1, 40 * PIECE_BYTES), st.integers(0, 6), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_frame_comes_back_once_enough_pieces_of_each_block_came(
    size: int, parity: int, chance: random.Random
) -> None:
    body = body_of(size)
    pieces = cut(7, body, parity)
    chance.shuffle(pieces)
    came: dict[int, bytes] = {}
    for piece in pieces:
        again = parsed(piece.content())
        assert again == piece
        assert len(piece.content()) <= MAX_CONTENT
        came[piece.index] = piece.body
        if enough(piece.shape, list(came)):
            assert joined(piece.shape, came) == body
            break
        assert sum(wanting(piece.shape, list(came))) > 0
    else:
        raise AssertionError("never enough")
    assert len(came) >= pieces[0].shape.data


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=20))
def test_a_body_keeps_what_it_holds(held_us: int, sent_ns: int, packet: bytes) -> None:
    body = packed_body(held_us, sent_ns, packet)
    assert unpacked_body(body) == (held_us, sent_ns, packet)
    assert len(body) == len(packet) + (12 if sent_ns else 4)


@pytest.mark.parametrize("body", [b"", bytes(3), bytes([0, 0, 0, 128]) + bytes(7)])
def test_a_body_that_is_too_short_is_refused(body: bytes) -> None:
    with pytest.raises(PieceError, match="a frame of"):
        unpacked_body(body)


@pytest.mark.parametrize("parity", [0, MAX_PARITY])
def test_the_largest_frame_keeps_within_a_byte_of_pieces(parity: int) -> None:
    body = body_of(MAX_BODY)
    pieces = cut(1, body, parity)
    assert len(pieces) <= 255
    lost = set(range(8)) if parity else set()
    came = {piece.index: piece.body for piece in pieces if piece.index not in lost}
    assert joined(pieces[0].shape, came) == body


def test_the_first_byte_tells_what_a_datagram_holds() -> None:
    """As both ends have it, whatever their versions."""
    assert cut(7, body_of(10), 0)[0].content()[0] == PIECE == 0
    assert MESSAGE == 1


@pytest.mark.parametrize(
    ("blocks", "loss", "parity"),
    [((1,), 0.04, 1), ((1,), 0.1, 2), ((4,), 0.01, 1), ((4,), 0.02, 2), ((4, 4), 0.01, 1)],
)
def test_parity_is_the_least_that_loses_two_frames_in_a_thousand(
    blocks: tuple[int, ...], loss: float, parity: int
) -> None:
    """0.04² of one piece and a copy; 10 · 0.01² · 0.99³ + … of four pieces and one of parity."""
    assert parity_needed(blocks, loss) == parity


def test_parity_is_reed_solomon_of_polynomial_0x11d() -> None:
    """Of the code's definition: root 1 and root 2 of each column, as the page specifies."""
    import reedsolo

    data = [body_of(5, seed) for seed in range(3)]
    columns = list(zip(*(data + parity_pieces(data, 2)), strict=True))
    for column in columns:
        assert reedsolo.rs_check(bytearray(column), 2)
    assert parity_pieces([b"\x01"], 1) == [b"\x01"]
    assert parity_pieces([b"\x01", b"\x00"], 2) == [b"\x07", b"\x06"]


@pytest.mark.parametrize(("size", "least_bytes"), [(1000, 1), (3000, 3), (12000, 11)])
def test_parity_follows_the_loss(size: int, least_bytes: int) -> None:
    blocks = block_sizes(size)
    assert sum(blocks) == least_bytes
    amounts = [parity_needed(blocks, loss) for loss in (0.0, 0.001, 0.05, 0.2, 0.5)]
    assert amounts[0] == 0
    assert amounts == sorted(amounts)
    assert amounts[2] >= 1
    chance = random.Random(size)
    for loss in (0.05, 0.2):
        parity = parity_needed(blocks, loss)
        count, lost = sum(blocks) + parity, 0
        for _ in range(20_000):
            lost += sum(chance.random() < loss for _ in range(count)) > parity
        assert lost / 20_000 < 2 * FAILURES


@given(st.binary(max_size=1200))
def test_garbage_is_no_piece_or_one_within_the_limits(content: bytes) -> None:
    try:
        piece = parsed(content)
    except PieceError:
        return
    assert piece.index < piece.shape.total <= 255


@pytest.mark.parametrize(
    ("data", "total", "fill", "length"),
    [
        (0, 1, 0, 10), (129, 129, 0, 10), (3, 2, 0, 10), (2, 20, 0, 10), (17, 18, 0, 10),
        (2, 2, 2, 10), (2, 2, 0, 0), (2, 2, 0, PIECE_BYTES + 1),
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused(data: int, total: int, fill: int, length: int) -> None:
    with pytest.raises(PieceError):
        Shape(data, total, fill, length)


def test_a_datagram_that_holds_no_piece_says_why() -> None:
    (piece,) = cut(7, b"body", 0)
    content = piece.content()
    assert parsed(content) == piece
    head = len(content) - len(b"body")
    with pytest.raises(PieceError) as refused:
        parsed(content[:head])
    assert str(refused.value) == f"a piece of {head} bytes, header included"
    assert parsed(content[: head + 1]).body == b"b"
    with pytest.raises(PieceError) as refused:
        parsed(bytes([MESSAGE]) + content[1:])
    assert str(refused.value) == f"a datagram of kind {MESSAGE}"


def test_a_piece_outside_its_frame_is_refused() -> None:
    with pytest.raises(PieceError, match="piece 4 of 4"):
        Piece(1, 4, Shape(3, 4, 0, 10), bytes(10))


def test_an_older_frame_is_given_up_when_a_newer_one_is_complete_and_not_before() -> None:
    assembly = Assembly()
    first, second = cut(1, body_of(3000), 0), cut(2, body_of(3000, 2), 0)
    assert assembly.add(first[0]) is None
    assert assembly.add(second[0]) is None
    assert assembly.add(first[1]) is None
    assert assembly.half_done == (2, second[0].shape, [0])
    assert assembly.add(second[1]) is None
    assert assembly.add(second[2]) == body_of(3000, 2)
    assert assembly.add(first[2]) is None, "its time is over"
    assert (assembly.incomplete, assembly.late, assembly.half_done) == (1, 1, None)
    assert assembly.add(second[2]) is None, "not twice"


def test_frames_that_overtake_each_other_while_incomplete_are_both_complete() -> None:
    assembly = Assembly()
    first, second = cut(1, body_of(3000), 0), cut(2, body_of(3000, 2), 0)
    order = [first[0], second[0], first[2], first[1], second[2], second[1]]
    done = [body for piece in order if (body := assembly.add(piece))]
    assert done == [body_of(3000), body_of(3000, 2)]


@pytest.mark.parametrize(("others", "kept"), [(3, True), (4, False)])
def test_four_frames_may_be_incomplete_at_once(others: int, kept: bool) -> None:
    assembly = Assembly()
    first = cut(1, body_of(3000), 0)
    for piece in first[:-1]:
        assembly.add(piece)
    for number in range(2, 2 + others):
        assembly.add(cut(number, body_of(3000), 0)[0])
    assert (assembly.add(first[-1]) == body_of(3000)) == kept


@given(st.lists(st.integers(0, 50), max_size=200))
def test_a_flood_of_half_frames_takes_bounded_memory(numbers: list[int]) -> None:
    assembly = Assembly()
    shape = Shape(2, 2, 0, 10)
    for number in numbers:
        assert assembly.add(Piece(number, 0, shape, bytes(10))) is None
        assert len(assembly._open) <= MOST_OPEN
    assert assembly.incomplete == assembly.in_a_row


def test_pieces_that_contradict_each_other_are_a_fault() -> None:
    assembly = Assembly()
    assembly.add(Piece(1, 0, Shape(2, 2, 0, 10), bytes(10)))
    with pytest.raises(PieceError, match="contradict"):
        assembly.add(Piece(1, 1, Shape(3, 3, 0, 10), bytes(10)))
    with pytest.raises(PieceError, match="contradict"):
        assembly.add(Piece(1, 0, Shape(2, 2, 0, 10), b"0123456789"))


def test_parity_that_completes_a_frame_is_counted() -> None:
    assembly = Assembly()
    body = body_of(3000)
    done = [assembly.add(piece) for piece in cut(1, body, 2)[1:]]
    assert body in done
    assert assembly.repaired == 1
