"""The two processes of the demo, and what they tell the process that started them."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from dsin.runtime.backends.ort import SHARED_CORES
from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.commands.demo_originals import Originals, SharedPictures, SharedRecording
from dsin.runtime.commands.serve import ServeOptions, running_server
from dsin.runtime.device.device import AnsweredFrame, Device, PacketMaker
from dsin.runtime.errors import DsinError, StreamError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.quick_png import write_quickly
from dsin.runtime.sources.cameras import PlayedRecording
from dsin.runtime.sources.frames import frames_per_second
from dsin.runtime.sources.recordings import (
    Recording,
    StereoRecording,
    draw_ahead,
    open_recording,
    open_stereo,
)
from dsin.runtime.sources.warm_up import warm_up
from dsin.runtime.trace import Slice, taken_slices, trace_this_process, traced


@dataclass(frozen=True)
class Settings:
    """What both processes need to know."""

    recording: Path | str | None
    side: str | None
    frames: int
    bundle: str | None
    rate: int | None
    kbps: float | None
    out: Path
    backend: Backend
    fps: float | None
    """None: every frame, as fast as both sides keep up."""
    web: int | None
    foxglove: int | None = None
    traced: bool = False
    """Whether both processes tell what they do when."""
    shared: SharedPictures | None = None
    """Where the device leaves the left views for the server's figures; None: it reads them."""

    @property
    def spec(self) -> str:
        """The frames as dsin.runtime.sources.cameras opens them."""
        return f"synthetic:{self.frames}" if self.recording is None else str(self.recording)

    @property
    def repeats(self) -> bool:
        """Whether the frames come again and again, to be looked at."""
        return self.web is not None or self.foxglove is not None

    def source(self) -> StereoRecording:
        """The frames; both processes open them for themselves."""
        return open_stereo(self.recording, self.frames, self.side)

    def controller(self, bundle: Bundle, source: StereoRecording) -> RateController | None:
        """What keeps the stream at `kbps`, if that is asked for."""
        if self.kbps is None:
            return None
        fps = frames_per_second(source)
        return RateController.for_bundle(bundle, self.kbps, fps, size=source.size)


@dataclass(frozen=True)
class Listening:
    """The server waits for the device at this address; `urls` are its pages."""

    address: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class SentFrame:
    """A frame that the server has decoded. `stage_ms` are the device's stages, `end_to_end_ms` runs
    from the taken frame to the server's answer."""

    number: int
    packet_bytes: int
    stage_ms: dict[str, float]
    end_to_end_ms: float


@dataclass(frozen=True)
class Served:
    """The server has decoded, measured and drawn a frame."""

    number: int
    psnr_db: float
    psnr_db_no_side: float
    stage_ms: dict[str, float]


@dataclass(frozen=True)
class Traced:
    """What a process did since it last told."""

    slices: list[Slice]


@dataclass(frozen=True)
class Finished:
    """All is done; `seconds` is the device's time from the first frame to the last answer,
    `captured` how many frames there were meanwhile."""

    seconds: float = 0.0
    captured: int = 0


@dataclass(frozen=True)
class Failed:
    """The process cannot go on: the kind of error, and what a person should read."""

    kind: str
    message: str


Message = Listening | SentFrame | Served | Traced | Finished | Failed


STOP = "stop"
"""Sent to the device's process: end the stream as if its frames had ended."""


def in_own_process(
    run: Callable[[Connection, Settings], None], pipe: Connection, settings: Settings
) -> None:
    """What a process of the demo does: `run_device` or `run_server`, beside the other one."""
    os.environ.setdefault(SHARED_CORES, "1")
    run(pipe, settings)


def run_device(pipe: Connection, settings: Settings) -> None:
    """Encode and send the left views. Waits in `pipe` for the server's address."""
    with (
        _reporting(pipe),
        Encoder(settings.bundle, settings.backend, threads=_device_threads()) as encoder,
    ):
        source = settings.source()
        # What a frame may refer to depends on when answers come; the demo's figures do not.
        controller = settings.controller(encoder.bundle, source)
        maker = PacketMaker(encoder, settings.rate, controller, independent=True)
        warm_up(encoder, source.size)
        recording = _shown(settings)
        address: str = pipe.recv()
        if settings.traced:
            trace_this_process()
        camera = PlayedRecording(
            recording, fps=settings.fps, loop=settings.repeats, every=settings.fps is None
        )
        start = time.monotonic()
        device = Device(
            camera, maker, address, "demo", every=settings.fps is None, give_up_s=5.0,
            on_frame=lambda frame: _report(pipe, frame),
        )  # fmt: skip
        threading.Thread(target=_stop_when_told, args=(pipe, device), daemon=True).start()
        counts = device.run()
        finished = Finished(time.monotonic() - start, counts.captured)
        _tell_slices(pipe)
        pipe.send(finished)


def _shown(settings: Settings) -> Recording:
    """What the camera sees."""
    recording = open_recording(settings.spec, "left", settings.frames)
    draw_ahead(recording)
    return recording if settings.shared is None else SharedRecording(recording, settings.shared)


