"""Cameras of `dsin stream`: sources of frames that give the newest one to whoever asks.

A consumer that is slower than its camera gets the newest frame each time; older ones are skipped
and counted, so no delay builds up:

    camera = open_camera("camera:0")
    while not camera.ended:
        frame = camera.newest(timeout_s=0.5)
        if frame is not None: ...
"""

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import StereoSide, frames_per_second
from dsin.runtime.sources.recordings import Recording, open_recording

Clock = Literal["live", "recording"]
"""Of which kind timestamps are: of a clock that runs now, or those of a recording."""


class CapturedFrame(NamedTuple):
    """A picture, and when it was taken."""

    number: int
    """From 0, always greater than that of the frame before; what lies between was skipped."""
    timestamp_ns: int
    """Of the camera's clock, increasing."""
    image: Image
    """RGB, H×W×3."""
    taken_s: float
    """When the frame existed, as time.monotonic tells it."""
    capture_ms: float
    """What it took to have the picture of a frame that existed: reading, decoding, converting."""


class Camera(Protocol):
    """One camera. `newest` is for one thread at a time; `close` may come from another."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of all frames."""

    @property
    def clock(self) -> Clock:
        """What timestamps count."""

    @property
    def fps(self) -> float | None:
        """Frames per second, if they are known in advance."""

    @property
    def start_ns(self) -> int | None:
        """The time of a recording's first frame; None of a live camera."""

    @property
    def captured(self) -> int:
        """Frames that existed so far: returned, skipped, or about to be."""

    @property
    def skipped(self) -> int:
        """Frames that were never returned because a newer one had come."""

    @property
    def ended(self) -> bool:
        """Whether no more frames will come; never true before the last one was returned."""

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        """The newest frame, once there is a newer one than the last; None after `timeout_s`.

        At the end, None at once. Raises FrameError for a frame that cannot be read.
        """

    def close(self) -> None:
        """Release the camera and end a `newest` that waits. It may be called more than once."""


class PlayedRecording:
    """A recording as if a camera took it now, at `fps`, or at the recorded pace without.

    Frame n exists (t_n - t_0) · recorded fps / fps after the start, which is the first call of
    `newest`, or `start_s` on time.monotonic's clock: two cameras of one rig that are given the same
    start stay together. A start in the past begins with the frame that exists now. Frames that are
    skipped are not read. With `loop`, numbers and timestamps go on increasing in each round, as if
    the recording came again one interval after its end; `frames` ends that, after so many captured
    ones. With `every`, nothing is skipped and each frame exists as soon as it is asked for.
    Timestamps are the recording's, whatever the pace.
    Raises FrameError for a rate that is not above 0, or a first frame that cannot be read.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        fps: float | None = None,
        loop: bool = False,
        every: bool = False,
        frames: int | None = None,
        start_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        recorded = frames_per_second(recording)
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise FrameError(f"{fps} frames per second: ask for more than 0")
        self.clock: Clock = "recording"
        self.fps: float | None = recorded if fps is None else fps
        self.size = recording.size
        self.captured = 0
        self.skipped = 0
        self._recording = recording
        self._frames = frames
        self._loop, self._every, self._start_s = loop, every, start_s
        self._slower = 1.0 if fps is None else recorded / fps
        self._origin_ns = recording.timestamp_ns(0)
        self.start_ns: int | None = self._origin_ns
        self._round_ns = self._offset_ns(len(recording) - 1) + round(1e9 / recorded)
        self._now = now
        self._closed = threading.Event()
        self._wait = self._closed.wait if wait is None else wait
        self._next = 0
        # Some sources are slow to give their first frame: it should not be late when time runs.
        self._first: Image | None = recording.image(0)

    @property
    def ended(self) -> bool:
        return self._next > self._last() or self._closed.is_set()

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        """As Camera has it; FrameError for a file that cannot be read, and then the next one."""
        if self.ended:
            return None
        if self._every:
            return self._take(self._next, self._now())
        if not self._wait_for_next(timeout_s):
            return None
        number = int(min(max(self._next, self._newest_at(self._now())), self._last()))
        return self._take(number, self._exists_s(number))

    def close(self) -> None:
        self._closed.set()

    def _wait_for_next(self, timeout_s: float) -> bool:
        """Whether there is a next frame within that time."""
        self._start()  # before the clock is read: it may begin now
        now = self._now()
        if self.captured == 0:
            self._next = max(0, self._newest_at(now))
        remaining = self._exists_s(self._next) - now
        if remaining > 0:
            self._wait(min(remaining, timeout_s))
        return remaining <= timeout_s and not self._closed.is_set()

    def _take(self, number: int, taken_s: float) -> CapturedFrame:
        skipped = number - self._next
        self.captured += skipped + 1
        self.skipped += skipped
        self._next = number + 1
        begun = self._now()
        image = self._image(number)
        capture_ms = 1000 * (self._now() - begun)
        timestamp_ns = self._origin_ns + self._offset_ns(number)
        return CapturedFrame(number, timestamp_ns, image, taken_s, capture_ms)

    def _image(self, number: int) -> Image:
        first, self._first = self._first, None
        if first is not None and number == 0:
            return first
        return self._recording.image(number % len(self._recording))

    def _offset_ns(self, number: int) -> int:
        """How long after frame 0 a frame was recorded, rounds included."""
        rounds, within = divmod(number, len(self._recording))
        offset = self._recording.timestamp_ns(within) - self._origin_ns
        return offset + (rounds * self._round_ns if rounds else 0)

    def _start(self) -> float:
        if self._start_s is None:
            self._start_s = self._now()
        return self._start_s

    def _exists_s(self, number: int) -> float:
        return self._start() + 1e-9 * self._offset_ns(number) * self._slower

    def _newest_at(self, now: float) -> int:
        """The newest frame that exists at a time; -1 before the start."""
        elapsed_ns = int(1e9 * (now - self._start()) / self._slower)
        if elapsed_ns < 0:
            return -1
        rounds, within_ns = divmod(elapsed_ns, self._round_ns)
        count = len(self._recording)
        if rounds and not self._loop:
            return count - 1
        return rounds * count + bisect_right(range(count), within_ns, key=self._offset_ns) - 1

    def _last(self) -> float:
        """Number of the last frame, infinite where there is none."""
        recorded = math.inf if self._loop else len(self._recording) - 1
        left = math.inf if self._frames is None else self._frames - self.captured
        return min(recorded, self._next + left - 1)


def open_camera(
    spec: str,
    side: StereoSide = "left",
    *,
    fps: float | None = None,
    frames: int | None = None,
    loop: bool = False,
    every: bool = False,
    start_s: float | None = None,
) -> Camera:
    """A live camera (see live_camera) or a recording (see open_recording).

    `side` picks the camera of a stereo recording. `fps` plays a recording at another rate, or asks
    a live camera for one. `frames` ends after so many captured frames, repeated ones included.
    `loop`, `every` and `start_s` are for recordings only: see PlayedRecording. Raises FrameError
    for what cannot be opened.
    """
    from dsin.runtime.sources.capture_device import is_live, shown_name
    from dsin.runtime.sources.live_camera import LiveCamera

    if not is_live(spec):
        # What is repeated may have fewer frames than are wanted.
        recording = open_recording(spec, side, None if loop else frames)
        return PlayedRecording(
            recording, fps=fps, loop=loop, every=every, frames=frames, start_s=start_s
        )
    if loop or every or start_s is not None:
        raise FrameError(
            f"{shown_name(spec)} is a live camera: only recordings can be repeated or paced"
        )
    return LiveCamera(spec, fps=fps, frames=frames)
