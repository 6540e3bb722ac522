"""Side cameras that the server has itself: a recording that goes with any moment, or a live one.

`--side SPEC` is for every rig, `--side RIG=SPEC` for one; SPEC is what dsin.runtime.sources.cameras
opens.
"""

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from types import TracebackType

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.outputs.decoded_frame import SideView
from dsin.runtime.sources.cameras import Camera, open_camera
from dsin.runtime.sources.capture_device import is_live, shown_name
from dsin.runtime.sources.frames import frames_per_second
from dsin.runtime.sources.recordings import Recording, open_recording
from dsin.runtime.sources.resized import resized

LOG = logging.getLogger(__name__)
POLL_S = 0.25

TakeSide = Callable[[SideView, int], None]
"""Gets a side view and its capture time in the server's clock, nanoseconds."""


class RecordedSideCamera:
    """A recording as the side camera of a rig whose camera x plays the same recording.

    It goes on as a looped recording does: one interval after its end it begins again, with numbers
    and timestamps that go on. Rigs that share a recording share its `lock`: few kinds of recordings
    can be read by several threads at once. `size` is that of the rig's pictures, to which its own
    are brought; by default it is the recording's.
    """

    def __init__(
        self,
        recording: Recording,
        lock: "threading.Lock | None" = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.size = size or recording.size
        self.start_ns = recording.timestamp_ns(0)
        self.interval_ns = round(1e9 / frames_per_second(recording))
        self._recording = recording
        self._times = [recording.timestamp_ns(n) for n in range(len(recording))]
        self._round_ns = self._times[-1] - self._times[0] + self.interval_ns
        self._read: SideView | None = None
        self._lock = threading.Lock() if lock is None else lock

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
        with self._lock:
            if self._read is None or self._read.number != nearest:
                image = resized(self._recording.image(nearest % count), self.size)
                self._read = SideView(image, nearest, time_ns)
            return self._read

    def _time_ns(self, number: int) -> int:
        rounds, within = divmod(number, len(self._times))
        return self._times[within] + rounds * self._round_ns


class SideCameras:
    """The server's own side cameras, by `--side` options.

        with SideCameras(["front=camera:0"]) as sides:
            sides.feed("front", lambda view, captured_ns: ...)

    Raises FrameError or DsinError for what cannot be opened.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._specs = side_specs(options)
        self._recordings: dict[str, Recording] = {}
        self._cameras: dict[str, Camera] = {}
        for spec in self._specs.values():
            if is_live(spec):
                self._cameras[spec] = open_camera(spec, "right")
            else:
                self._recordings[spec] = open_recording(spec, "right")
        self._locks = {spec: threading.Lock() for spec in self._recordings}
        self._takers: dict[str, dict[str, TakeSide]] = {spec: {} for spec in self._cameras}
        self._threads = [
            threading.Thread(target=self._capture, args=item, name="side-camera", daemon=True)
            for item in self._cameras.items()
        ]

    def __enter__(self) -> "SideCameras":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for camera in self._cameras.values():
            camera.close()
        for thread in self._threads:
            thread.join()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each camera's pictures."""
        recorded = [recording.size for recording in self._recordings.values()]
        return recorded + [camera.size for camera in self._cameras.values()]

    def recorded(self, rig: str, size: tuple[int, int] | None = None) -> RecordedSideCamera | None:
        """The recording that is that rig's side camera, in the size of the rig's pictures."""
        spec = self._spec(rig)
        recording = self._recordings.get(spec)
        return None if recording is None else RecordedSideCamera(recording, self._locks[spec], size)

    def size(self, rig: str) -> tuple[int, int] | None:
        """Height and width of that rig's side camera, if it has one here."""
        recording = self._recordings.get(self._spec(rig))
        return self.live_size(rig) if recording is None else recording.size

    def live_size(self, rig: str) -> tuple[int, int] | None:
        """Height and width of the live camera that is that rig's side camera."""
        camera = self._cameras.get(self._spec(rig))
        return None if camera is None else camera.size

    def feed(self, rig: str, take: TakeSide | None) -> None:
        """From now on give each picture of that rig's live camera to `take`; None ends it."""
        takers = self._takers.get(self._spec(rig))
        if takers is not None and take is not None:
            takers[rig] = take
        elif takers is not None:
            takers.pop(rig, None)

    def _spec(self, rig: str) -> str:
        return self._specs.get(rig) or self._specs.get(None) or ""

    def _capture(self, spec: str, camera: Camera) -> None:
        while not camera.ended:
            try:
                frame = camera.newest(POLL_S)
            except FrameError as error:
                LOG.warning("side camera %s: %s", shown_name(spec), error)
                continue
            if frame is not None:
                view = SideView(frame.image, frame.number, frame.timestamp_ns)
                for take in list(self._takers[spec].values()):
                    take(view, frame.timestamp_ns)


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
