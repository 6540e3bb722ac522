"""Side cameras that the server has itself: a recording that goes with any moment, or a live one.

`--side SPEC` is for every rig, `--side RIG=SPEC` for one; SPEC is what dsin.runtime.camera opens.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from types import TracebackType

from dsin.runtime.camera import Camera, CapturedFrame
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.frames import frames_per_second
from dsin.runtime.recordings import Recording
from dsin.runtime.rig_frame import SideView

LOG = logging.getLogger(__name__)
POLL_S = 0.25


class RecordedSide:
    """A recording as the side camera of a rig whose camera x plays the same recording.

    It goes on as a looped recording does: one interval after its end it begins again, with numbers
    and timestamps that go on.
    """

    def __init__(self, recording: Recording) -> None:
        self.size = recording.size
        self.interval_ns = round(1e9 / frames_per_second(recording))
        self._recording = recording
        self._times = [recording.timestamp_ns(n) for n in range(len(recording))]
        self._round_ns = self._times[-1] - self._times[0] + self.interval_ns
        self._read: SideView | None = None

    def near(self, paired_ns: int) -> SideView | None:
        """The view nearest to that moment, if there is one within half an interval. Raises
        FrameError for a picture that cannot be read."""
        rounds, within_ns = divmod(paired_ns - self._times[0], self._round_ns)
        after = bisect_left(self._times, within_ns + self._times[0])
        count = len(self._times)
        nearest = min(
            (rounds * count + n for n in (after - 1, after)),
            key=lambda number: abs(self._time_ns(number) - paired_ns),
        )
        time_ns = self._time_ns(nearest)
        if nearest < 0 or abs(time_ns - paired_ns) > self.interval_ns // 2:
            return None
        if self._read is None or self._read.number != nearest:
            self._read = SideView(self._recording.image(nearest % count), nearest, time_ns)
        return self._read

    def _time_ns(self, number: int) -> int:
        rounds, within = divmod(number, len(self._times))
        return self._times[within] + rounds * self._round_ns


class LiveSide:
    """Reads a live camera of the server's in a thread while the block lasts; `on_frame` gets
    every frame."""

    def __init__(self, camera: Camera, on_frame: Callable[[CapturedFrame], None]) -> None:
        self._camera = camera
        self._on_frame = on_frame
        self._thread = threading.Thread(target=self._capture, name="side-camera", daemon=True)

    def __enter__(self) -> "LiveSide":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._camera.close()
        self._thread.join()

    def _capture(self) -> None:
        while not self._camera.ended:
            try:
                frame = self._camera.newest(POLL_S)
            except FrameError as error:
                LOG.warning("side camera: %s", error)
                continue
            if frame is not None:
                self._on_frame(frame)


def side_specs(options: Sequence[str]) -> dict[str | None, str]:
    """SPEC by rig, None for all the others. Raises DsinError for two of one rig."""
    found: dict[str | None, str] = {}
    for option in options:
        name, equals, spec = option.partition("=")
        # A path or a pipeline may hold an equals sign too, but not before its first slash.
        named = bool(equals) and not set(name) & set("/: !")
        rig = name if named else None
        if rig in found:
            raise DsinError(f"--side {option}: there is a side camera for {rig or 'all'} already")
        found[rig] = spec if named else option
    return found
