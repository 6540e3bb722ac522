"""Cameras: the newest frame wins, at a recording's pace and from a live device."""

import math
import queue
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.cameras import Camera, CapturedFrame, PlayedRecording, open_camera
from dsin.runtime.sources.capture_device import (
    CameraSpec,
    open_device,
    parse_camera_spec,
    shown_name,
)
from dsin.runtime.sources.live_camera import BAD_PICTURES, LiveCamera, to_rgb

SECOND_NS = 1_000_000_000
LONG_S = 30.0
"""For waits that end long before, unless something is broken."""


class Time:
    """A clock that moves only when somebody waits, or is said to work."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


class Counted:
    """A recording of `count` frames at 10 per second that notes which ones were read."""

    size = (2, 3)

    def __init__(self, count: int, times_ns: tuple[int, ...] | None = None) -> None:
        self.read: list[int] = []
        self._times_ns = times_ns or tuple(7 + n * SECOND_NS // 10 for n in range(count))

    def __len__(self) -> int:
        return len(self._times_ns)

    def timestamp_ns(self, number: int) -> int:
        return self._times_ns[number]

    def image(self, number: int) -> Image:
        self.read.append(number)
        return np.full((2, 3, 3), number, np.uint8)


def played(recording: Counted, time: Time, **options: Any) -> PlayedRecording:
    return PlayedRecording(recording, now=time.now, wait=time.passes, **options)


def rest(camera: Camera, *, busy: Time | None = None, busy_s: float = 0.0) -> list[CapturedFrame]:
    """All frames that a consumer gets who is busy for so long with each."""
    frames = []
    while not camera.ended:
        frame = camera.newest(timeout_s=LONG_S)
        assert frame is not None
        frames.append(frame)
        if busy is not None:
            busy.passes(busy_s)
    return frames


def test_a_fast_consumer_gets_every_frame_when_it_exists() -> None:
    time = Time()
    camera = played(Counted(4), time)
    frames = rest(camera)
    assert [frame.number for frame in frames] == [0, 1, 2, 3]
    assert np.allclose([frame.taken_s for frame in frames], [1000, 1000.1, 1000.2, 1000.3])
    assert [frame.timestamp_ns for frame in frames] == [7, 100000007, 200000007, 300000007]
    assert (camera.captured, camera.skipped, camera.fps, camera.clock) == (4, 0, 10.0, "recording")
    assert camera.newest(LONG_S) is None


def test_a_slow_consumer_gets_the_newest_and_the_others_are_never_read() -> None:
    time, recording = Time(), Counted(10)
    camera = played(recording, time)
    frames = rest(camera, busy=time, busy_s=0.25)
    assert [frame.number for frame in frames] == [0, 2, 5, 7, 9]
    assert recording.read == [0, 2, 5, 7, 9]
    assert (camera.captured, camera.skipped) == (10, 5)
    assert np.allclose([frame.taken_s - 1000 for frame in frames], [0, 0.2, 0.5, 0.7, 0.9])
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 2, 5, 7, 9]


def test_another_pace_keeps_the_recorded_timestamps() -> None:
    time = Time()
    camera = played(Counted(3), time, fps=20.0)
    frames = rest(camera)
    assert np.allclose([frame.taken_s - 1000 for frame in frames], [0, 0.05, 0.1])
    assert [frame.timestamp_ns for frame in frames] == [7, 100000007, 200000007]
    assert camera.fps == 20.0


def test_an_uneven_recording_keeps_its_rhythm() -> None:
    time = Time()
    camera = played(Counted(3, (0, SECOND_NS // 10, SECOND_NS)), time, fps=4.0)
    assert np.allclose([frame.taken_s - 1000 for frame in rest(camera)], [0, 0.05, 0.5])


def test_numbers_and_timestamps_go_on_when_a_recording_is_repeated() -> None:
    time, recording = Time(), Counted(3)
    camera = played(recording, time, loop=True)
    frames = [camera.newest(LONG_S) for _ in range(8)]
    seen = [frame for frame in frames if frame is not None]
    assert [frame.number for frame in seen] == list(range(8))
    assert [frame.timestamp_ns for frame in seen] == [7 + n * SECOND_NS // 10 for n in range(8)]
    assert [int(frame.image[0, 0, 0]) for frame in seen] == [0, 1, 2, 0, 1, 2, 0, 1]
    time.passes(1.0)
    late = camera.newest(LONG_S)
    assert late is not None
    assert (late.number, camera.skipped, camera.ended) == (17, 9, False)


def test_a_single_picture_can_be_repeated() -> None:
    camera = played(Counted(1), Time(), loop=True)
    frames = [camera.newest(LONG_S) for _ in range(3)]
    assert [frame and frame.timestamp_ns for frame in frames] == [7, 100000007, 200000007]


def test_every_frame_at_once_takes_no_time() -> None:
    time, recording = Time(), Counted(5)
    camera = played(recording, time, every=True)
    frames = rest(camera, busy=time, busy_s=3.0)
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert np.allclose([frame.taken_s - 1000 for frame in frames], [0, 3, 6, 9, 12])
    assert camera.skipped == 0


def test_a_timeout_gives_nothing_and_loses_nothing() -> None:
    time = Time()
    camera = played(Counted(2), time)
    assert camera.newest(0.0) is not None
    assert camera.newest(0.04) is None
    assert math.isclose(time.seconds, 1000.04)
    frame = camera.newest(0.07)
    assert frame is not None
    assert frame.number == 1


def test_two_cameras_with_one_start_stay_together() -> None:
    time = Time()
    first = played(Counted(20), time, start_s=1000.5)
    assert first.newest(0.2) is None
    frame = first.newest(LONG_S)
    assert frame is not None
    assert (frame.number, frame.taken_s) == (0, 1000.5)
    time.passes(0.75)
    second = played(Counted(20), time, start_s=1000.5)
    frames = first.newest(0.0), second.newest(0.0)
    assert [frame and frame.number for frame in frames] == [7, 7]
    assert (second.captured, second.skipped) == (1, 0)


def test_the_time_to_read_a_frame_is_told() -> None:
    time = Time()

    class Slow(Counted):
        def image(self, number: int) -> Image:
            time.passes(0.02)
            return super().image(number)

    frames = rest(played(Slow(3), time))
    assert np.allclose([frame.capture_ms for frame in frames], [0, 20, 20])
    assert np.allclose([frame.taken_s for frame in frames], [1000.02, 1000.12, 1000.22])


def test_a_frame_that_cannot_be_read_is_told_once() -> None:
    class Torn(Counted):
        def image(self, number: int) -> Image:
            if number == 1:
                raise FrameError("frame 1 is torn")
            return super().image(number)

    camera = played(Torn(3), Time())
    assert camera.newest(LONG_S) is not None
    with pytest.raises(FrameError, match="torn"):
        camera.newest(LONG_S)
    frame = camera.newest(LONG_S)
    assert frame is not None
    assert frame.number == 2


@given(
    count=st.integers(1, 6),
    fps=st.floats(0.5, 200),
    loop=st.booleans(),
    works=st.lists(st.floats(0, 5), max_size=30),
)
def test_frames_are_the_newest_and_all_are_accounted_for(
    count: int, fps: float, loop: bool, works: list[float]
) -> None:
    time = Time()
    camera = played(Counted(count), time, fps=fps, loop=loop)
    frames = []
    for work in works:
        frame = camera.newest(LONG_S)
        if frame is None:
            break
        frames.append(frame)
        assert frame.taken_s <= time.seconds + 1e-6
        age = time.seconds - frame.taken_s
        assert age < 1 / fps + 1e-6 or (not loop and frame.number == count - 1)
        time.passes(work)
    assert camera.captured == camera.skipped + len(frames)
    for before, after in pairwise(frames):
        assert before.number < after.number
        steps = after.number - before.number
        assert after.timestamp_ns - before.timestamp_ns == steps * SECOND_NS // 10


def test_close_ends_a_wait_from_another_thread() -> None:
    camera = PlayedRecording(Counted(2), fps=0.001)
    assert camera.newest(0.0) is not None
    timer = threading.Timer(0.05, camera.close)
    timer.start()
    assert camera.newest(500.0) is None
    assert camera.ended
    timer.join()


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none(fps: float) -> None:
    with pytest.raises(FrameError, match="frames per second: ask for more than 0"):
        PlayedRecording(Counted(2), fps=fps)
    with pytest.raises(FrameError, match="frames per second: ask for more than 0"):
        parse_camera_spec("camera:0", fps)


@pytest.mark.parametrize("start_s", [None, -100.0])
def test_a_repeated_recording_ends_after_so_many_frames(start_s: float | None) -> None:
    ticks = iter(0.01 * n for n in range(10_000))
    camera = PlayedRecording(
        Counted(3), loop=True, frames=7, start_s=start_s, now=lambda: next(ticks),
        wait=lambda _: None,
    )  # fmt: skip
    numbers = []
    while not camera.ended:
        if frame := camera.newest(1.0):
            numbers.append(frame.number)
    assert numbers == list(range(numbers[0], numbers[0] + 7))
    assert (numbers[0] > 100) == (start_s is not None)
    assert (camera.captured, camera.skipped) == (7, 0)


def test_recordings_and_cameras_are_told_apart(tmp_path: Path) -> None:
    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 5, 3), number, np.uint8))
    camera = open_camera(str(tmp_path), "right", frames=2, every=True)
    assert (camera.size, len(rest(camera)), camera.clock) == ((4, 5), 2, "recording")
    with pytest.raises(FrameError, match="only recordings can be repeated or paced"):
        open_camera("camera:0", loop=True)
    with pytest.raises(FrameError, match="there is no /dev/video987: "):
        open_camera("camera:987")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["video10", "video2"], "there are /dev/video2, /dev/video10"),
        ([], "this machine has no camera"),
    ],
)
def test_a_camera_that_is_not_there_tells_which_are(
    monkeypatch: pytest.MonkeyPatch, names: list[str], told: str
) -> None:
    monkeypatch.setattr(Path, "glob", lambda path, _: iter([path / name for name in names]))
    with pytest.raises(FrameError, match=f"there is no /dev/video987: {told}$"):
        open_device(CameraSpec("camera:987", "/dev/video987"))


# Live cameras. No test here has a real one: a device stands in whose pictures the test hands out.


class Device:
    """A camera that gives the pictures put into `pictures`, and ends with None as if unplugged."""

    def __init__(self, *first: npt.NDArray[Any] | None) -> None:
        self.pictures: queue.Queue[npt.NDArray[Any] | None] = queue.Queue()
        self.decoded = 0
        self.released = threading.Event()
        for picture in first:
            self.pictures.put(picture)

    def grab(self) -> bool:
        self._grabbed = self.pictures.get(timeout=LONG_S)
        return self._grabbed is not None

    def retrieve(self) -> tuple[bool, Any]:
        self.decoded += 1
        return True, self._grabbed

    def get(self, propId: int, /) -> float:
        return 30.0 if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released.set()


def bgr(number: int, size: tuple[int, int] = (4, 6)) -> npt.NDArray[np.uint8]:
    return np.full((*size, 3), (number, 20, 30), np.uint8)


class Rig:
    """A live camera whose devices, one after another, are the test's."""

    def __init__(self, *devices: Device | FrameError, **options: Any) -> None:
        self.time = Time()
        self._devices = iter(devices)
        self.attempts = 0
        self.camera = LiveCamera("camera:0", opened=self._opened, now=self.time.now, **options)

    def _opened(self, spec: CameraSpec) -> Device:
        self.attempts += 1
        device = next(self._devices, None)
        if device is None:
            raise FrameError("there is no /dev/video0")
        if isinstance(device, FrameError):
            raise device
        return device

    def wait_until_captured(self, count: int) -> None:
        """Until the camera's thread has seen so many pictures."""
        pause = threading.Event()
        for _ in range(int(LONG_S / 0.005)):
            if self.camera.captured >= count:
                return
            pause.wait(0.005)
        raise AssertionError(f"{self.camera.captured} frames captured, not {count}")

    def next_frame(self, device: Device, picture: npt.NDArray[Any]) -> CapturedFrame:
        """The frame of a picture that comes now."""
        device.pictures.put(picture)
        frame = self.camera.newest(LONG_S)
        assert frame is not None
        return frame


