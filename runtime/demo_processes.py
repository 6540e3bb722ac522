"""The two processes of the demo, and what they tell the process that started them."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from dsin.runtime.backend import Backend
from dsin.runtime.bundle import Bundle
from dsin.runtime.client import SentFrame, connect, send_frames
from dsin.runtime.decoder import Decoder
from dsin.runtime.encoder import Encoder
from dsin.runtime.errors import DsinError
from dsin.runtime.files import write_image
from dsin.runtime.frames import FrameSource, frames_per_second, open_source
from dsin.runtime.metrics import psnr_db
from dsin.runtime.rate_control import RateController
from dsin.runtime.server import ServedFrame, accept, listen, serve_frames
from dsin.runtime.viewer import Panel, side_by_side


@dataclass(frozen=True)
class Settings:
    """What both processes need to know."""

    kitti: Path | None
    frames: int
    bundle: str | None
    rate: int | None
    kbps: float | None
    out: Path
    backend: Backend

    def source(self) -> FrameSource:
        """The frames; both processes open them for themselves."""
        return open_source(self.kitti, self.frames)

    def controller(self, bundle: Bundle, source: FrameSource) -> RateController | None:
        """What keeps the stream at `kbps`, if that is asked for."""
        if self.kbps is None:
            return None
        height, width = source.size
        points = [point.target_bpp for point in bundle.rate_points]
        return RateController(
            points, pixels=height * width, target_kbps=self.kbps, fps=frames_per_second(source)
        )


@dataclass(frozen=True)
class Listening:
    """The server waits for the device at this port."""

    port: int


@dataclass(frozen=True)
class Served:
    """The server has decoded, measured and drawn a frame."""

    number: int
    psnr_db: float
    psnr_db_no_side: float
    stage_ms: dict[str, float]


@dataclass(frozen=True)
class Finished:
    """All is done; `seconds` is the device's time from the first frame to the last answer."""

    seconds: float = 0.0
    dropped: int = 0


@dataclass(frozen=True)
class Failed:
    """The process cannot go on: the kind of error, and what a person should read."""

    kind: str
    message: str


Message = Listening | SentFrame | Served | Finished | Failed


def run_device(pipe: Connection, settings: Settings) -> None:
    """Encode and send the left views. Waits in `pipe` for the server's port."""
    with _reporting(pipe), Encoder(settings.bundle, settings.backend) as encoder:
        source = settings.source()
        encoder.encode(source.view(0, "left"), rate=settings.rate)  # compiles and allocates
        port: int = pipe.recv()
        with connect("127.0.0.1", port) as connection:
            start = time.monotonic()
            dropped = send_frames(
                source, encoder, connection, rate=settings.rate, on_frame=pipe.send,
                controller=settings.controller(encoder.bundle, source),
            )  # fmt: skip
            pipe.send(Finished(time.monotonic() - start, dropped))


def run_server(pipe: Connection, settings: Settings) -> None:
    """Receive and decode beside the right views; measure and draw against the left ones."""
    with _reporting(pipe), Decoder(settings.bundle, settings.backend) as decoder:
        source = settings.source()
        view = source.view(0, "right")
        with Encoder(decoder.bundle, settings.backend) as encoder:
            decoder.decode(encoder.encode(view), view)  # compiles and allocates
        with listen() as listener, _Gallery(pipe, settings.out, source) as gallery:
            pipe.send(Listening(listener.getsockname()[1]))
            with accept(listener) as connection:
                serve_frames(connection, source, decoder, on_frame=gallery.show)
        pipe.send(Finished())


class _Gallery:
    """Measures and draws decoded frames in a thread, while the next one is decoded."""

    def __init__(self, pipe: Connection, out: Path, source: FrameSource) -> None:
        self._pipe = pipe
        self._out = out
        self._source = source
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def __enter__(self) -> "_Gallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None and self._last is not None:
            self._last.result()

    def show(self, frame: ServedFrame) -> None:
        """Draw a frame soon; at most one waits. Raises what went wrong with the one before."""
        if self._last is not None:
            self._last.result()
        self._last = self._thread.submit(self._measure_and_draw, frame)

    def _measure_and_draw(self, frame: ServedFrame) -> None:
        original = self._source.view(frame.number, "left")
        decoded = frame.decoded
        with_side = psnr_db(decoded.image, original)
        without = psnr_db(decoded.x_dec, original)
        bpp = 8 * frame.packet_bytes / (original.shape[0] * original.shape[1])
        panels = [
            Panel(original, "x", "what the device sees"),
            Panel(decoded.x_dec, "x_dec", f"from the packet alone, {without:.2f} dB"),
            Panel(decoded.image, "result", f"{bpp:.4f} bit per pixel, {with_side:.2f} dB"),
        ]
        if decoded.y_syn is not None:
            note = "patches of the server's own view"
            panels.insert(2, Panel(decoded.y_syn, "y_syn", note))
        write_image(self._out / picture_name(frame.number), side_by_side(panels))
        stages = {f"side.{name}": ms for name, ms in frame.side_ms.items()}
        stages |= {f"server.{name}": ms for name, ms in decoded.stage_ms.items()}
        self._pipe.send(Served(frame.number, with_side, without, stages))


def picture_name(number: int) -> str:
    """Name of the side-by-side picture of a frame."""
    return f"frame_{number:06d}.png"


@contextmanager
def _reporting(pipe: Connection) -> Iterator[None]:
    """Errors that a person can mend go to the parent; without a parent the process ends."""
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
