"""`dsin stream`: a camera, an encoder and the way to the server, put together."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Literal

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device.device import (
    AnsweredFrame,
    Device,
    DeviceCounts,
    PacketMaker,
    PictureMaker,
)
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.device.link_rate import FIRST_KBPS
from dsin.runtime.device.stream_client import Transport
from dsin.runtime.errors import DsinError
from dsin.runtime.link.rpc import Certificates, check_camera
from dsin.runtime.signals import on_ending
from dsin.runtime.sources.cameras import Camera, open_camera
from dsin.runtime.sources.capture_device import is_live, shown_name
from dsin.runtime.sources.frames import StereoSide
from dsin.runtime.sources.warm_up import warm_up
from dsin.runtime.terminal import counted
from dsin.runtime.trace import check_trace_path, tracing

LOG = logging.getLogger(__name__)
USUAL_FPS = 10.0
"""Assumed of a live camera that does not tell, until its frames have shown their pace."""
REPORT_S = 5.0


@dataclass(frozen=True)
class StreamOptions:
    """What `dsin stream` was asked for. `source` is what dsin.runtime.sources.cameras opens;
    `camera` is x, whose frames are encoded, or y, whose pictures are sent whole (as JPEG of
    `quality`, or without loss)."""

    address: str
    source: str = "synthetic"
    rig: str = "rig"
    camera: str = "x"
    bundle: str | None = None
    backend: Backend = "cpu"
    rate: int | None = None
    kbps: "float | Literal['auto'] | None" = None
    """kbit/s of the stream; auto follows the link."""
    fps: float | None = None
    frames: int | None = None
    loop: bool = False
    every: bool = False
    start: str | None = None
    """HH:MM:SS of today at which a recording begins: two cameras that are given the same one stay
    together, whenever they are started."""
    quality: int | None = None
    certificates: Certificates | None = None
    give_up_s: float | None = None
    transport: Transport = "auto"
    trace: Path | None = None
    """Gets a time line of this process."""
    independent: bool = False
    """Whether every frame stands alone."""

    @property
    def sent_frames(self) -> int | None:
        """How many frames to send, where that ends the stream: a live camera would be through with
        its own before the first one can be sent."""
        return self.frames if is_live(self.source) else None


def stream(options: StreamOptions, announce: Callable[[str], None]) -> DeviceCounts:
    """Stream until the source ends, or a signal ends it. Raises DsinError."""
    check_camera(options.address, options.certificates)
    check_trace_path(options.trace)
    side: StereoSide = "left" if options.camera == "x" else "right"
    camera = open_camera(
        options.source, side, fps=options.fps,
        frames=options.frames if options.sent_frames is None else None, loop=options.loop,
        every=options.every, start_s=_start_s(options.start),
    )  # fmt: skip
    try:
        if options.camera == "y":
            return _run(options, camera, PictureMaker(options.quality), announce)
        bundle = open_bundle(options.bundle)
        controller = follower = None
        if options.kbps is not None:
            fps = camera.fps or USUAL_FPS
            kbps = FIRST_KBPS if options.kbps == "auto" else options.kbps
            controller = RateController.for_bundle(bundle, kbps, fps, size=camera.size)
            follower = LinkFollower(controller, fps) if options.kbps == "auto" else None
        with Encoder(bundle, options.backend) as encoder:
            maker = PacketMaker(encoder, options.rate, controller, independent=options.independent)
            warm_up(encoder, camera.size)
            return _run(options, camera, maker, announce, follower)
    finally:
        camera.close()


def _start_s(start: str | None) -> float | None:
    """That time of day on the clock of time.monotonic. Raises DsinError."""
    if start is None:
        return None
    try:
        moment = datetime.combine(date.today(), time_of_day.fromisoformat(start))
    except ValueError as error:
        raise DsinError(f"--start {start}: give a time of day, HH:MM:SS") from error
    return time.monotonic() + moment.timestamp() - time.time()


def _run(
    options: StreamOptions,
    camera: Camera,
    maker: PacketMaker | PictureMaker,
    announce: Callable[[str], None],
    follower: LinkFollower | None = None,
) -> DeviceCounts:
    report = _Report(announce)
    device = Device(
        camera, maker, options.address, options.rig, options.certificates,
        every=options.every, frames=options.sent_frames, transport=options.transport,
        follower=follower, give_up_s=options.give_up_s, on_frame=report.add, on_news=announce,
    )  # fmt: skip
    on_ending(device.stop)
    height, width = camera.size
    announce(
        f"connecting to {options.address} as camera {options.camera} of rig {options.rig}: "
        f"{shown_name(options.source)}, {width}x{height}"
    )
    with tracing(options.trace, "device"):
        counts = device.run()
    announce(report.line(counts))
    if counts.answered == 0 and counts.captured:
        raise DsinError("the server answered none of the frames")
    return counts


class _Report:
    """A line every few seconds, and one at the end."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._start_s = self._told_s = time.monotonic()
        self._ages: list[float] = []
        self._count = self._bytes = 0

    def add(self, frame: AnsweredFrame) -> None:
        """Take in an answer; called in the stream's thread."""
        self._count += 1
        self._bytes += len(frame.made.data)
        self._ages.append(frame.age_ms)
        if frame.reason:
            LOG.warning("frame %d was rejected: %s", frame.made.number, frame.reason)
        now_s = time.monotonic()
        if now_s - self._told_s >= REPORT_S:
            span_s = now_s - self._told_s
            ages = sorted(self._ages)
            self._announce(
                f"{self._count / span_s:.1f} frames/s, {8e-3 * self._bytes / span_s:.0f} kbit/s, "
                f"age {ages[len(ages) // 2]:.0f} ms (p50), {ages[-1]:.0f} ms (most)"
            )
            self._told_s, self._count, self._bytes = now_s, 0, 0
            self._ages.clear()

    def line(self, counts: DeviceCounts) -> str:
        """The end of it: what became of each frame."""
        seconds = time.monotonic() - self._start_s
        ends = [f"{count} {status}" for status, count in counts.statuses.items()]
        ends.append(f"{counts.dropped} dropped")
        if counts.lost:
            ends.append(f"{counts.lost} lost")
        if counts.unsent:
            ends.append(f"{counts.unsent} unsent")
        captured = counted(counts.captured, "frame")
        attempts = counted(counts.reconnects, "attempt")
        tries = f", {attempts} to connect again" if counts.reconnects else ""
        return (
            f"{captured} in {seconds:.1f} s: {', '.join(ends)}; "
            f"{counts.sent_bytes / 1000:.1f} kB sent{tries}"
        )
