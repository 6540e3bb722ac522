"""Which side image a frame is decoded with."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import StreamError
from dsin.runtime.outputs.decoded_frame import SideUse, SideView
from dsin.runtime.server.side_buffer import (
    FIRST_INTERVAL_NS,
    KEPT,
    PREPARED,
    PairingPolicy,
    SideBuffer,
)

MS = 1_000_000
IMAGE = np.zeros((1, 1, 3), np.uint8)
POLICY = PairingPolicy(tolerance_ms=20, wait_ms=50, max_age_ms=300)


def buffer(*times_ms: int, interval_ms: int | None = 100) -> SideBuffer:
    """A buffer with side images of these times, numbered from 0."""
    filled = SideBuffer(POLICY, None if interval_ms is None else interval_ms * MS)
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


def test_a_neighbour_is_not_taken_for_the_partner_however_fast_the_camera_is() -> None:
    fast = buffer(0, 10, 20, interval_ms=None)  # 100 a second, and 20 ms would be tolerated
    assert fast.choose(26 * MS)[1] is SideUse.PREVIOUS
    assert fast.may_come(26 * MS)
    assert fast.choose(24 * MS)[1] is SideUse.PAIRED


def test_the_interval_of_a_camera_is_known_although_it_sends_only_some_of_its_pictures() -> None:
    filled = SideBuffer(POLICY)
    for number in (3, 7, 9):
        filled.add(SideView(IMAGE, number, 0), number * 10 * MS)
    assert filled.tolerance_ns == 5 * MS
    filled.clear()
    assert filled.tolerance_ns == 5 * MS


def test_one_long_pause_or_a_restart_of_the_camera_does_not_widen_a_moment() -> None:
    filled = SideBuffer(POLICY)
    for number, time_ms in ((1, 10), (2, 20), (3, 5000), (4, 5010)):
        filled.add(SideView(IMAGE, number, 0), time_ms * MS)
    assert filled.tolerance_ns == 5 * MS
    filled.add(SideView(IMAGE, 0, 0), 9000 * MS)
    assert filled.tolerance_ns <= POLICY.tolerance_ms * MS


def test_before_the_interval_is_known_only_what_fits_any_camera_is_a_pair() -> None:
    first = buffer(0, interval_ms=None)
    assert first.choose(FIRST_INTERVAL_NS // 2)[1] is SideUse.PAIRED
    assert first.choose(FIRST_INTERVAL_NS // 2 + 1)[1] is SideUse.PREVIOUS
    assert first.may_come(FIRST_INTERVAL_NS)


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
    filled = buffer()
    stored = [filled.add(SideView(IMAGE, n, n), n * 100 * MS) for n in range(2 * KEPT)]
    assert filled.newest is stored[-1]
    assert filled.choose(KEPT * 100 * MS)[0] is stored[KEPT]
    assert filled.choose((KEPT - 1) * 100 * MS)[0] is None
    assert PREPARED <= KEPT


def test_negative_limits_are_refused() -> None:
    with pytest.raises(StreamError, match="wait_ms"):
        PairingPolicy(wait_ms=-1)
