"""Frames that a program pushes: the newest one wins, nobody waits, wrong ones are refused."""

import contextlib
import threading
import time
from typing import Any

import numpy as np
import pytest

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.pictures import Image
from dsin.runtime.sources.push_source import PushSource

SIZE = (16, 24)


def grey(value: int) -> Image:
    return np.full((*SIZE, 3), value, np.uint8)


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    with PushSource(SIZE) as source:
        times = [time.time_ns() + number for number in range(3)]
        for number, captured_ns in enumerate(times):
            source.push(grey(number), captured_ns)
        frame = source.newest(0)
        assert frame is not None
        assert (frame.number, frame.timestamp_ns) == (2, times[2])
        np.testing.assert_array_equal(frame.image, grey(2))
        assert source.newest(0) is None
        assert (source.captured, source.skipped) == (3, 2)


def test_the_memory_of_a_frame_may_be_used_again() -> None:
    with PushSource(SIZE) as source:
        buffer = grey(1)
        source.push(buffer[:, ::-1], time.time_ns())
        buffer[:] = 9
        frame = source.newest(0)
        assert frame is not None
        np.testing.assert_array_equal(frame.image, grey(1))
        assert frame.image.flags.c_contiguous


def test_the_last_frame_can_be_taken_after_the_end() -> None:
    source = PushSource(SIZE)
    source.push(grey(0), time.time_ns())
    source.close()
    assert not source.ended
    assert source.newest(0) is not None
    assert source.ended
    with pytest.raises(DsinError, match="this push source is closed: open another one"):
        source.push(grey(1), time.time_ns())


def test_closing_ends_a_wait() -> None:
    source = PushSource(SIZE)
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(source.newest(60)))
    waiting.start()
    source.close()
    waiting.join(10)
    assert got == [None]


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (np.zeros((16, 24), np.uint8), "16x24 uint8: an 8-bit colour image is needed"),
        (np.zeros((16, 24, 4), np.uint8), "16x24x4 uint8"),
        (np.zeros((16, 24, 3), np.float32), "float32"),
        ([[1, 2, 3]], "of type list"),
        (np.zeros((24, 16, 3), np.uint8), "frame is 16x24, but this source is for 24x16: scale it"),
    ],
)
def test_a_frame_of_another_kind_is_refused_and_the_next_one_taken(frame: Any, told: str) -> None:
    with PushSource(SIZE) as source:
        with pytest.raises(FrameError, match=told):
            source.push(frame, time.time_ns())
        source.push(grey(1), time.time_ns())
        assert source.captured == 1


@pytest.mark.parametrize(
    ("captured_ns", "told"),
    [
        (1.5, "a whole number of nanoseconds, not 1.5"),
        (True, "give nanoseconds since 1970"),
        (None, "a whole number"),
        (0, "give nanoseconds since 1970"),
        (time.monotonic_ns(), "away from this machine's clock"),
        (2**63, "away from this machine's clock"),
    ],
    ids=["fraction", "bool", "none", "zero", "monotonic", "later"],
)
def test_a_time_of_another_clock_is_refused(captured_ns: Any, told: str) -> None:
    with PushSource(SIZE) as source, pytest.raises(FrameError, match=told):
        source.push(grey(0), captured_ns)


def test_frames_come_in_the_order_of_their_times() -> None:
    with PushSource(SIZE) as source:
        captured_ns = time.time_ns()
        source.push(grey(0), captured_ns)
        for earlier in (captured_ns, captured_ns - 5_000_000):
            with pytest.raises(FrameError, match="in the order in which they were captured"):
                source.push(grey(1), earlier)
        source.push(grey(2), captured_ns + 1)
        frame = source.newest(0)
        assert frame is not None
        assert (frame.number, int(frame.image[0, 0, 0])) == (1, 2)


def test_a_frame_is_as_old_as_it_says() -> None:
    with PushSource(SIZE) as source:
        source.push(grey(0), time.time_ns() - 2_000_000_000)
        frame = source.newest(0)
        assert frame is not None
        assert time.monotonic() - frame.taken_s >= 2.0


def test_a_wall_clock_that_was_set_does_not_move_the_time_that_the_server_sees() -> None:
    """The server asks for `now_ns`, which goes on as before."""
    hour_ns = 3_600_000_000_000
    with PushSource(SIZE, wall_ns=lambda: time.time_ns() + hour_ns) as source:
        before = now_ns()
        source.push(grey(0), time.time_ns() + hour_ns)
        frame = source.newest(0)
        assert frame is not None
        # Between the three readings of clocks the machine may have done something else.
        assert abs(frame.timestamp_ns - before) < hour_ns // 60


@pytest.mark.parametrize(
    ("size", "reason"),
    [((0, 24), "24x0 is empty"), ((16, 70_000), "larger than 65535"), ((4097, 4096), "has more")],
)
def test_a_size_that_no_packet_can_have_is_refused(size: Any, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        PushSource(size)


@pytest.mark.parametrize("size", [(1.5, 24), ("16", "24"), (16, 24, 3), None])
def test_a_size_is_two_whole_numbers(size: Any) -> None:
    with pytest.raises(FrameError, match=r"a size is \(height, width\) in pixels"):
        PushSource(size)


def test_many_threads_may_push() -> None:
    taken: list[int] = []
    with PushSource(SIZE) as source:

        def push_some() -> None:
            for _ in range(50):
                with contextlib.suppress(FrameError):  # another thread was quicker
                    source.push(grey(0), time.time_ns())

        threads = [threading.Thread(target=push_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if (frame := source.newest(0.001)) is not None:
                taken.append(frame.number)
        left = source.newest(0)
        taken += [] if left is None else [left.number]
    assert taken == sorted(set(taken))
    assert taken[-1] == source.captured - 1
    assert len(taken) + source.skipped == source.captured
