"""A camera whose frames a program pushes, as callbacks of ROS and GStreamer have them.

    source = PushSource((720, 1280))

    def on_image(message):  # sensor_msgs/Image, rgb8
        pixels = np.frombuffer(message.data, np.uint8)
        frame = pixels.reshape(message.height, message.width, 3)
        stamp = message.header.stamp
        source.push(frame, stamp.sec * 10**9 + stamp.nanosec)

What a GStreamer appsink gives has a time of the pipeline's clock. The age of a buffer is the same
on every clock:

    running_ns = pipeline.get_clock().get_time() - pipeline.get_base_time()
    source.push(frame, time.time_ns() - (running_ns - buffer.pts))
"""

import operator
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.pictures import check_frame, check_size
from dsin.runtime.sources.cameras import CapturedFrame, Clock

FARTHEST_NS = 60_000_000_000
"""A frame that seems to be further away in time has a timestamp of another clock."""
STEP_NS = 1_000_000
"""The wall clock was set since the process started where it is so far from `now_ns`."""


class PushSource:
    """A live camera (see Camera) that holds the newest frame pushed to it.

        with PushSource((480, 640)) as source:
            device = Device(source, PacketMaker(encoder), "server:7000", "front", certificates)
            ...
            source.push(frame, time.time_ns())  # from any thread

    `size` is the height and width in pixels of all frames, `fps` the rate at which they will come,
    if it is known. `close` ends the stream once the last frame was taken. Raises FrameError for a
    size that no packet can have.
    """

    clock: Clock = "live"
    start_ns: int | None = None

    def __init__(
        self,
        size: tuple[int, int],
        *,
        fps: float | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        try:
            height, width = map(operator.index, size)
        except (TypeError, ValueError):
            raise FrameError(f"a size is (height, width) in pixels, not {size!r}") from None
        check_size(height, width, "a frame")
        self.size = height, width
        self.fps = fps
        self._wall_ns = wall_ns
        self._changed = threading.Condition()
        self._newest: CapturedFrame | None = None
        self._last_ns = -1
        self._closed = False
        self._captured = self._skipped = 0

    def __enter__(self) -> "PushSource":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def captured(self) -> int:
        """Frames that were pushed."""
        return self._captured

    @property
    def skipped(self) -> int:
        """Frames that were replaced by a newer one before anybody took them."""
        return self._skipped

    @property
    def ended(self) -> bool:
        """True once the source is closed and its last frame was taken."""
        with self._changed:
            return self._closed and self._newest is None

    def push(self, frame: npt.NDArray[Any], captured_ns: int) -> None:
        """Hand over a frame, H×W×3 RGB uint8, in place of one that was not taken yet.

        The frame is copied: its memory may be used again at once. `captured_ns` is when it was
        captured, in nanoseconds since 1970 by the wall clock of this machine, as time.time_ns() and
        ROS's system time have it. It increases from frame to frame. Any thread may push, and none
        ever waits for the encoder or the network.

        Raises FrameError for a frame of another kind or size, or a time of another clock; that
        frame is not sent, and the next one may be pushed. Raises DsinError once the source is
        closed.
        """
        begun_s = time.perf_counter()
        self._check_open()
        check_frame(frame)
        self._check_size(frame)
        timestamp_ns, age_ns = self._time_of(captured_ns)
        taken_s = time.monotonic() - max(0, age_ns) / 1e9
        image = np.array(frame, np.uint8, order="C", copy=True)
        capture_ms = 1000 * (time.perf_counter() - begun_s)
        with self._changed:
            self._check_open()
            if timestamp_ns <= self._last_ns:
                raise FrameError(
                    f"a frame captured {(self._last_ns - timestamp_ns) / 1e6:.3f} ms before the "
                    "newest one: push frames in the order in which they were captured"
                )
            self._last_ns = timestamp_ns
            self._skipped += self._newest is not None
            self._newest = CapturedFrame(self._captured, timestamp_ns, image, taken_s, capture_ms)
            self._captured += 1
            self._changed.notify_all()

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        """As Camera has it."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._closed, timeout_s)
            frame, self._newest = self._newest, None
            return frame

    def close(self) -> None:
        """Take no more frames; the last one can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise DsinError("this push source is closed: open another one")

    def _check_size(self, frame: npt.NDArray[Any]) -> None:
        if frame.shape[:2] != self.size:
            (height, width), (own_height, own_width) = frame.shape[:2], self.size
            raise FrameError(
                f"frame is {width}x{height}, but this source is for {own_width}x{own_height}: "
                "scale it, or make a source of that size"
            )

    def _time_of(self, captured_ns: int) -> tuple[int, int]:
        """The capture time by `now_ns`, which the server's probes ask for, and the age; both in
        nanoseconds. They are the wall clock's unless it was set since the process started."""
        try:
            captured_ns = operator.index(captured_ns)
        except TypeError:
            raise FrameError(
                f"captured_ns is a whole number of nanoseconds, not {captured_ns!r}"
            ) from None
        wall_ns = self._wall_ns()
        age_ns = wall_ns - captured_ns
        if abs(age_ns) > FARTHEST_NS:
            raise FrameError(
                f"captured_ns is {abs(age_ns) / 1e9:.0f} s away from this machine's clock: give "
                "nanoseconds since 1970, as time.time_ns() does"
            )
        step_ns = now_ns() - wall_ns
        return captured_ns + (step_ns if abs(step_ns) > STEP_NS else 0), age_ns
