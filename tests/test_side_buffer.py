"""Which side image a frame is decoded with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import StreamError
from dsin.runtime.rig_frame import SideUse, SideView
from dsin.runtime.side_buffer import KEPT, PREPARED, PairingPolicy, SideBuffer

MS = 1_000_000
IMAGE = np.zeros((1, 1, 3), np.uint8)
POLICY = PairingPolicy(tolerance_ms=20, wait_ms=50, max_age_ms=300)


def buffer(*times_ms: int) -> SideBuffer:
    """A buffer with side images of these times, numbered from 0."""
    filled = SideBuffer(POLICY)
    for number, time_ms in enumerate(times_ms):
        filled.add(SideView(IMAGE, number, time_ms * MS), time_ms * MS)
    return filled


@pytest.mark.parametrize(
    ("sides_ms", "frame_ms", "number", "use"),
    [
        ((0, 100, 200), 100, 1, SideUse.PAIRED),
        ((0, 100, 200), 115, 1, SideUse.PAIRED),
        ((0, 100, 200), 185, 2, SideUse.PAIRED),
        ((0, 100), 200, 1, SideUse.PREVIOUS),
        ((0, 200), 100, 0, SideUse.PREVIOUS),  # never one of the future
        ((0, 100), 401, None, SideUse.MISSING),
        ((500,), 100, None, SideUse.MISSING),
        ((), 100, None, SideUse.MISSING),
    ],
)
def test_a_frame_gets_the_side_image_of_its_moment_or_an_older_one_or_none(
    sides_ms: tuple[int, ...], frame_ms: int, number: int | None, use: SideUse
) -> None:
    chosen, fits = buffer(*sides_ms).choose(frame_ms * MS)
    assert fits is use
    assert (chosen.view.number if chosen else None) == number


def test_a_partner_is_waited_for_only_while_it_may_come() -> None:
    assert buffer().may_come(100 * MS)
    assert buffer(0).may_come(100 * MS)
    assert not buffer(0, 90).may_come(100 * MS)
    assert not buffer(0, 200).may_come(100 * MS)


@given(times=st.lists(st.integers(0, 2000), max_size=12), frame=st.integers(0, 2000))
def test_what_is_chosen_keeps_the_policy(times: list[int], frame: int) -> None:
    chosen, use = buffer(*sorted(times)).choose(frame * MS)
    if chosen is None:
        assert use is SideUse.MISSING
        return
    age_ms = frame - chosen.captured_ns / MS
    if use is SideUse.PAIRED:
        assert abs(age_ms) <= POLICY.tolerance_ms
    else:
        assert POLICY.tolerance_ms < age_ms <= POLICY.max_age_ms


def test_only_the_newest_are_kept() -> None:
    filled = SideBuffer(POLICY)
    stored = [filled.add(SideView(IMAGE, n, n), n) for n in range(2 * KEPT)]
    assert filled.newest is stored[-1]
    assert filled.choose(0)[0] is stored[KEPT]
    assert PREPARED <= KEPT


def test_negative_limits_are_refused() -> None:
    with pytest.raises(StreamError, match="wait_ms"):
        PairingPolicy(wait_ms=-1)
