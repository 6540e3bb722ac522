"""GStreamer pipelines and network streams as live cameras; and what ends them."""

import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.video_sender import LONG_S, SIZE, Sender, free_port

from dsin.runtime.errors import FrameError
from dsin.runtime.sources import av_device, gst_device
from dsin.runtime.sources.av_device import AvDevice
from dsin.runtime.sources.cameras import Camera, CapturedFrame, open_camera
from dsin.runtime.sources.capture_device import parse_camera_spec
from dsin.runtime.sources.gst_device import gstreamer_message, launch_command

has_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed"
)


@pytest.fixture
def opened() -> Iterator[Callable[[str], Camera]]:
    cameras: list[Camera] = []

    def open_one(spec: str) -> Camera:
        cameras.append(open_camera(spec))
        return cameras[-1]

    yield open_one
    for camera in cameras:
        camera.close()


def frame_of(camera: Camera) -> CapturedFrame:
    """The next frame, however long the camera is away meanwhile."""
    until_s = time.monotonic() + LONG_S
    while time.monotonic() < until_s:
        try:
            frame = camera.newest(1.0)
        except FrameError:
            continue
        if frame is not None:
            return frame
    raise AssertionError("no frame came")


# The real thing.

SOURCE = "videotestsrc pattern=red ! video/x-raw,width=64,height=48,framerate=20/1"


@has_gstreamer
def test_a_pipeline_is_a_camera_and_is_started_again(
    opened: Callable[[str], Camera], caplog: pytest.LogCaptureFixture
) -> None:
    camera = opened(f"gst:{SOURCE.replace('src', 'src num-buffers=4', 1)} ! appsink drop=true")
    assert (camera.size, camera.fps, camera.clock) == (SIZE, 20.0, "live")
    first = frame_of(camera)
    assert first.image[5, 5].tolist() == [255, 0, 0]
    while frame_of(camera).number < 6:  # of the second run
        pass
    told = [record.getMessage() for record in caplog.records]
    assert "the GStreamer camera has ended: looking for it again" in told
    assert "the GStreamer camera is back" in told


@has_gstreamer
@pytest.mark.parametrize(
    ("pipeline", "complaint"),
    [
        ("videotestsrc ! nosuch", r'the GStreamer camera: no element "nosuch"$'),
        ("videotestsrc ! video/x-raw,format=FOO", "could not link"),
        ("videotestsrc !", "syntax error"),
        ("filesrc location=/nowhere ! decodebin", r"Resource not found. \(No such file"),
    ],
)
def test_gstreamer_says_what_is_wrong_with_a_pipeline(pipeline: str, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint) as told:
        open_camera(f"gst:{pipeline}")
    assert "\n" not in str(told.value)


@has_gstreamer
def test_a_pipeline_is_open_with_its_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are read ahead would all come at once, later than they were taken."""
    sizes = []
    read = gst_device._Child.read

    def counted(self: gst_device._Child, size: int) -> bytes:
        content = read(self, size)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(gst_device._Child, "read", counted)
    pipeline = "videotestsrc num-buffers=30 ! video/x-raw,width=320,height=240,framerate=5/1"
    device = gst_device.open_pipeline(parse_camera_spec(f"gst:{pipeline}"))
    read_ahead = sum(sizes)
    assert device.get(cv2.CAP_PROP_FPS) == 5
    device.release()
    assert read_ahead < 3 * 320 * 240 * 3


@has_gstreamer
def test_a_pipeline_ends_with_its_camera() -> None:
    camera = open_camera(f"gst:{SOURCE}")
    (child,) = gst_device._RUNNING
    frame_of(camera)
    camera.close()
    assert child._process.wait(LONG_S) is not None
    assert not gst_device._RUNNING


# A stand-in, which behaves as gst-launch-1.0 does as seen from outside.

STAND_IN = """\
import os, sys, time
import av, numpy as np
descriptor = int(next(a for a in sys.argv if a.startswith("fd="))[3:])
what = sys.argv[2]
print("Setting pipeline to PAUSED ...", flush=True)
if what == "broken":
    print("WARNING: erroneous pipeline: no element \\"broken\\"", file=sys.stderr)
    sys.exit(1)
if what == "silent":
    time.sleep(60)

