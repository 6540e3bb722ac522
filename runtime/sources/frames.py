"""Frames in time: how many there are, when they were taken, at which rate."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Protocol

from dsin.runtime.errors import FrameError

StereoSide = Literal["left", "right"]
"""Of a pair of cameras: the left view is x, to be coded; the right view is y, the side image."""

SYNTHETIC_FRAMES = 20
"""Frames of the synthetic rig if nobody says how many."""
FRAME_INTERVAL_NS = 100_000_000
"""Between frames of sources without timestamps: 10 per second, as KITTI's cameras."""

SAME_MOMENT_NS = 50_000_000
"""Pictures that are further apart than this, or than half the time between two frames, are not of
the same moment."""


class Timed(Protocol):
    """Whatever has numbered moments: frame sources and recordings."""

    def __len__(self) -> int: ...

    def timestamp_ns(self, number: int) -> int:
        """Nanoseconds, increasing with the number."""


def frames_per_second(source: Timed) -> float:
    """The rate at which a source's frames were taken, from its timestamps."""
    count = len(source)
    span = source.timestamp_ns(count - 1) - source.timestamp_ns(0)
    return 1e9 * (count - 1) / span if span > 0 else 1e9 / FRAME_INTERVAL_NS


def limited(available: int, wanted: int | None) -> int:
    """How many frames to take: `wanted`, or all if there are fewer; FrameError for less than 1."""
    if wanted is not None and wanted < 1:
        raise FrameError(f"{wanted} frames: ask for at least one")
    return available if wanted is None else min(wanted, available)


def regular_times(count: int) -> tuple[int, ...]:
    """Timestamps of frames that came without any, in nanoseconds from 0."""
    return tuple(number * FRAME_INTERVAL_NS for number in range(count))


def tolerance_ns(times_ns: Sequence[int]) -> int:
    """How far a picture of the other camera may be from one of these and be of its moment."""
    gaps = [later - earlier for earlier, later in pairwise(times_ns)]
    return min(SAME_MOMENT_NS, int(statistics.median(gaps)) // 2) if gaps else SAME_MOMENT_NS


def paired_in_time(left_ns: Sequence[int], right_ns: Sequence[int]) -> list[tuple[int, int]]:
    """Places of the left times that have a right one of the same moment, with the place of that.

    Both are in increasing order. Of several right ones the nearest counts.
    """
    most_ns, place, found = tolerance_ns(left_ns), 0, []
    for number, moment in enumerate(left_ns):
        while place + 1 < len(right_ns) and abs(right_ns[place + 1] - moment) <= abs(
            right_ns[place] - moment
        ):
            place += 1
        if right_ns and abs(right_ns[place] - moment) <= most_ns:
            found.append((number, place))
    return found
