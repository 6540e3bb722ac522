"""The stereo rig in one command: `dsin stream` and `dsin serve` as two processes.

    device process                              server process
    left views ─► Encoder ══ gRPC, loopback ══► Decoder ◄─ right views
                                                   └─► figures, pictures, page

The left views reach the server only as packets. To measure and to draw, and for nothing else, the
server process of the demo also reads the originals.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.precision import at_precision, precision_of
from dsin.runtime.commands.demo_originals import SharedPictures
from dsin.runtime.commands.demo_processes import (
    STOP,
    Failed,
    Finished,
    Listening,
    Message,
    SentFrame,
    Served,
    Settings,
    Traced,
    in_own_process,
    picture_name,
    run_device,
    run_server,
)
from dsin.runtime.errors import DsinError, StreamError
from dsin.runtime.files import check_target, write_json
from dsin.runtime.progress import ProgressLine
from dsin.runtime.signals import interruptions
from dsin.runtime.sources.frames import frames_per_second
from dsin.runtime.sources.recordings import open_stereo
from dsin.runtime.terminal import counted, say
from dsin.runtime.trace import Slice, check_trace_path, write_trace

STALL_S = 120.0
"""A demo of which nothing is heard for so many seconds is given up."""
GRACE_S = 2.0
"""After a failure, so long the other process may still say what it knows."""


@dataclass(frozen=True)
class Percentiles:
    """Of times in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Percentiles":
        """Percentiles of at least one time, linearly interpolated."""
        p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99]).round(3).tolist()
        return cls(p50, p90, p99)


@dataclass(frozen=True)
class DemoReport:
    """Figures of a run; its fields are those of `dsin demo --json`.

    `bpp` is the mean over frames of 8·bytes of the packet, header included, per pixel; PSNR is the
    mean over frames of RGB PSNR in dB. `fps` counts from the first frame taken to the last one
    decoded; `dropped` frames existed and were not decoded, or their answer was lost. Stages are
    named device.*, side.* (what the server computes from its own view ahead of the packet) and
    server.*. End to end is from a taken frame to the server's acknowledgement.
    """

    frames: int
    bpp: float
    psnr_db: float
    psnr_db_no_side: float
    fps: float
    dropped: int
    stages: dict[str, Percentiles]
    end_to_end_ms: Percentiles

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return asdict(self)

    def table(self) -> str:
        """The figures for a person, without a newline at the end."""
        gain = self.psnr_db - self.psnr_db_no_side
        lines = [
            f"frames   {self.frames}, {self.dropped} dropped, {self.fps:.2f} per second",
            f"rate     {self.bpp:.4f} bit per pixel",
            f"PSNR     {self.psnr_db:.2f} dB with side information, "
            f"{self.psnr_db_no_side:.2f} dB without ({gain:+.2f} dB)",
            "",
            f"{'milliseconds':24}{'p50':>9}{'p90':>9}{'p99':>9}",
        ]
        room = ""
        for name, times in self.stages.items():
            before, room = room, name.partition(".")[0]
            label = f"{room if room != before else '':9}{name.partition('.')[2]}"
            lines.append(_table_row(label, times))
        lines.append(_table_row("end to end", self.end_to_end_ms))
        return "\n".join(lines)


def run_demo(
    source: Path | str | None = None,
    frames: int | None = None,
    bundle: str | None = None,
    rate: int | None = None,
    out: Path = Path("dsin-demo"),
    json_path: Path | None = None,
    backend: Backend = "cpu",
    *,
    kbps: float | None = None,
    fps: float | None = None,
    web: int | None = None,
    side: str | None = None,
    foxglove: int | None = None,
    trace: Path | None = None,
) -> DemoReport:
    """Stream a stereo recording, or the synthetic rig, from a device to a server process.

    `source` and `side` are as `open_stereo` takes them.

    Writes a side-by-side picture of every frame into `out`, the figures to `json_path`, and shows
    progress and a table. Every frame is sent, as fast as both sides keep up; with `fps` frames come
    at that pace and those that nobody has time for are dropped. With `kbps` the rate is chosen
    frame by frame, in place of `rate`. `web` is the port of a page, `foxglove` that of a live view
    for Foxglove: then the frames come at the recorded pace (or `fps`), again and again until
    SIGINT, and are drawn into `out` once. `trace` gets a time line of both processes (see
    `dsin.runtime.trace`), however the run ends. The
    processes are spawned, so a script that calls this needs the usual
    `if __name__ == "__main__"`. Raises FrameError, BundleError or DsinError for what cannot be
    used or written, StreamError if a process fails.
    """
    settings = _checked(
        source, side, frames, bundle, rate, kbps, out, json_path, backend, fps, web, foxglove
    )
    check_trace_path(trace)
    shared = SharedPictures(settings.source().size)
    settings = replace(settings, traced=trace is not None, shared=shared)
    with (
        _written(trace) as slices,
        ProgressLine(settings.frames) as progress,
        _started(settings) as children,
    ):
        results = _Results(settings, progress)
        device, server = children
        for child, message in _messages(children, stoppable=settings.repeats):
            if isinstance(message, Failed):
                raise _failure([_Trouble(child, message), *_other_troubles(children, child)])
            if isinstance(message, Listening):
                for url in message.urls:
                    say(f"open {url} (Ctrl-C ends the demo)")
                device.pipe.send(message.address)
            elif isinstance(message, Traced):
                slices.setdefault(child.name, []).extend(message.slices)
                continue
            elif isinstance(message, Finished) and child is device:
                server.pipe.send(STOP)
            results.add(message)
    report = results.report()
    if json_path is not None:
        write_json(json_path, report.to_json())
    print(report.table())
    print(f"\nnetworks {precision_of(at_precision(open_bundle(settings.bundle), backend))}")
    print(f"link     {results.link()}")
    say(f"pictures {out / picture_name(0)} to {picture_name(results.last_drawn)}")
    return report


