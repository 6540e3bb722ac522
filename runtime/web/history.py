"""The last minute of a rig, for the plots: each decoded frame, and what was lost."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus

SPAN_S = 60.0
MOST_POINTS = 4000
STAGE_FRAMES = 50
"""Frames of which the median time of each stage is taken."""


class FramePoint(NamedTuple):
    """`at_s` is the moment it was decoded, on the monotonic clock."""

    at_s: float
    age_ms: float
    packet_bytes: int
    use: str


class DropPoint(NamedTuple):
    """Counts until a moment; how they grow is what the plot shows."""

    at_s: float
    superseded: int
    rejected: int
    dropped: int
    lost: int


class History:
    """Of one rig. Not for several threads at once."""

    def __init__(self) -> None:
        self._frames: deque[tuple[int, FramePoint]] = deque(maxlen=MOST_POINTS)
        self._drops: deque[tuple[int, DropPoint]] = deque(maxlen=MOST_POINTS)
        self._stages: deque[dict[str, float]] = deque(maxlen=STAGE_FRAMES)
        self.last = 0
        """Number of the newest point of either kind."""

    def add_frame(self, frame: DecodedFrame, at_s: float) -> None:
        """A frame that was decoded."""
        self.last += 1
        point = FramePoint(at_s, frame.age_ms, len(frame.packet), frame.side_use.value)
        self._frames.append((self.last, point))
        self._stages.append(stages_of(frame))
        self._forget(at_s)

    def add_status(self, status: RigStatus, at_s: float) -> None:
        """What was lost until now."""
        self.last += 1
        told = (int(status.device.get(name, 0)) for name in ("dropped", "lost"))
        point = DropPoint(at_s, status.superseded, status.rejected, *told)
        self._drops.append((self.last, point))
        self._forget(at_s)

    def frames_after(self, number: int) -> list[FramePoint]:
        """Those newer than a point."""
        return [point for own, point in self._frames if own > number]

    def drops_after(self, number: int) -> list[DropPoint]:
        """Those newer than a point."""
        return [point for own, point in self._drops if own > number]

    def stage_ms(self) -> dict[str, float]:
        """The median of each stage, in the order in which a frame goes through them."""
        names = dict.fromkeys(name for stages in self._stages for name in stages)
        return {
            name: float(np.median([stages[name] for stages in self._stages if name in stages]))
            for name in names
        }

    def _forget(self, now_s: float) -> None:
        for points in (self._frames, self._drops):
            kept: Sequence[tuple[int, NamedTuple]] = points
            while kept and points[0][1].at_s < now_s - SPAN_S:
                points.popleft()


def stages_of(frame: DecodedFrame) -> dict[str, float]:
    """Milliseconds of the way here, of waiting and of the frame's own stages."""
    way_ms = (frame.received_ns - frame.captured_ns) / 1e6
    server = {name: ms for name, ms in frame.stage_ms.items() if name.startswith("server.")}
    return {
        "way.capture to arrival": max(0.0, way_ms),
        "server.waiting": frame.waited_ms,
        **server,
        **{name: ms for name, ms in frame.stage_ms.items() if name not in server},
    }
