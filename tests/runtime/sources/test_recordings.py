"""Recordings: which folder is read in which way, and what is said about the others."""

import contextlib
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import StereoSide
from dsin.runtime.sources.kitti import read_times
from dsin.runtime.sources.recordings import (
    RENDERED,
    Recording,
    _rendered,
    draw_ahead,
    open_recording,
    open_stereo,
)
from dsin.runtime.sources.resized import resized
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.sources.video_file import VideoFile

INTERVAL_NS = 100_000_000


def write_picture(path: Path, number: int, size: tuple[int, int] = (40, 60)) -> None:
    """A plain picture that tells its number by its red channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), (7, 60, 10 * number), np.uint8))


def numbers(recording: Recording) -> list[int]:
    """What each picture tells, in tenths of its red channel."""
    return [round(recording.image(n)[:, :, 0].mean() / 10) for n in range(len(recording))]


def times_ms(recording: Recording) -> list[float]:
    return [recording.timestamp_ns(n) / 1e6 for n in range(len(recording))]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A KITTI raw drive; the right camera's pictures count from 10, its times are 2 ms later."""
    for camera, first, late in (("image_02", 0, 0), ("image_03", 10, 2)):
        for number in range(3):
            write_picture(tmp_path / camera / "data" / f"{number:010d}.png", first + number)
        lines = [f"2011-09-26 13:02:25.{n}0{late}00000\n" for n in range(3)]
        (tmp_path / camera / "timestamps.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def odometry(tmp_path: Path) -> Path:
    for number in range(3):
        write_picture(tmp_path / "image_2" / f"{number:06d}.png", number)
        write_picture(tmp_path / "image_3" / f"{number:06d}.png", 10 + number)
    (tmp_path / "times.txt").write_text("0.000000e+00\n1.036224e-01\n2.070940e-01\n")
    return tmp_path


def stereo(root: Path, cameras: tuple[str, str]) -> Path:
    """Two scenes of KITTI's stereo data, of two sizes; the `_11` pictures are other moments."""
    for camera, first in zip(cameras, (0, 10), strict=True):
        for scene, size in enumerate(((40, 62), (42, 60))):
            write_picture(root / camera / f"{scene:06d}_10.png", first + scene, size)
            write_picture(root / camera / f"{scene:06d}_11.png", 20, size)
    return root


@pytest.mark.parametrize(("side", "seen"), [("left", [0, 1, 2]), ("right", [10, 11, 12])])
def test_both_sides_of_a_raw_drive_have_the_left_cameras_times(
    raw: Path, side: StereoSide, seen: list[int]
) -> None:
    recording = open_recording(str(raw), side)
    assert (recording.size, numbers(recording)) == ((40, 60), seen)
    assert recording.timestamp_ns(0) == 1_317_042_145_000_000_000
    assert recording.timestamp_ns(2) - recording.timestamp_ns(0) == 2 * INTERVAL_NS


def test_a_device_may_have_its_own_camera_only(raw: Path) -> None:
    (raw / "image_02").rename(raw / "elsewhere")
    recording = open_recording(str(raw), "right")
    assert numbers(recording) == [10, 11, 12]
    assert recording.timestamp_ns(0) == 1_317_042_145_002_000_000
    with pytest.raises(
        FrameError, match=r"no .*image_02.data: the folder has the other camera only"
    ):
        open_recording(str(raw), "left")


def test_an_odometry_sequence_has_times_in_seconds(odometry: Path) -> None:
    recording = open_recording(str(odometry), "right")
    assert numbers(recording) == [10, 11, 12]
    assert times_ms(recording) == [0, 103.6224, 207.094]
    assert times_ms(open_recording(str(odometry), "left", frames=2)) == [0, 103.6224]


@pytest.mark.parametrize("cameras", [("image_2", "image_3"), ("colored_0", "colored_1")])
def test_stereo_data_are_scenes_cut_to_one_size(tmp_path: Path, cameras: tuple[str, str]) -> None:
    stereo(tmp_path, cameras)
    for side, seen in (("left", [0, 1]), ("right", [10, 11])):
        recording = open_recording(str(tmp_path), "left" if side == "left" else "right")
        assert (recording.size, numbers(recording), times_ms(recording)) == (
            (40, 60),
            seen,
            [0, 100],
        )
        assert {recording.image(n).shape for n in (0, 1)} == {(40, 60, 3)}


def test_scenes_are_cut_around_the_centre(tmp_path: Path) -> None:
    stereo(tmp_path, ("image_2", "image_3"))
    marked = np.zeros((42, 60, 3), np.uint8)
    marked[1, 0] = 255
    assert cv2.imwrite(str(tmp_path / "image_2" / "000001_10.png"), marked)
    picture = open_recording(str(tmp_path), "left").image(1)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert int((picture > 0).sum()) == 3


def test_a_right_scene_smaller_than_the_left_ones_is_refused(tmp_path: Path) -> None:
    stereo(tmp_path, ("image_2", "image_3"))
    write_picture(tmp_path / "image_3" / "000001_10.png", 11, (39, 60))
    with pytest.raises(FrameError, match="is 60x39, smaller than the 60x40"):
        open_recording(str(tmp_path), "right").image(1)


def test_two_folders_and_one_folder(tmp_path: Path) -> None:
    for number in range(2):
        write_picture(tmp_path / "left" / f"{number}.png", number)
        write_picture(tmp_path / "right" / f"{number}.jpg", 10 + number)
    assert numbers(open_recording(str(tmp_path), "right")) == [10, 11]
    for side in ("left", "right"):
        one = open_recording(str(tmp_path / "left"), "left" if side == "left" else "right")
        assert (numbers(one), times_ms(one)) == ([0, 1], [0, 100])


def test_what_is_drawn_ahead_is_drawn_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def view(rig: SyntheticRig, number: int, side: str) -> Image:
        drawn.append(number)
        return np.full((*rig.size, 3), number, np.uint8)

    monkeypatch.setattr(SyntheticRig, "view", view)
    _rendered.cache_clear()
    try:
        first, second = (open_recording("synthetic:40", "left") for _ in range(2))
        draw_ahead(first)
        assert drawn == list(range(RENDERED))
        assert second.image(RENDERED - 1)[0, 0, 0] == RENDERED - 1
        assert drawn == list(range(RENDERED))
        assert second.image(RENDERED)[0, 0, 0] == RENDERED == drawn[-1]
    finally:
        _rendered.cache_clear()


def test_files_are_not_read_ahead(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", 0)
    recording = open_recording(str(tmp_path), "left")
    (tmp_path / "0.png").unlink()
    draw_ahead(recording)


def test_the_synthetic_rig() -> None:
    assert len(open_recording("synthetic", "left")) == 20
    assert len(open_recording("synthetic", "left", frames=30)) == 30
    recording = open_recording("synthetic:2", "right")
    assert (len(recording), recording.size, times_ms(recording)) == (2, (375, 1242), [0, 100])
    assert np.array_equal(recording.image(1), SyntheticRig(frames=2).view(1, "right"))


def test_real_kitti_drives_and_pairs(shared: Path | None, tmp_path: Path) -> None:
    if shared is None:
        pytest.skip("no KITTI frames beside the repository")
    kitti = shared / "data" / "kitti"
    drive = sorted(kitti.glob("*_sync"))[0]
    left, right = (open_recording(str(drive), "left"), open_recording(str(drive), "right"))
    assert (len(left), len(right), left.size) == (60, 60, right.size)
    assert times_ms(left) == times_ms(right)
    assert not np.array_equal(left.image(59), right.image(59))
    for name, camera in (("left", "image_2"), ("right", "image_3")):
        (tmp_path / camera).mkdir()
        for picture in sorted((kitti / "val").glob(f"*_10_{name}.webp")):
            stem = picture.stem.removesuffix(f"_{name}").removeprefix("k15_")
            (tmp_path / camera / f"{stem}.webp").symlink_to(picture)
    scenes = open_recording(str(tmp_path), "right")
    assert len(scenes) > 10
    assert {scenes.image(n).shape[:2] for n in range(len(scenes))} == {scenes.size}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("", "there is no ''"),
        ("nowhere", "there is no '.*nowhere': give `synthetic`, a video file, a KITTI raw"),
        ("notes.txt", r"is neither a folder nor a video \(\.mp4"),
        ("empty", "is not a recording: give `synthetic`"),
        ("synthetic:0", "ask for at least one"),
        ("synthetic:-1", "give the number of frames"),
        ("synthetic:many", "give the number of frames, as in synthetic:60"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, spec: str, complaint: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    named = spec if not spec or spec.startswith("synthetic") else str(tmp_path / spec)
    with pytest.raises(FrameError, match=complaint) as told:
        open_recording(named, "left")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("spec", ["synthetic:5", "folder"])
def test_more_frames_than_there_are(tmp_path: Path, spec: str) -> None:
    for number in range(5):
        write_picture(tmp_path / "folder" / f"{number}.png", number)
    named = spec if ":" in spec else str(tmp_path / spec)
    assert len(open_recording(named, "left", 6)) == 5
    with pytest.raises(FrameError, match="at least one"):
        open_recording(named, "left", 0)


@pytest.fixture
def euroc(tmp_path: Path) -> Path:
    """Three moments, of which each camera lost another one."""
    times = [1403636579763555584 + 50_000_000 * n for n in range(4)]
    for camera, lost in (("cam0", 0), ("cam1", 3)):
        for number, time in enumerate(times):
            if number != lost:
                write_picture(tmp_path / "mav0" / camera / "data" / f"{time}.png", number)
    return tmp_path


@pytest.mark.parametrize("below", [".", "mav0"])
def test_euroc_folders_tell_times_by_names(euroc: Path, below: str) -> None:
    for side in ("left", "right"):
        recording = open_recording(str(euroc / below), side)
        times = [recording.timestamp_ns(number) for number in range(len(recording))]
        assert times == [1403636579813555584, 1403636579863555584]
        assert [int(recording.image(n)[0, 0, 0]) // 10 for n in (0, 1)] == [1, 2]


@pytest.mark.parametrize(("side", "camera"), [("left", "cam0"), ("right", "cam1")])
def test_a_euroc_folder_without_one_camera(euroc: Path, side: StereoSide, camera: str) -> None:
    (euroc / "mav0" / camera / "data").rename(euroc / "elsewhere")
    with pytest.raises(FrameError, match=f"no .*{camera}.data: the folder has the other camera"):
        open_recording(str(euroc), side)
    own = open_recording(str(euroc), "right" if side == "left" else "left")
    assert len(own) == 3


def test_a_name_that_is_no_time_is_told(euroc: Path) -> None:
    for camera in ("cam0", "cam1"):
        write_picture(euroc / "mav0" / camera / "data" / "thumbnail.png", 0)
    with pytest.raises(FrameError, match=r"thumbnail\.png is not named by its time"):
        open_recording(str(euroc), "left")


def test_cameras_that_share_no_time_are_told(euroc: Path) -> None:
    for picture in list((euroc / "mav0" / "cam1" / "data").iterdir()):
        picture.rename(picture.with_stem(str(int(picture.stem) + 1)))
    with pytest.raises(FrameError, match=r"no picture of .*cam0.* has the time of one of .*cam1"):
        open_recording(str(euroc), "left")


class TestAnotherSideCamera:
    def test_is_brought_to_the_size_of_the_left_one(self, tmp_path: Path) -> None:
        for number in range(3):
            write_picture(tmp_path / "a" / f"{number}.png", number)
            small = np.full((20, 30), 10 * number, np.uint8)
            (tmp_path / "b").mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / "b" / f"{number}.png"), small)
        source = open_stereo(str(tmp_path / "a"), side=str(tmp_path / "b"))
        assert len(source) == 3
        assert source.view(2, "right").shape == source.view(2, "left").shape
        assert int(source.view(2, "right")[3, 4, 1]) == 20

    def test_in_the_folder_of_both_too_and_that_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for camera, size in (("left", (40, 60)), ("right", (20, 30))):
            write_picture(tmp_path / camera / "0.png", 7, size)
        source = open_stereo(str(tmp_path))
        told = f"{tmp_path}: camera y has 30x20, and is brought to camera x's 60x40"
        assert caplog.messages == [told]
        assert open_recording(str(tmp_path), "right").size == (20, 30)
        assert source.view(0, "right").shape == source.view(0, "left").shape == (40, 60, 3)

    def test_a_larger_one_is_averaged_and_a_smaller_one_has_no_steps(self) -> None:
        """Every second pixel alone would be 0 or 255 throughout."""
        columns = np.arange(8) % 2 * 255
        striped = np.broadcast_to(columns[None, :, None], (8, 8, 3)).astype(np.uint8)
        assert set(resized(striped, (4, 4)).ravel().tolist()) == {128}
        assert resized(striped, (8, 8)) is striped
        assert len(set(resized(striped[:, :2], (8, 8))[0, :, 0].tolist())) > 4

    def test_one_camera_alone_is_refused(self, tmp_path: Path) -> None:
        write_picture(tmp_path / "a" / "0.png", 0)
        with pytest.raises(FrameError, match="is one camera: name the other one with --side"):
            open_stereo(str(tmp_path / "a"))


@pytest.mark.parametrize("live", ["camera:0", "gst:videotestsrc", "rtsp://me:secret@10.0.0.7/x"])
def test_live_cameras_are_refused_as_such(live: str) -> None:
    for source, side in ((live, None), ("synthetic", live)):
        with pytest.raises(FrameError, match=r"is a live camera.*dsin stream") as refused:
            open_stereo(source, side=side)
        assert "secret" not in str(refused.value)


def test_what_is_missing_in_a_folder_is_named(odometry: Path, tmp_path: Path) -> None:
    (odometry / "image_3" / "000001.png").unlink()
    with pytest.raises(FrameError, match=r"000001\.png has no partner in .*image_3"):
        open_recording(str(odometry), "left")
    (odometry / "times.txt").unlink()
    with pytest.raises(FrameError, match=r"has neither times\.txt, .* nor pictures \*_10\.png"):
        open_recording(str(odometry), "left")
    (tmp_path / "other" / "image_02").mkdir(parents=True)
    with pytest.raises(FrameError, match="image_02 has no data folder"):
        open_recording(str(tmp_path / "other"), "left")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.0\n0.1\n", "has 2 times for 3 frames"),
        ("0.0\nsoon\n", r"line 2: 'soon' is not a time like 1\.036224e-01$"),
        ("nan\n", "line 1: 'nan' is not a time"),
        ("-1\n", "line 1: '-1' is not a time"),
        ("1e999999999\n", "line 1: .* is not a time"),
        ("0.2\n0.1\n", "line 2: the time is not after"),
    ],
)
def test_bad_times_are_located(odometry: Path, text: str, complaint: str) -> None:
    (odometry / "times.txt").write_text(text)
    with pytest.raises(FrameError, match=complaint):
        open_recording(str(odometry), "left")