class Pipe:
    def write(self, data):
        os.write(descriptor, data)

with av.open(Pipe(), "w", "matroska") as video:
    track = video.add_stream("ffv1", rate=20)
    track.width, track.height, track.pix_fmt = 64, 48, "bgr0"
    for number in range(3 if what == "dies" else 2000):
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40, np.uint8), "rgb24")
        for packet in track.encode(picture.reformat(format="bgr0")):
            video.mux(packet)
        time.sleep(0.02)
print("ERROR: from element /GstPipeline:pipeline0/x: the sensor is gone", file=sys.stderr)
sys.exit(1)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gst-launch-1.0"
    program.write_text(f"#!{sys.executable}\n{STAND_IN}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("stand_in")
def test_a_child_that_dies_is_reported_in_its_own_words_and_started_again(
    opened: Callable[[str], Camera], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        camera = opened("gst:dies")
        assert camera.size == SIZE
        while "is back" not in caplog.text:
            assert frame_of(camera).image[0, 0].tolist() == [40, 40, 40]
    assert "the sensor is gone: looking for it again" in caplog.text


@pytest.mark.usefixtures("stand_in")
def test_a_child_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FrameError, match=r'^the GStreamer camera: no element "broken"$'):
        open_camera("gst:broken")
    monkeypatch.setattr(gst_device, "SILENCE_S", 0.5)
    monkeypatch.setattr(gst_device, "END_S", 0.5)
    with pytest.raises(FrameError, match=r"has given no picture for \d s"):
        open_camera("gst:silent")
    assert not gst_device._RUNNING
    assert capfd.readouterr().err == ""


def test_without_gstreamer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing stays open of an attempt, of which there may be many."""
    monkeypatch.setenv("PATH", "/nowhere")
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    for _ in range(3):
        with pytest.raises(FrameError, match=r"needs gst-launch-1\.0, which is missing: install"):
            open_camera("gst:videotestsrc")
    assert (len(list(descriptors.iterdir())) if descriptors.exists() else 0) <= before


def test_without_pyav_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for spec in ("gst:videotestsrc", "udp://127.0.0.1:1"):
        with pytest.raises(FrameError, match=r"needs PyAV: pip install 'dsin\[video\]'"):
            open_camera(spec)


def test_words_of_a_pipeline_are_as_a_shell_has_them() -> None:
    command = launch_command("filesrc location='a b' ! decodebin", 7)
    assert command[:6] == ["gst-launch-1.0", "-q", "filesrc", "location=a b", "!", "decodebin"]
    assert "fd=7" in command


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["ERROR: from element a: no", "Additional debug info:", "a.c(5)", "system error: gone"],
            "from element a: no (gone)",
        ),
        (["ERROR: from a: no", "Additional debug info:", "a.c(5)", "ERROR: b"], "from a: no"),
        (['WARNING: erroneous pipeline: no element "a"'], 'no element "a"'),
        (
            ['WARNING: erroneous pipeline: no element "matroskamux"'],
            'no element "matroskamux" (install gstreamer1.0-plugins-good)',
        ),
        (["Setting pipeline to PLAYING"], ""),
    ],
)
def test_the_line_that_counts(lines: list[str], message: str) -> None:
    assert gstreamer_message(lines) == message


# Network streams, from senders of FFmpeg's.


@pytest.mark.parametrize("protocol", ["http", "mjpeg", "rtsp", "udp"])
def test_a_network_stream_is_a_camera_and_is_looked_for_again(
    protocol: str,
    opened: Callable[[str], Camera],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(av_device, "READ_S", 1.0)
    port = free_port(protocol)
    address = f"{protocol.replace('mjpeg', 'http')}://127.0.0.1:{port}"
    sender = Sender(protocol, port, 60)
    camera = opened_when_ready(opened, address)
    assert (camera.size, camera.clock) == (SIZE, "live")
    assert abs(int(frame_of(camera).image[24, 32, 1]) - 60) < 8
    sender.stop()
    again = Sender(protocol, port, 200)
    while abs(int(frame_of(camera).image[24, 32, 1]) - 200) >= 8:
        pass
    if protocol != "udp":  # a sender of datagrams may come back without anybody noticing
        assert f"{address} is back" in caplog.text
    again.stop()


class Stored:
    """A stream of 25 pictures a second that begins with as many as were `stored`, at once."""

    def __init__(self, stored: int, form: str = "rtsp", count: int = 100) -> None:
        self.format = SimpleNamespace(name=form)
        self.streams = SimpleNamespace(video=[SimpleNamespace(thread_type="")])
        self.now_s = 0.0
        self._stored, self._count = stored, count

    def demux(self, stream: object) -> Iterator[Any]:
        for number in range(self._count):
            self.now_s += 1 / 128 if number < self._stored else 0.038
            frame = SimpleNamespace(
                time=number / 25, key_frame=True, is_corrupt=False, number=number
            )
            yield SimpleNamespace(decode=lambda frame=frame: [frame])


@pytest.mark.parametrize(
    ("stream", "first"),
    [
        (Stored(30), 30),
        (Stored(1), 1),
        (Stored(10, count=10), 9),  # it ends with these
        (Stored(30, "mpjpeg"), 0),  # their times are made up
        (Stored(300, count=400), 256),  # a file that a server gives as fast as it can
    ],
)
def test_pictures_that_were_stored_before_a_stream_was_opened_are_left_out(
    stream: Stored, first: int
) -> None:
    device = AvDevice(stream, "camera", catch_up=True, now=lambda: stream.now_s)
    numbers = [device.grab() and device._grabbed.number for _ in range(1 + (first != 9))]
    assert numbers == [first, first + 1][: len(numbers)]
    every = AvDevice(Stored(30), "pipeline")
    assert every.grab()
    assert every._grabbed.number == 0


class Shown:
    """A decoded picture, 2x3, whose pixels count from 0."""

    def __init__(self, rotation: int = 0, **marks: bool) -> None:
        self.rotation, self.time = rotation, None
        self.key_frame = self.is_corrupt = self.interlaced_frame = False
        self.__dict__ |= marks

    def to_ndarray(self, format: str) -> Any:
        assert format == "bgr24"
        return np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def device_of(*frames: Shown) -> AvDevice:
    packets = [SimpleNamespace(decode=lambda frame=frame: [frame]) for frame in frames]
    stream = SimpleNamespace(thread_type="", average_rate=None)
    container: Any = Stored(0)
    container.streams = SimpleNamespace(video=[stream])
    container.demux = lambda stream: iter(packets)
    return AvDevice(container, "camera")


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_pictures_are_turned_upright(rotation: int) -> None:
    device = device_of(Shown(rotation, key_frame=True))
    assert device.grab()
    read, picture = device.retrieve()
    assert read
    np.testing.assert_array_equal(picture, np.rot90(Shown().to_ndarray("bgr24"), rotation // 90))
    assert device.get(cv2.CAP_PROP_FPS) == 0, "it tells none"


def test_pictures_without_a_beginning_and_damaged_ones_are_left_out() -> None:
    last = Shown()
    device = device_of(Shown(), Shown(), Shown(key_frame=True, is_corrupt=True), last)
    assert device.grab()
    assert device._grabbed is last
    with pytest.raises(FrameError, match=r"^camera has ended$"):
        device.grab()


def test_interlaced_streams_and_those_without_pictures_are_refused() -> None:
    device = device_of(Shown(key_frame=True, interlaced_frame=True))
    assert device.grab()
    with pytest.raises(FrameError, match=r"camera is interlaced: set the camera to whole pictures"):
        device.retrieve()
    empty = SimpleNamespace(streams=SimpleNamespace(video=[]))
    with pytest.raises(FrameError, match=r"^camera has no video$"):
        AvDevice(empty, "camera")


def opened_when_ready(opened: Callable[[str], Camera], address: str) -> Camera:
    for _ in range(50):
        try:
            return opened(address)
        except FrameError:
            time.sleep(0.1)
    raise AssertionError(f"nobody sends at {address}")


def test_a_stream_that_is_not_there() -> None:
    port = free_port("http")
    with pytest.raises(FrameError, match="cannot be opened: connection refused; check the add"):
        open_camera(f"http://user:secret@127.0.0.1:{port}/live")
    with pytest.raises(FrameError) as told:
        open_camera(f"rtsp://user:secret@127.0.0.1:{port}/live")
    assert "secret" not in str(told.value)
