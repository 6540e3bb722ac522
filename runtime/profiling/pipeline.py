"""One frame's whole way, for real and in sequence, with the time of each stage.

    capture ─► preprocess ─► compute ─► entropy ─► packetise ─► network ─► (side view) ─► decode

Device, link and server share one process here. A server prepares its own view while the device
encodes; here that is done in turn and counts, so what is measured is the work of both machines.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.pictures import Image
from dsin.runtime.profiling.link import Loopback
from dsin.runtime.sources.bag_spec import is_bag, parse_bag_spec
from dsin.runtime.sources.frames import FRAME_INTERVAL_NS
from dsin.runtime.sources.recordings import StereoRecording, open_stereo
from dsin.runtime.stopwatch import Stopwatch

DISTINCT_FRAMES = 20
"""At most so many frames of the source, taken in turn."""
ROOMS = ("device", "link", "side", "server")
"""What stages are named after, in the order in which they run: device.entropy, side.prepare."""


@dataclass(frozen=True)
class Sample:
    """One frame's times in milliseconds.

    `stage_ms` by name of the stage; a stage that did not run is not in it. `room_ms` from the frame
    to its bytes (device), there and back (link), the side view (side), from bytes to the picture
    (server); `end_to_end_ms` is from the frame in memory to the picture, waiting for its turn
    included. Capture is a stage but counts in neither. `packet_bytes` has the packet's header.
    """

    stage_ms: dict[str, float]
    room_ms: dict[str, float]
    end_to_end_ms: float
    packet_bytes: int


def _shown(recording: Path | str | None) -> str:
    """A recording's name for reports."""
    if recording is None:
        return "synthetic rig"
    if is_bag(str(recording)):
        return parse_bag_spec(str(recording)).path.resolve().name
    return Path(recording).resolve().name


class Frames:
    """The first frames of a stereo recording, as `open_stereo` takes it, or of the synthetic rig,
    in turn without end.

    A recording's are read from their files each time, which is what `capture` measures; the rig's
    are rendered once and kept, since rendering is no camera's work. Raises FrameError.
    """

    def __init__(self, recording: Path | str | None, side: str | None = None) -> None:
        self.source: StereoRecording = open_stereo(recording, side=side)
        self.name = _shown(recording)
        self.count = min(len(self.source), DISTINCT_FRAMES)
        self._kept: list[tuple[Image, Image]] | None = None
        if recording is None:
            self._kept = [self._read(number) for number in range(self.count)]

    def sha256(self) -> str:
        """Over the pixels of all frames, left before right, as RGB rows."""
        digest = hashlib.sha256()
        for number in range(self.count):
            for view in self.take(number, Stopwatch()):
                digest.update(view.tobytes())
        return digest.hexdigest()

    def take(self, number: int, watch: Stopwatch) -> tuple[Image, Image]:
        """Left and right view; what is read from files goes into `watch`."""
        number %= self.count
        if self._kept is not None:
            return self._kept[number]
        with watch.stage("device.capture"):
            left = self.source.view(number, "left")
        with watch.stage("side.capture"):
            right = self.source.view(number, "right")
        return left, right

    def _read(self, number: int) -> tuple[Image, Image]:
        return self.source.view(number, "left"), self.source.view(number, "right")


class Pipeline:
    """Device and server with one bundle; `rate` None is the bundle's default."""

    def __init__(
        self, frames: Frames, encoder: Encoder, decoder: Decoder, link: Loopback, rate: int | None
    ) -> None:
        self._frames = frames
        self._encoder = encoder
        self._decoder = decoder
        self._link = link
        self._rate = rate
        self._number = 0

    def run(self, waited_ms: float | None = None) -> Sample:
        """The next frame. `waited_ms` is how long a paced frame waited for its turn."""
        number, self._number = self._number, self._number + 1
        watch = Stopwatch()
        left, right = self._frames.take(number, watch)
        marks = [time.perf_counter_ns()]
        packet = self._encoder.encode(
            left, self._rate, frame_number=number, timestamp_ns=number * FRAME_INTERVAL_NS
        )
        marks.append(time.perf_counter_ns())
        with watch.stage("link.network"):
            received = self._link.round_trip(packet)
        marks.append(time.perf_counter_ns())
        features = self._decoder.prepare_side(right, rate=self._rate)
        marks.append(time.perf_counter_ns())
        decoded = self._decoder.decode(received, features)
        marks.append(time.perf_counter_ns())
        stages = watch.ms if waited_ms is None else {"device.queue": waited_ms, **watch.ms}
        times = {"device": packet.stage_ms, "side": features.stage_ms, "server": decoded.stage_ms}
        for room, of in times.items():
            stages |= {f"{room}.{name}": ms for name, ms in of.items()}
        spans = [(end - start) / 1e6 for start, end in pairwise(marks)]
        return Sample(
            stage_ms=stages,
            room_ms=dict(zip(ROOMS, spans, strict=True)),
            end_to_end_ms=(waited_ms or 0.0) + (marks[-1] - marks[0]) / 1e6,
            packet_bytes=len(packet),
        )


class Pacer:
    """Lets frames come at `fps` as from a camera, or at once in a closed loop (None)."""

    def __init__(
        self,
        fps: float | None,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.late_frames = 0
        self._interval_s = None if fps is None else 1 / fps
        self._clock = clock
        self._sleep = sleep
        self._due: float | None = None

    def wait(self) -> float | None:
        """Wait for the next frame; return how long it has waited by then, in ms, if it is paced.

        A frame whose turn comes late has waited since it was due, so a slow frame is seen in the
        latency of those behind it.
        """
        if self._interval_s is None:
            return None
        first = self._due is None
        due = self._clock() if self._due is None else self._due
        self._due = due + self._interval_s
        early = due - self._clock()
        if early > 0:
            self._sleep(early)
        elif early < 0 and not first:
            self.late_frames += 1
        return 1000 * max(0.0, self._clock() - due)
