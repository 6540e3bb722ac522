"""What each of the demo's two processes tells the one that started them."""

import threading
from collections.abc import Iterator
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
    SentFrame,
    Served,
    Settings,
    Traced,
    _Gallery,
    picture_name,
)
from dsin.runtime.device.device import AnsweredFrame, Device, MadeFrame
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.picture_files import read_image
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


RIG = SyntheticRig(width=96, height=64, frames=2)


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
    with _Gallery(pipe.theirs, tmp_path, RIG) as gallery:
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
        with _Gallery(pipe.theirs, tmp_path, source) as gallery:
            gallery.show(decoded_frame(3, side=False))
            gallery.finish()
    assert pipe.told() == [
        Failed("StreamError", "the server had no side image for frame 3"),
        Failed("FrameError", "right 1 is not an image"),
    ]
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_ends_the_demo(pipe: Ends, tmp_path: Path) -> None:
    with _Gallery(pipe.theirs, tmp_path / "none", RIG) as gallery:
        gallery.show(decoded_frame(0))
        gallery.finish()
    *_, last = pipe.told()
    assert isinstance(last, Failed)
    assert last.kind == DsinError.__name__
    assert "frame_000000.png" in last.message