def _checked(
    spec: Path | str | None,
    side: str | None,
    frames: int | None,
    bundle: str | None,
    rate: int | None,
    kbps: float | None,
    out: Path,
    json_path: Path | None,
    backend: Backend,
    fps: float | None,
    web: int | None,
    foxglove: int | None,
) -> Settings:
    """Find a user's mistakes before any process starts."""
    source = open_stereo(spec, frames, side)
    opened = open_bundle(bundle)
    opened.rate_index(rate)
    if (web is not None or foxglove is not None) and fps is None:
        fps = frames_per_second(source)
    settings = Settings(
        spec, side, len(source), bundle, rate, kbps, out, backend, fps, web, foxglove
    )  # fmt: skip
    settings.controller(opened, source)
    check_target(json_path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsinError(f"cannot write pictures to {out}: {error.strerror}") from error
    return settings


class _Results:
    """Gathers what the processes tell, and shows how far they are."""

    def __init__(self, settings: Settings, progress: ProgressLine) -> None:
        source = settings.source()
        height, width = source.size
        self._settings = settings
        self._pixels = height * width
        self._source_fps = frames_per_second(source)
        self._wanted = settings.frames
        self._sent: dict[int, SentFrame] = {}
        self._served: dict[int, Served] = {}
        self._device = Finished()
        self._progress = progress
        frames = counted(settings.frames, "frame")
        progress.show(f"streaming {frames} of {width}x{height}")

    def add(self, message: Message) -> None:
        """Take in a message."""
        if isinstance(message, SentFrame):
            self._sent[message.number] = message
        elif isinstance(message, Served):
            self._served[message.number] = message
        elif isinstance(message, Finished) and message.seconds:
            self._device = message
        both = self._sent.keys() & self._served.keys()
        self._progress.show(self._figures() if both else "starting", len(both))

    def _figures(self) -> str:
        return f"{self._bpp():.4f} bpp, {_mean([s.psnr_db for s in self._served.values()]):.2f} dB"

    def _bpp(self) -> float:
        return _mean([8 * sent.packet_bytes / self._pixels for sent in self._sent.values()])

    @property
    def last_drawn(self) -> int:
        """Number of the last frame that has a picture."""
        return max(number for number in self._served if number < self._wanted)

    def link(self) -> str:
        """What went over the link, and whether both sides keep up with the camera."""
        fps = len(self._served) / self._device.seconds
        pace = self._settings.fps or self._source_fps
        kbps = self._bpp() * self._pixels / 1000
        wanted = "" if self._settings.kbps is None else f", {self._settings.kbps:g} wanted"
        if self._settings.fps is None:
            keeps = "keeps up with" if fps >= pace else f"keeps up with {fps:.1f} of"
            return (
                f"{kbps * pace:.1f} kbit/s at the recorded pace{wanted}; this machine, doing the "
                f"work of both sides, {keeps} {pace:.1f} frames a second"
            )
        return (
            f"{kbps * fps:.1f} kbit/s{wanted}; {fps:.1f} of {pace:.1f} frames a second were sent, "
            f"the newest each time"
        )

    def report(self) -> DemoReport:
        """The figures at the end. Raises StreamError if frames are missing."""
        self._forget_unanswered()
        served = self._served.values()
        stages: dict[str, list[float]] = {}
        for sent in self._sent.values():
            for name, ms in sent.stage_ms.items():
                stages.setdefault(f"device.{name}", []).append(ms)
        for frame in served:
            for name, ms in frame.stage_ms.items():
                stages.setdefault(name, []).append(ms)
        return DemoReport(
            frames=len(served),
            bpp=round(self._bpp(), 6),
            psnr_db=round(_mean([frame.psnr_db for frame in served]), 4),
            psnr_db_no_side=round(_mean([frame.psnr_db_no_side for frame in served]), 4),
            fps=round(len(served) / self._device.seconds, 3),
            dropped=self._device.captured - len(served),
            stages={name: Percentiles.of(times) for name, times in stages.items()},
            end_to_end_ms=Percentiles.of([sent.end_to_end_ms for sent in self._sent.values()]),
        )

    def _forget_unanswered(self) -> None:
        """Frames at a pace may get lost, and count as dropped; of all frames none may."""
        both = self._sent.keys() & self._served.keys()
        every = self._settings.fps is None
        if not both or (every and len(both) < len(self._sent.keys() | self._served.keys())):
            raise StreamError(
                f"frames were lost between the processes: the device has answers to "
                f"{len(self._sent)}, the server decoded {len(self._served)}"
            )
        self._sent = {number: self._sent[number] for number in both}
        self._served = {number: self._served[number] for number in both}


class _Child(NamedTuple):
    name: str
    process: BaseProcess
    pipe: Connection


class _Trouble(NamedTuple):
    child: _Child
    failed: Failed | None
    """None: it died without a word."""

    @property
    def rank(self) -> int:
        """A lost peer is mostly the consequence of what happened to the other process."""
        if self.failed is None:
            return 1
        return 2 if self.failed.kind == StreamError.__name__ else 0


@contextmanager
def _written(trace: Path | None) -> Iterator[dict[str, list[Slice]]]:
    """A place for what processes tell of their time; written at the end, whatever that is."""
    slices: dict[str, list[Slice]] = {}
    if trace is None:
        yield slices
        return
    with interruptions():
        try:
            yield slices
        finally:
            write_trace(trace, slices)


@contextmanager
def _started(settings: Settings) -> Iterator[list[_Child]]:
    """The device and the server process; neither outlives the block."""
    children: list[_Child] = []
    try:
        for name, run in (("device", run_device), ("server", run_server)):
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(
                target=in_own_process, args=(run, theirs, settings), name=f"dsin-{name}",
                daemon=True,
            )  # fmt: skip
            with _blocked_interrupts():
                process.start()
            theirs.close()
            children.append(_Child(name, process, ours))
        yield children
        for child in children:
            child.process.join(GRACE_S)
    finally:
        for child in children:
            _stop(child)


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Children inherit that Ctrl-C does not reach them: it is this process that ends them."""
    resource_tracker.ensure_running()  # it unblocks the signal once it has started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        # One that came meanwhile is delivered now.
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(child: _Child) -> None:
    child.pipe.close()
    child.process.terminate()
    child.process.join(GRACE_S)
    if child.process.is_alive():
        child.process.kill()
        child.process.join()
    child.process.close()


def _messages(children: Sequence[_Child], *, stoppable: bool) -> Iterator[tuple[_Child, Message]]:
    """What the processes tell, until both have finished. If it is `stoppable`, the first SIGINT
    makes the device finish. Raises StreamError for a silent death."""
    pending: dict[object, _Child] = {child.pipe: child for child in children}
    while pending:
        try:
            ready = wait([child.pipe for child in pending.values()], timeout=STALL_S)
        except KeyboardInterrupt:
            if not stoppable:
                raise
            stoppable = False
            children[0].pipe.send(STOP)
            continue
        if not ready:
            raise StreamError(f"neither process made progress for {STALL_S:.0f} s")
        for pipe in ready:
            child = pending[pipe]
            try:
                message: Message = child.pipe.recv()
            except (EOFError, OSError):
                troubles = _other_troubles(children, child)
                raise _failure([_Trouble(child, None), *troubles]) from None
            if isinstance(message, Finished):
                del pending[pipe]
            yield child, message


def _other_troubles(children: Sequence[_Child], first: _Child) -> list[_Trouble]:
    """What goes wrong with the other process within GRACE_S."""
    (other,) = (child for child in children if child is not first)
    deadline = time.monotonic() + GRACE_S
    with suppress(EOFError, OSError):
        while other.pipe.poll(max(0.0, deadline - time.monotonic())):
            message: Message = other.pipe.recv()
            if isinstance(message, Failed):
                return [_Trouble(other, message)]
            if isinstance(message, Finished):
                return []
        return []
    return [_Trouble(other, None)]


def _failure(troubles: Sequence[_Trouble]) -> StreamError:
    """The error to show: of what went wrong, the likely cause."""
    child, failed = min(troubles, key=lambda trouble: trouble.rank)
    if failed is not None:
        return StreamError(f"the {child.name} process failed: {failed.message}")
    child.process.join(GRACE_S)
    status = child.process.exitcode
    if status is not None and status < 0:
        return StreamError(
            f"the {child.name} process was killed by signal {-status}: if nobody did it, "
            "the machine may be short of memory"
        )
    return StreamError(
        f"the {child.name} process ended unexpectedly with status {status}; see above"
    )


def _table_row(label: str, times: Percentiles) -> str:
    return f"{label:24}{times.p50_ms:9.1f}{times.p90_ms:9.1f}{times.p99_ms:9.1f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