@pytest.fixture
def closing() -> Iterator[list[tuple[Rig, Device]]]:
    """Rigs to close after the test, with the device that then waits for a picture."""
    rigs: list[tuple[Rig, Device]] = []
    yield rigs
    for rig, device in rigs:
        device.pictures.put(None)
        rig.camera.close()


def test_a_live_camera_gives_the_newest_picture(closing: list[tuple[Rig, Device]]) -> None:
    device = Device(bgr(9))
    rig = Rig(device)
    closing.append((rig, device))
    assert (rig.camera.size, rig.camera.fps, rig.camera.clock) == ((4, 6), 30.0, "live")
    for number in range(3):
        device.pictures.put(bgr(number))
    rig.wait_until_captured(3)
    rig.time.passes(0.5)
    frame = rig.camera.newest(LONG_S)
    assert frame is not None
    assert (frame.number, frame.image[0, 0].tolist()) == (2, [30, 20, 2])
    assert (frame.taken_s, frame.capture_ms) == (1000.0, 0.0)
    assert rig.camera.newest(0.01) is None
    assert rig.next_frame(device, bgr(3)).taken_s == 1000.5
    assert (rig.camera.captured, rig.camera.skipped, rig.camera.ended) == (4, 2, False)


def test_whoever_waits_gets_the_next_picture(closing: list[tuple[Rig, Device]]) -> None:
    device = Device(bgr(0))
    rig = Rig(device)
    closing.append((rig, device))
    handing_on = threading.Timer(0.05, device.pictures.put, [bgr(7)])
    handing_on.start()
    frame = rig.camera.newest(LONG_S)
    handing_on.join()
    assert frame is not None
    assert frame.image[0, 0, 2] == 7


