"""What each of the demo's two processes tells the one that started them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from support.rig_fakes import CODEC

from dsin.runtime import trace
from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.codec.packet import PacketHeader
from dsin.runtime.commands import demo_processes
from dsin.runtime.commands.demo_processes import (
    STOP,
    Failed,
    Finished,
    Listening,
    SentFrame,
    Served,
    Settings,
    Traced,
    _Gallery,
    picture_name,
)
from dsin.runtime.commands.serve import ServeOptions
from dsin.runtime.device.device import AnsweredFrame, Device, MadeFrame
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.picture_files import read_image
from dsin.runtime.sources.frames import frames_per_second
from dsin.runtime.sources.recordings import RenderedView, StereoRecording
from dsin.runtime.sources.synthetic_rig import SyntheticRig


class Ends(NamedTuple):
    """A pipe: the process writes to `theirs`."""

    ours: Connection
    theirs: Connection

    def told(self) -> list[object]:
        return [self.ours.recv() for _ in iter(self.ours.poll, False)]


@pytest.fixture
def pipe() -> Iterator[Ends]:
    ends = Ends(*Pipe())
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def tracing() -> Iterator[None]:
    trace.trace_this_process()
    yield
    trace.stop_tracing()


def answered(status: str, reason: str = "") -> AnsweredFrame:
    made = MadeFrame(3, 7, 0.0, bytes(125), 1, {"compute": 4.5})
    return AnsweredFrame(made, status, "paired", 1.0, 2.0, 30.5, reason)


def test_the_device_tells_of_frames_that_the_server_has_decoded(pipe: Ends, tracing: None) -> None:
    """One that was superseded is as good as dropped, and one that was rejected ends the demo."""
    trace.add_slice("compute", 1, 2)
    demo_processes._report(pipe.theirs, answered("superseded"))
    demo_processes._report(pipe.theirs, answered("decoded"))
    demo_processes._report(pipe.theirs, answered("decoded"))
    demo_processes._report(pipe.theirs, answered("rejected", "packet is damaged"))
    thread = threading.current_thread().name
    sent = SentFrame(3, 125, {"compute": 4.5}, 30.5)
    assert pipe.told() == [
        Traced([trace.Slice("compute", thread, 1, 2, {})]), sent, sent,
        Failed("StreamError", "the server rejected frame 3: packet is damaged"),
    ]  # fmt: skip


def test_the_device_stops_when_it_is_told_to(pipe: Ends) -> None:
    stops: list[bool] = []
    device = cast(Device, SimpleNamespace(stop=lambda: stops.append(True)))
    for word, stopped in (("something else", []), (STOP, [True])):
        pipe.ours.send(word)
        demo_processes._stop_when_told(pipe.theirs, device)
        assert stops == stopped
    pipe.ours.close()
    demo_processes._stop_when_told(pipe.theirs, device)
    assert stops == [True]


def test_only_what_a_person_can_put_right_is_told(pipe: Ends) -> None:
    """Anything else keeps its traceback."""
    with pytest.raises(SystemExit) as ended, demo_processes._reporting(pipe.theirs):
        raise FrameError("a.png is not an image")
    assert ended.value.code == 1
    with pytest.raises(ZeroDivisionError), demo_processes._reporting(pipe.theirs):
        raise ZeroDivisionError
    assert pipe.told() == [Failed("FrameError", "a.png is not an image")]


def test_settings_name_the_frames_and_whether_they_repeat() -> None:
    rest: Any = (None, None, None, Path("out"), "cpu", None)
    built_in = Settings(None, None, 5, *rest, None)
    assert (built_in.spec, built_in.repeats) == ("synthetic:5", False)
    assert len(built_in.source()) == 5
    assert Settings(Path("drive"), None, 5, *rest, 80).spec == "drive"
    assert Settings(None, None, 5, *rest, 80).repeats
    assert Settings(None, None, 5, *rest, None, foxglove=80).repeats


def stereo(rig: SyntheticRig) -> StereoRecording:
    return StereoRecording(RenderedView(rig, "left"), RenderedView(rig, "right"))


RIG = SyntheticRig(width=96, height=64, frames=2)
STEREO = stereo(RIG)


def decoded_frame(number: int, *, patches: bool = True, side: bool = True) -> DecodedFrame:
    """One that is 5 levels off with a side image, and 10 without, in a packet of 384 bytes."""
    view = RIG.view(number % 2, "left").clip(10, 245)
    near = np.where(view < 128, view + 5, view - 5).astype(np.uint8)
    far = np.where(view < 128, view + 10, view - 10).astype(np.uint8)
    header = PacketHeader(CODEC, 96, 64, 0, number, 0)
    decoded = Decoded(near, far, view if patches else None, None, True, header, {})
    return DecodedFrame(
        "demo", number, 0, 0, 0, 0, bytes(384), decoded,
        SideView(RIG.view(number % 2, "right"), number, 0) if side else None,
        SideUse.PAIRED if side else SideUse.MISSING, {"server.search": 2.5},
    )  # fmt: skip


@pytest.mark.parametrize("patches", [True, False])
def test_the_server_measures_and_draws_each_frame_once(
    pipe: Ends, tracing: None, tmp_path: Path, patches: bool
) -> None:
    """When the frames come again they are measured again, on the original of the first time."""
    frames = [decoded_frame(number, patches=patches) for number in range(4)]
    with _Gallery(pipe.theirs, tmp_path, STEREO, None) as gallery:
        for frame in frames:
            gallery.show(frame)
        gallery.finish()
        told = pipe.told()
    originals = [RIG.view(number, "left") for number in (0, 1, 0, 1)]
    qualities = [
        (psnr_db(frame.decoded.image, x), psnr_db(frame.decoded.x_dec, x))
        for frame, x in zip(frames, originals, strict=True)
    ]
    assert [message for message in told if not isinstance(message, Traced)] == [
        Served(number, *quality, {"server.search": 2.5}) for number, quality in enumerate(qualities)
    ]
    slices = [(s.name, s.known) for m in told if isinstance(m, Traced) for s in m.slices]
    assert slices == [
        (name, {"frame": number})
        for number in range(4)
        for name in ("read original", "measure", "draw", "gallery")
        if number < 2 or name != "draw"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frame_000000.png",
        "frame_000001.png",
    ]
    for number in range(2):
        decoded, (with_side, without) = frames[number].decoded, qualities[number]
        panels = [
            Panel(originals[number], "x", "what the device sees"),
            Panel(decoded.x_dec, "x_dec", f"from the packet alone, {without:.2f} dB"),
            Panel(decoded.image, "result", f"0.5000 bit per pixel, {with_side:.2f} dB"),
        ]
        if decoded.y_syn is not None:
            panels.insert(2, Panel(decoded.y_syn, "y_syn", "patches of the server's own view"))
        assert np.array_equal(read_image(tmp_path / picture_name(number)), side_by_side(panels))


def test_a_frame_without_a_side_image_ends_the_demo(pipe: Ends, tmp_path: Path) -> None:
    """With the reason, where the file of the picture tells one."""

    class Torn(SyntheticRig):
        def view(self, index: int, side: Any) -> Any:
            raise FrameError(f"{side} {index} is not an image")

    for source in (RIG, Torn(width=96, height=64, frames=2)):
        with _Gallery(pipe.theirs, tmp_path, stereo(source), None) as gallery:
            gallery.show(decoded_frame(3, side=False))
            gallery.finish()
    assert pipe.told() == [
        Failed("StreamError", "the server had no side image for frame 3"),
        Failed("FrameError", "right 1 is not an image"),
    ]
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_ends_the_demo(pipe: Ends, tmp_path: Path) -> None:
    with _Gallery(pipe.theirs, tmp_path / "none", STEREO, None) as gallery:
        gallery.show(decoded_frame(0))
        gallery.finish()
    *_, last = pipe.told()
    assert isinstance(last, Failed)
    assert last.kind == DsinError.__name__
    assert "frame_000000.png" in last.message


def test_a_bit_rate_is_kept_at_the_recordings_pace_and_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def for_bundle(*given: Any, **options: Any) -> str:
        asked.append((*given, options))
        return "controller"

    monkeypatch.setattr(demo_processes.RateController, "for_bundle", for_bundle)
    bundle: Any = "bundle"
    plain = Settings(None, None, 2, None, None, None, Path("out"), "cpu", None, None)
    assert plain.controller(bundle, RIG) is None
    assert replace(plain, kbps=40.5).controller(bundle, RIG) == "controller"
    assert asked == [("bundle", 40.5, frames_per_second(RIG), {"size": (64, 96)})]


@pytest.mark.parametrize("looked_at", [True, False])
def test_the_device_process_sends_what_it_was_asked_for(
    pipe: Ends, monkeypatch: pytest.MonkeyPatch, looked_at: bool
) -> None:
    """All frames as fast as both sides keep up, or at a pace, again and again."""
    made: dict[str, list[Any]] = {}

    def note(name: str, result: Any) -> None:
        def make(*given: Any, **options: Any) -> Any:
            made[name] = [*given, options]
            return result

        monkeypatch.setattr(demo_processes, name, make)

    def run() -> Any:
        made["Device"][-1]["on_frame"](answered("decoded"))
        return SimpleNamespace(captured=7)

    stopped = threading.Event()
    encoder = SimpleNamespace(bundle="opened")
    note("Encoder", nullcontext(encoder))
    note("PacketMaker", "maker")
    note("warm_up", None)
    note("open_recording", "recording")
    note("PlayedRecording", "camera")
    note("Device", SimpleNamespace(run=run, stop=stopped.set))
    monkeypatch.setattr(Settings, "source", lambda self: RIG)
    monkeypatch.setattr(Settings, "controller", lambda self, bundle, source: (bundle, source))
    monkeypatch.setattr(demo_processes, "_device_threads", lambda: 3)
    settings = Settings(
        Path("drive"), None, 2, "edge", 1, None, Path("out"), "cuda", 12.5 if looked_at else None,
        80 if looked_at else None,
    )  # fmt: skip
    pipe.ours.send("127.0.0.1:7")
    demo_processes.run_device(pipe.theirs, settings)
    assert made["Encoder"] == ["edge", "cuda", {"threads": 3}]
    assert made["PacketMaker"] == [encoder, 1, ("opened", RIG), {"independent": True}]
    assert made["warm_up"] == [encoder, (64, 96), {}]
    assert made["open_recording"] == ["drive", "left", 2, {}]
    assert made["PlayedRecording"] == [
        "recording",
        {"fps": settings.fps, "loop": looked_at, "every": not looked_at},
    ]
    *given, options = made["Device"]
    assert given == ["camera", "maker", "127.0.0.1:7", "demo"]
    assert (options["every"], options["give_up_s"]) == (not looked_at, 5.0)
    sent, finished = pipe.told()
    assert sent == SentFrame(3, 125, {"compute": 4.5}, 30.5)
    assert isinstance(finished, Finished)
    assert finished.captured == 7
    assert 0 <= finished.seconds < 60
    pipe.ours.send(STOP)
    assert stopped.wait(10), "the demo can end it at any time"


@pytest.mark.parametrize("traced", [True, False])
def test_the_server_process_serves_what_it_was_asked_for(
    pipe: Ends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, traced: bool
) -> None:
    asked: list[ServeOptions] = []

    @contextmanager
    def running(options: ServeOptions, on_frame: Any) -> Iterator[Any]:
        asked.append(options)
        yield SimpleNamespace(address="127.0.0.1:7", urls=["http://page/"], foxglove_url="ws://f")
        on_frame(decoded_frame(1))
        trace.add_slice("search", 1, 2)

    monkeypatch.setattr(demo_processes, "running_server", running)
    monkeypatch.setattr(Settings, "source", lambda self: STEREO)
    settings = Settings(
        Path("drive"), "right", 2, "edge", 1, None, tmp_path, "cuda", None, 81, 82, traced
    )
    pipe.ours.send(STOP)
    try:
        demo_processes.run_server(pipe.theirs, settings)
    finally:
        trace.stop_tracing()
    listening, *told = pipe.told()
    assert listening == Listening("127.0.0.1:7", ("http://page/", "ws://f in Foxglove"))
    kinds = [type(message) for message in told if not isinstance(message, Traced)]
    assert kinds == [Served, Finished]
    assert traced == any(isinstance(message, Traced) for message in told)
    (options,) = asked
    original = options.original
    assert original is not None
    assert np.array_equal(original(decoded_frame(3)), RIG.view(1, "left"))
    assert replace(options, original=None) == ServeOptions(
        "127.0.0.1:0", "edge", "cuda", sides=["right"], web=81, health=False, foxglove=82
    )
    pipe.ours.send(STOP)
    demo_processes.run_server(pipe.theirs, replace(settings, side=None, traced=False))
    assert asked[1].sides == ["drive"]


def test_a_process_of_the_demo_knows_that_it_shares_the_cores(
    pipe: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless somebody has said otherwise."""
    ran: list[tuple[object, ...]] = []
    settings = Settings(None, None, 2, None, None, None, Path("out"), "cpu", None, None)
    for given, known in ((None, "1"), ("0", "0")):
        monkeypatch.setenv("DSIN_SHARED_CORES", given or "")  # restored in the end
        if given is None:
            monkeypatch.delenv("DSIN_SHARED_CORES")
        demo_processes.in_own_process(lambda *call: ran.append(call), pipe.theirs, settings)
        assert os.environ["DSIN_SHARED_CORES"] == known
    assert ran == [(pipe.theirs, settings)] * 2