@given(text=st.text(max_size=60))
def test_any_text_gives_times_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("times") / "times.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(FrameError):
        (time,) = read_times(path, [Path("0.png")])
        assert math.isclose(time, float(text) * 1e9, abs_tol=1)


def write_video(path: Path, codec: str, frames: int = 12, fps: float = 12.5) -> Path:
    """Frames of some noise whose red channel is ten times their number, on the average."""
    noise = np.random.default_rng(0).integers(-4, 5, (48, 64, 3))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.clip(noise + np.array((7, 60, 10 * number)), 0, 255).astype(np.uint8))
    writer.release()
    return path


@pytest.fixture(params=["mp4v .mp4", "MJPG .avi", "FFV1 .mkv"])
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    codec, suffix = request.param.split()
    return write_video(tmp_path / f"street{suffix}", codec)


def test_a_video_in_order_and_out_of_it(video: Path) -> None:
    recording = open_recording(str(video), "right")
    assert (len(recording), recording.size) == (12, (48, 64))
    assert np.allclose(times_ms(recording), [80 * n for n in range(12)], atol=1.0)
    assert numbers(recording) == list(range(12))
    for number in (11, 4, 9, 0):
        assert round(recording.image(number)[:, :, 0].mean() / 10) == number
    assert len(open_recording(str(video), "left", frames=5)) == 5
    with pytest.raises(FrameError, match="the video has 12"):
        recording.image(12)