def test_the_wall_clock_may_step_and_timestamps_do_not(
    closing: list[tuple[Rig, Device]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsin.runtime.sources.live_camera.now_ns", lambda: 50 * SECOND_NS)
    device = Device(bgr(0))
    rig = Rig(device)
    closing.append((rig, device))
    first = rig.next_frame(device, bgr(0))
    monkeypatch.setattr("time.time_ns", lambda: 9000 * SECOND_NS)
    rig.time.passes(0.25)
    second = rig.next_frame(device, bgr(0))
    assert (first.timestamp_ns, second.timestamp_ns) == (50 * SECOND_NS, 50_250_000_000)


def test_a_live_camera_ends_after_so_many_frames(closing: list[tuple[Rig, Device]]) -> None:
    device = Device(bgr(0))
    rig = Rig(device, frames=2)
    closing.append((rig, device))
    assert rig.next_frame(device, bgr(0)).number == 0
    assert not rig.camera.ended
    assert rig.next_frame(device, bgr(0)).number == 1
    assert rig.camera.ended
    rig.time.passes(1000.0)
    assert rig.camera.newest(LONG_S) is None, "nothing is missing"
    assert device.released.wait(LONG_S)


def test_no_frames_at_all_are_refused() -> None:
    with pytest.raises(FrameError, match="0 frames: ask for at least one"):
        Rig(Device(), frames=0)


def test_a_camera_that_comes_back_goes_on(closing: list[tuple[Rig, Device]]) -> None:
    before, after = Device(bgr(0)), Device()
    rig = Rig(before, FrameError("still absent"), after)
    closing.append((rig, after))
    assert rig.next_frame(before, bgr(0)).number == 0
    before.pictures.put(None)
    assert rig.camera.newest(0.01) is None
    frame = rig.next_frame(after, bgr(5))
    assert (frame.number, frame.image[0, 0, 2]) == (1, 5)
    assert (rig.attempts, before.released.is_set()) == (3, True)


def test_a_camera_that_stays_away_is_reported(closing: list[tuple[Rig, Device]]) -> None:
    device = Device(bgr(0), None)
    rig = Rig(device, patience_s=5.0)
    closing.append((rig, device))
    rig.time.passes(4.9)
    assert rig.camera.newest(0.01) is None
    rig.time.passes(0.2)
    with pytest.raises(FrameError, match=r"camera:0 has given no picture for 5 s: (check|there)"):
        rig.camera.newest(0.01)
    assert not rig.camera.ended


def test_a_long_absence_is_reported_more_and_more_rarely(
    closing: list[tuple[Rig, Device]],
) -> None:
    """Callers ask four times a second, and log each report."""
    device = Device(bgr(0), None)
    rig = Rig(device, patience_s=5.0)
    closing.append((rig, device))
    reported = []
    for quarter in range(1, 400):
        rig.time.passes(0.25)
        try:
            assert rig.camera.newest(0.0) is None
        except FrameError:
            reported.append(quarter / 4)
    assert reported == [5.25, 10.25, 20.25, 40.25, 80.25]


def test_an_absence_is_reported_again_once_it_is_longer_than_twice_the_last_bound(
    closing: list[tuple[Rig, Device]],
) -> None:
    """After a report at 20 s, twice 5 s doubled, the next one comes after 20 s."""
    device = Device(bgr(0), None)
    rig = Rig(device, patience_s=5.0)
    closing.append((rig, device))
    for passed, told_s in ((20.0, 20), (0.25, 20), (19.75, None), (0.25, 40)):
        rig.time.passes(passed)
        if told_s is None:
            assert rig.camera.newest(0.0) is None
            continue
        with pytest.raises(FrameError, match=f"no picture for {told_s} s: "):
            rig.camera.newest(0.0)


def test_another_size_after_the_return_is_refused(closing: list[tuple[Rig, Device]]) -> None:
    device, other = Device(bgr(0), None), Device()
    rig = Rig(device, other)
    closing.append((rig, other))
    with pytest.raises(FrameError, match="now gives 6x8 instead of 6x4"):
        rig.next_frame(other, bgr(0, (8, 6)))


def test_an_internal_fault_of_the_thread_reaches_the_caller(
    closing: list[tuple[Rig, Device]],
) -> None:
    class Broken(Device):
        def retrieve(self) -> tuple[bool, Any]:
            if self.decoded > 0:
                raise ZeroDivisionError
            return super().retrieve()

    device = Broken(bgr(0))
    rig = Rig(device)
    closing.append((rig, device))
    with pytest.raises(ZeroDivisionError):
        rig.next_frame(device, bgr(1))
    assert device.released.wait(LONG_S)


def test_close_ends_a_live_wait() -> None:
    device = Device(bgr(0))
    rig = Rig(device)
    device.pictures.put(None)  # so that the thread is not within a grab
    timer = threading.Timer(0.05, rig.camera.close)
    timer.start()
    assert rig.camera.newest(LONG_S) is None
    assert rig.camera.ended
    timer.join()
    rig.camera.close()
    assert device.released.is_set()
    rig.time.passes(1000.0)
    assert rig.camera.newest(LONG_S) is None, "nothing is missing"


@pytest.mark.parametrize(
    ("picture", "spec", "complaint"),
    [
        (None, "camera:0", "can be opened, but gives no picture"),
        (bgr(0), "camera:0,width=640,height=480", "gives 6x4, not 640x480: ask for a size"),
        (bgr(0).astype(np.uint16), "camera:0", "4x6x3 uint16: 8-bit BGR, BGRA or grey is needed"),
        (np.zeros((4, 6, 2), np.uint8), "camera:0", "4x6x2 uint8: 8-bit BGR"),
        (np.zeros((0, 6, 3), np.uint8), "camera:0", "0x6x3 uint8: 8-bit BGR"),
    ],
)
def test_a_camera_that_will_not_do_is_given_back(
    picture: npt.NDArray[Any] | None, spec: str, complaint: str
) -> None:
    device = Device(picture, picture, picture)
    with pytest.raises(FrameError, match=complaint):
        LiveCamera(spec, opened=lambda spec: device)
    assert device.released.is_set()


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.full((2, 3), 9, np.uint8), [9, 9, 9]),
        (np.full((2, 3, 1), 9, np.uint8), [9, 9, 9]),
        (np.full((2, 3, 3), (1, 2, 3), np.uint8), [3, 2, 1]),
        (np.full((2, 3, 4), (1, 2, 3, 255), np.uint8), [3, 2, 1]),
    ],
)
def test_grey_and_four_channels_become_rgb(
    picture: npt.NDArray[np.uint8], expected: list[int]
) -> None:
    image = to_rgb(picture, "camera:0")
    assert (image.shape, image[1, 2].tolist()) == ((2, 3, 3), expected)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("camera:0", CameraSpec("camera:0", "/dev/video0")),
        ("camera:/dev/video2", CameraSpec("camera:/dev/video2", "/dev/video2")),
        (
            "camera:1,width=1280,height=720,fps=29.97,fourcc=MJPG",
            CameraSpec("camera:1", "/dev/video1", "v4l2", 1280, 720, 29.97, "MJPG"),
        ),
        ("gst:videotestsrc", CameraSpec("the GStreamer camera", "videotestsrc", "gstreamer")),
        (
            "gst:videotestsrc ! appsink drop=true max-buffers=1",  # as OpenCV wanted it
            CameraSpec("the GStreamer camera", "videotestsrc", "gstreamer"),
        ),
        (
            "rtsp://user:secret@10.0.0.2:554/a?b=c,d",
            CameraSpec(
                "rtsp://10.0.0.2:554/a?b=c,d", "rtsp://user:secret@10.0.0.2:554/a?b=c,d", "network"
            ),
        ),
    ],
)
def test_names_of_cameras(spec: str, expected: CameraSpec) -> None:
    assert parse_camera_spec(spec) == expected