def _device_threads() -> int:
    """Half of the cores: the server works at the same time, and a thread that waits for another one
    which has no core keeps its own one from working too."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _report(pipe: Connection, frame: AnsweredFrame) -> None:
    """Tell of an answered frame. One that was superseded is as good as dropped."""
    made = frame.made
    if frame.status == "rejected":
        reason = f"the server rejected frame {made.number}: {frame.reason}"
        pipe.send(Failed(StreamError.__name__, reason))
    elif frame.status == "decoded":
        _tell_slices(pipe)
        pipe.send(SentFrame(made.number, len(made.data), made.stage_ms, frame.round_trip_ms))


def _tell_slices(pipe: Connection) -> None:
    slices = taken_slices()
    if slices:
        pipe.send(Traced(slices))


def _stop_when_told(pipe: Connection, device: Device) -> None:
    with suppress(EOFError, OSError):
        if pipe.recv() == STOP:
            device.stop()


def run_server(pipe: Connection, settings: Settings) -> None:
    """Receive and decode beside the right views; measure and draw against the left ones. Ends when
    told to in `pipe`."""
    with (
        _reporting(pipe),
        _Gallery(pipe, settings.out, settings.source(), settings.shared) as gallery,
    ):
        # Of its own: a recording is read by one thread at a time.
        originals = Originals(settings.source(), settings.shared)
        draw_ahead(originals.source.right)
        options = ServeOptions(
            "127.0.0.1:0", settings.bundle, settings.backend,
            sides=[settings.side or settings.spec], web=settings.web, health=False,
            foxglove=settings.foxglove,
            original=lambda frame: originals.view(frame.number),
        )  # fmt: skip
        with running_server(options, on_frame=gallery.show) as server:
            if settings.traced:
                trace_this_process()
            foxglove = [f"{server.foxglove_url} in Foxglove"] if server.foxglove_url else []
            pipe.send(Listening(server.address, (*server.urls, *foxglove)))
            pipe.recv()
        gallery.finish()
        _tell_slices(pipe)
        pipe.send(Finished())


class _Gallery:
    """Measures and draws decoded frames in a thread, while the next one is decoded, with the time
    that decoding leaves."""

    def __init__(
        self, pipe: Connection, out: Path, source: StereoRecording, shared: SharedPictures | None
    ) -> None:
        self._pipe = pipe
        self._out = out
        self._source = source
        self._originals = Originals(source, shared)
        self._thread = ThreadPoolExecutor(1, "gallery", initializer=_give_way)
        self._last: Future[None] | None = None

    def __enter__(self) -> "_Gallery":
        return self

    def finish(self) -> None:
        """Wait for the last picture."""
        if self._last is not None:
            self._last.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()

    def show(self, frame: DecodedFrame) -> None:
        """Draw a frame soon; at most one waits."""
        self.finish()
        self._last = self._thread.submit(self._guarded, frame)

    def _guarded(self, frame: DecodedFrame) -> None:
        """What a person can put right ends the demo."""
        try:
            if frame.side is None:
                # The server goes on without; a demo of decoding with side information does not.
                self._source.view(frame.number % len(self._source), "right")
                raise StreamError(f"the server had no side image for frame {frame.number}")
            with traced("gallery", frame=frame.number):
                self._measure_and_draw(frame)
            _tell_slices(self._pipe)
        except DsinError as error:
            self._pipe.send(Failed(type(error).__name__, str(error)))

    def _measure_and_draw(self, frame: DecodedFrame) -> None:
        with traced("read original"):
            original = self._originals.view(frame.number)
        decoded = frame.decoded
        with traced("measure"):
            with_side = psnr_db(decoded.image, original)
            without = psnr_db(decoded.x_dec, original)
        self._pipe.send(Served(frame.number, with_side, without, frame.stage_ms))
        if frame.number >= len(self._source):
            return  # it was drawn the first time
        bpp = 8 * len(frame.packet) / (original.shape[0] * original.shape[1])
        panels = [
            Panel(original, "x", "what the device sees"),
            Panel(decoded.x_dec, "x_dec", f"from the packet alone, {without:.2f} dB"),
            Panel(decoded.image, "result", f"{bpp:.4f} bit per pixel, {with_side:.2f} dB"),
        ]
        if decoded.y_syn is not None:
            note = "patches of the server's own view"
            panels.insert(2, Panel(decoded.y_syn, "y_syn", note))
        with traced("draw"):
            write_quickly(self._out / picture_name(frame.number), side_by_side(panels))


def _give_way() -> None:
    """Let this thread have a third of the time that others get beside it. With much less a busy
    machine would hold up the drawing, and so the demo."""
    if sys.platform == "linux":  # where threads have a priority of their own
        thread = threading.get_native_id()
        own = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, own + 5)


def picture_name(number: int) -> str:
    """Name of the side-by-side picture of a frame."""
    return f"frame_{number:06d}.png"


@contextmanager
def _reporting(pipe: Connection) -> Iterator[None]:
    """Errors that a person can put right go to the parent; without a parent the process ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        yield
    except DsinError as error:
        pipe.send(Failed(type(error).__name__, str(error)))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