def test_increasing_numbers_decode_a_video_once(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = VideoFile(video)
    opened = count_openings(monkeypatch)
    for number in (0, 1, 2, 6, 11):
        recording.image(number)
    assert len(opened) == 1  # for frame 0, since its size was read before
    recording.image(3)
    assert len(opened) == 2


def count_openings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    opened: list[object] = []
    original = av.open

    def counting(file: object, *rest: object) -> object:
        opened.append(file)
        return original(file, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(av, "open", counting)
    return opened


def test_times_of_a_video_with_an_uneven_rate_and_b_frames(tmp_path: Path) -> None:
    times = [0, 40, 85, 135, 175, 220, 270, 310, 355, 405]
    with av.open(str(tmp_path / "uneven.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.full((48, 64, 3), (10 * number, 60, 7), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    recording = open_recording(str(tmp_path / "uneven.mp4"), "left")
    assert np.allclose(times_ms(recording), times, atol=0.1)
    assert numbers(recording) == list(range(10))


def write_coded(path: Path, **options: str) -> Path:
    """20 frames of H.264 at 10 a second; the red channel is ten times the frame's number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            pixels = np.full((48, 64, 3), (10 * number, 60, 7), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remuxed(old: Path, new: Path, *, later_ms: int) -> Path:
    """The same packets, shown later by so much; what comes before 0 is left out by an edit list."""
    keep = {"avoid_negative_ts": "disabled"}
    with av.open(str(old)) as source, av.open(str(new), "w", options=keep) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            shift = round(later_ms / 1000 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
            target.mux(packet)
    return new


def test_a_container_without_times_has_those_of_its_rate(tmp_path: Path) -> None:
    """AVI numbers packets as they are decoded, which B-frames make another order."""
    recording = VideoFile(write_coded(tmp_path / "street.avi", bf="2"))
    assert np.allclose(times_ms(recording), [100 * n for n in range(20)])
    assert numbers(recording) == list(range(20))


def test_a_video_that_begins_within_a_group_of_pictures(tmp_path: Path) -> None:
    """Nothing can be decoded before the next key frame, and that keeps its own time."""
    data = write_coded(tmp_path / "whole.ts", g="8", bf="0").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[len(data) // 188 // 4 * 188 :])
    recording = VideoFile(tmp_path / "cut.ts")
    first, *later = numbers(recording)
    assert first in (8, 16)
    assert later == list(range(first + 1, 20))
    assert times_ms(recording)[0] > 0
    assert np.allclose(np.diff(times_ms(recording)), 100)


def test_an_edit_list_leaves_frames_out(tmp_path: Path) -> None:
    whole = write_coded(tmp_path / "whole.mp4")
    recording = VideoFile(remuxed(whole, tmp_path / "edited.mp4", later_ms=-500))
    assert numbers(recording) == list(range(5, 20))
    assert np.allclose(times_ms(recording), [100 * n for n in range(15)])


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((0, 1, -1, 0), (0, -1)), ((-1, 0, 0, -1), (-1, -1)), ((0, -1, 1, 0), (-1, 0))],
    ids=["clockwise", "upside down", "counterclockwise"],
)
def test_a_camera_that_was_held_otherwise(
    tmp_path: Path, matrix: tuple[int, int, int, int], corner: tuple[int, int]
) -> None:
    """A phone writes into the file how it was turned: here the corner that is bright is the upper
    left one of the coded picture."""
    path = tmp_path / "phone.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255
    writer.write(picture)
    writer.release()
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (value * 2**16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    recording = VideoFile(path)
    assert recording.size == ((48, 64) if matrix[0] else (64, 48))
    seen = recording.image(0)[:, :, 1]
    assert {place for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if seen[place] > 128} == {
        corner
    }


def test_what_holds_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"there is no video .*none\.mp4"):
        VideoFile(tmp_path / "none.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    with pytest.raises(FrameError, match=r"sound\.mkv has no video track"):
        VideoFile(tmp_path / "sound.mkv")


def test_sound_that_lasts_longer_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "loud.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 40_000), np.int16), layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    assert len(VideoFile(path)) == 10


def test_interlaced_video_is_refused(tmp_path: Path) -> None:
    path = write_coded(
        tmp_path / "fields.mp4", flags="+ildct+ilme", **{"x264-params": "tff=1"}
    )  # fmt: skip
    with pytest.raises(FrameError, match=r"is interlaced: make whole pictures .*bwdif"):
        VideoFile(path)


def test_parts_that_were_joined_carelessly_are_refused(tmp_path: Path) -> None:
    part = write_coded(tmp_path / "part.ts", bf="0").read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    with pytest.raises(FrameError, match="was joined from parts whose times do not continue"):
        VideoFile(tmp_path / "joined.ts")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    named = tmp_path / os.fsdecode(b"stra\xdfe.mp4")
    write_coded(tmp_path / "plain.mp4").rename(named)
    assert len(VideoFile(named)) == 20


def test_without_pyav_the_error_says_what_to_install(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FrameError, match=r"pip install 'dsin\[video\]'"):
        VideoFile(video)


@pytest.mark.parametrize(
    ("codec", "suffix", "complaint"),
    [
        ("mp4v", ".mp4", "is not a video that FFmpeg reads, or was cut off"),
        ("FFV1", ".mkv", r"announces 12 frames but holds \d: it was cut off"),
        ("MJPG", ".avi", r"announces 12 frames but holds \d: it was cut off"),
    ],
)
def test_a_video_that_was_cut_off(tmp_path: Path, codec: str, suffix: str, complaint: str) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", codec).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: len(whole) * 8 // 10])
    with pytest.raises(FrameError, match=complaint):
        open_recording(str(cut), "left")


def test_a_video_that_is_damaged_within(tmp_path: Path) -> None:
    path = write_video(tmp_path / "street.avi", "MJPG")
    data = bytearray(path.read_bytes())
    for start in frame_starts(bytes(data))[-3:]:
        data[start + 2 : start + 200] = bytes(198)
    path.write_bytes(data)
    recording = open_recording(str(path), "left")
    with pytest.raises(FrameError, match=r"can be decoded up to frame \d+ of 12: it is cut off or"):
        numbers(recording)


def frame_starts(avi: bytes) -> list[int]:
    """Where the JPEG pictures begin."""

    def found() -> Iterator[int]:
        place = avi.find(b"\xff\xd8\xff")
        while place >= 0:
            yield place
            place = avi.find(b"\xff\xd8\xff", place + 1)

    return list(found())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 4096])
def test_what_is_no_video(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "street.mp4").write_bytes(content)
    with pytest.raises(FrameError, match="is not a video that FFmpeg reads"):
        open_recording(str(tmp_path / "street.mp4"), "left")


def test_nothing_but_the_error_is_told_of_a_bad_video(tmp_path: Path) -> None:
    (tmp_path / "street.mp4").write_bytes(b"hello")
    program = (
        "import sys\n"
        "from dsin.runtime.errors import FrameError\n"
        "from dsin.runtime.sources.recordings import open_recording\n"
        "try: open_recording(sys.argv[1], 'left')\n"
        "except FrameError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "street.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_change_of_size_between_pictures(odometry: Path) -> None:
    write_picture(odometry / "image_2" / "000002.png", 2, (40, 61))
    with pytest.raises(FrameError, match="is 61x40, but the first frame is 60x40"):
        open_recording(str(odometry), "left").image(2)


def plain(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_scenes_of_any_size_in_png_or_jpeg(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int
) -> None:
    folder = tmp_path_factory.mktemp("scenes") / "image_2"
    folder.mkdir()
    assert cv2.imwrite(str(folder / "0_10.png"), plain(height, width))
    assert cv2.imwrite(str(folder / "1_10.jpg"), plain(30, 40))
    recording = open_recording(str(folder.parent), "left")
    assert recording.size == (min(height, 30), min(width, 40))
    assert {recording.image(n).shape[:2] for n in (0, 1)} == {recording.size}