def test_a_rate_may_be_asked_for_beside_the_name() -> None:
    assert parse_camera_spec("camera:0", 15.0).fps == 15.0
    assert parse_camera_spec("camera:0,fps=15", 15.0).fps == 15.0
    with pytest.raises(FrameError, match=r"asks for 15 frames per second, not 20\.0"):
        parse_camera_spec("camera:0,fps=15", 20.0)
    with pytest.raises(FrameError, match="have their rate in the pipeline"):
        parse_camera_spec("gst:videotestsrc ! appsink", 20.0)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("webcam", "is not a camera: write camera:0"),
        ("camera:", "name the camera by number or path"),
        ("camera:-1", "name the camera by number or path"),
        ("camera:video0", "name the camera by number or path"),
        ("camera:0,width=0", "'width=0' is not an option; there are width="),
        ("camera:0,width=wide", "is not an option"),
        ("camera:0,fps=0", "is not an option"),
        ("camera:0,fourcc=MPEG4", "is not an option"),
        ("camera:0,zoom=2", "'zoom=2' is not an option"),
        ("gst:", "gst: names no pipeline"),
        ("gst: ! appsink", "gst: names no pipeline"),
        ("gst:v4l2src ! autovideosink", "leave the sink autovideosink out"),
        ("gst:filesrc location='a b", "a quotation mark is not closed"),
    ],
)
def test_names_that_are_no_cameras(spec: str, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint) as told:
        parse_camera_spec(spec)
    assert "\n" not in str(told.value)


@given(text=st.text(max_size=40))
def test_any_name_is_a_camera_or_an_error(text: str) -> None:
    for prefix in ("camera:", "camera:0,", "gst:", "udp://"):
        try:
            spec = parse_camera_spec(prefix + text)
        except FrameError:
            continue
        kinds = {"gst:": "gstreamer", "udp://": "network"}
        assert spec.kind == kinds.get(prefix, "v4l2")


def test_passwords_of_network_cameras_are_not_shown() -> None:
    assert shown_name("rtsp://user:secret@10.0.0.2/a") == "rtsp://10.0.0.2/a"
    assert shown_name("a@b/c") == "a@b/c"
    with pytest.raises(FrameError, match=r"^rtsp://10.0.0.2/a has a rate of its own"):
        parse_camera_spec("rtsp://user:secret@10.0.0.2/a", 5.0)


class Video4Linux:
    """What OpenCV opens: it takes what it is asked for, but sends `fourcc`."""

    def __init__(self, fourcc: str) -> None:
        self.set_to: list[tuple[int, float]] = []
        self.released = False
        self._code = float(cv2.VideoWriter.fourcc(*fourcc))

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, option: int, value: float) -> bool:
        self.set_to.append((option, value))
        return True

    def get(self, option: int) -> float:
        return self._code if option == cv2.CAP_PROP_FOURCC else 0.0

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize("sends", ["MJPG", "YUYV"])
def test_an_mjpeg_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: str) -> None:
    (tmp_path / "video0").touch()
    device = Video4Linux(sends)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: device)
    spec = CameraSpec("camera:0", str(tmp_path / "video0"), "v4l2", 64, 48, 30.0, "MJPG")
    if sends == "MJPG":
        assert open_device(spec) is device
        assert device.set_to == [
            (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
            (cv2.CAP_PROP_FRAME_WIDTH, 64), (cv2.CAP_PROP_FRAME_HEIGHT, 48), (cv2.CAP_PROP_FPS, 30),
        ]  # fmt: skip
        return
    with pytest.raises(FrameError, match="camera:0 sends YUYV, not MJPG: ask for a format"):
        open_device(spec)
    assert device.released


class BadCable(Device):
    """Pictures that are 0 throughout arrive damaged."""

    def retrieve(self) -> tuple[bool, Any]:
        read, picture = super().retrieve()
        return read and bool(picture[0, 0, 0]), picture


def test_single_pictures_that_are_damaged_are_left_out(closing: list[tuple[Rig, Device]]) -> None:
    device = BadCable(bgr(9))
    rig = Rig(device)
    closing.append((rig, device))
    for captured in (1, 2):
        for _ in range(BAD_PICTURES - 1):
            device.pictures.put(bgr(0))
        assert rig.next_frame(device, bgr(7)).image[0, 0, 2] == 7
        assert (rig.attempts, rig.camera.captured) == (1, captured)


def test_a_camera_that_gives_damaged_pictures_only_is_opened_anew(
    closing: list[tuple[Rig, Device]],
) -> None:
    device, after = BadCable(bgr(9), *[bgr(0)] * BAD_PICTURES), Device()
    rig = Rig(device, after)
    closing.append((rig, after))
    assert rig.next_frame(after, bgr(5)).image[0, 0, 2] == 5
    assert device.released.is_set()


def test_the_way_of_a_lost_camera_is_logged(
    closing: list[tuple[Rig, Device]], caplog: pytest.LogCaptureFixture
) -> None:
    before, after = Device(bgr(0), None), Device()
    rig = Rig(before, after)
    closing.append((rig, after))
    rig.next_frame(after, bgr(5))
    assert [record.getMessage() for record in caplog.records] == [
        "camera:0 gives no picture any more: looking for it again", "camera:0 is back"
    ]  # fmt: skip


def test_a_file_that_is_no_camera(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "video0").write_text("no device")
    with pytest.raises(FrameError, match="cannot be opened: it is not a camera"):
        open_device(CameraSpec("camera:x", str(tmp_path / "video0")))
    assert capfd.readouterr().err == ""
