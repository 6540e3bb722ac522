"""KITTI raw drives and folder pairs: what is read, and what is said of those that cannot be."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.sources.frames import frames_per_second, paired_in_time, tolerance_ns
from dsin.runtime.sources.kitti import KittiRawDrive
from dsin.runtime.sources.recordings import open_recording, open_stereo
from dsin.runtime.sources.synthetic_rig import SyntheticRig

COUNT = 3


def write_picture(path: Path, number: int, size: tuple[int, int] = (40, 60)) -> None:
    """A plain picture that tells its number by its red channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*size, 3), (7, 60, 10 * number), np.uint8)  # blue, green, red
    assert cv2.imwrite(str(path), picture)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A KITTI raw drive of three frames; the right camera's pictures count from 10."""
    folder = tmp_path / "2011_09_26_drive_0001_sync"
    for camera, first in (("image_02", 0), ("image_03", 10)):
        for number in range(COUNT):
            write_picture(folder / camera / "data" / f"{number:010d}.png", first + number)
        times = [f"2011-09-26 13:02:25.{n}03400001\n" for n in range(COUNT)]
        (folder / camera / "timestamps.txt").write_text("".join(times))
    return folder


def test_a_drive_yields_left_and_right_with_the_left_cameras_times(drive: Path) -> None:
    source = open_stereo(drive)
    assert (len(source), source.size) == (COUNT, (40, 60))
    assert [int(source.view(n, "left")[0, 0, 0]) for n in range(COUNT)] == [0, 10, 20]
    assert [int(source.view(n, "right")[0, 0, 0]) for n in range(COUNT)] == [100, 110, 120]
    assert source.timestamp_ns(0) == 1_317_042_145_003_400_001
    assert source.timestamp_ns(1) - source.timestamp_ns(0) == 100_000_000
    assert frames_per_second(source) == 10


def test_both_ways_to_open_a_drive_agree(drive: Path) -> None:
    """The right camera's own times are of no account where the left camera is there."""
    late = [f"2011-09-26 13:02:35.{n}03400001\n" for n in range(COUNT)]
    (drive / "image_03" / "timestamps.txt").write_text("".join(late))
    rig = open_stereo(drive)
    for side, camera in (("left", rig.left), ("right", rig.right)):
        alone = open_recording(str(drive), side, COUNT)
        assert (len(alone), alone.size) == (len(camera), camera.size)
        for number in range(COUNT):
            assert alone.timestamp_ns(number) == camera.timestamp_ns(number)
            assert np.array_equal(alone.image(number), camera.image(number))


def test_one_camera_of_a_drive_will_do_for_its_side_only(drive: Path) -> None:
    (drive / "image_02").rename(drive / "image_04")
    assert len(KittiRawDrive(drive).camera("right")) == COUNT
    with pytest.raises(FrameError, match="the folder has the other camera only"):
        KittiRawDrive(drive).camera("left")


def test_the_first_frames_of_a_drive(drive: Path) -> None:
    assert len(open_stereo(drive, frames=2)) == 2
    assert len(open_stereo(drive, frames=4)) == 3


def test_grey_cameras_are_a_drive_too(drive: Path) -> None:
    for colour, grey in (("image_02", "image_00"), ("image_03", "image_01")):
        (drive / colour).rename(drive / grey)
    for path in (drive / "image_00" / "data").iterdir():
        assert cv2.imwrite(str(path), np.full((40, 60), 99, np.uint8))
    source = open_stereo(str(drive))
    assert source.view(1, "left").tolist() == np.full((40, 60, 3), 99).tolist()
    assert int(source.view(1, "right")[0, 0, 0]) == 110
    assert source.timestamp_ns(1) - source.timestamp_ns(0) == 100_000_000


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_other_formats_will_do(tmp_path: Path, suffix: str) -> None:
    for side in ("left", "right"):
        write_picture(tmp_path / side / f"a{suffix}", 5)
    assert abs(int(open_recording(str(tmp_path), "right").image(0)[0, 0, 0]) - 50) < 4


def test_folders_pair_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    write_picture(tmp_path / "left" / "a.png", 1)
    write_picture(tmp_path / "right" / "a.jpg", 2)
    (tmp_path / "left" / "notes.txt").write_text("not a picture")
    right = open_recording(str(tmp_path), "right")
    assert len(right) == 1
    assert right.timestamp_ns(0) == 0
    assert abs(int(right.image(0)[0, 0, 0]) - 20) < 4


def test_a_missing_camera_is_named(drive: Path) -> None:
    (drive / "image_03").rename(drive / "image_04")
    with pytest.raises(FrameError, match="has no image_03/data: give the folder of one KITTI"):
        open_stereo(drive)
    with pytest.raises(FrameError, match="there is no folder"):
        open_stereo(drive / "nowhere")


@pytest.mark.parametrize("camera", ["image_02", "image_03"])
def test_a_frame_that_one_camera_lacks_is_a_gap_in_time(
    drive: Path, camera: str, caplog: pytest.LogCaptureFixture
) -> None:
    (drive / camera / "data" / "0000000001.png").unlink()
    source = open_stereo(drive)
    assert len(source) == 2
    assert source.timestamp_ns(1) - source.timestamp_ns(0) == 200_000_000
    assert [int(source.view(n, "left")[0, 0, 0]) for n in range(2)] == [0, 20]
    assert [int(source.view(n, "right")[0, 0, 0]) for n in range(2)] == [100, 120]
    assert "1 pictures have no partner in the other camera's folder" in caplog.text


def test_cameras_without_a_common_frame(drive: Path) -> None:
    for number in range(COUNT):
        data = drive / "image_03" / "data"
        (data / f"{number:010d}.png").rename(data / f"1{number:09d}.png")
    with pytest.raises(FrameError, match="no frame of image_02 is in image_03"):
        open_stereo(drive)


def test_extracted_drives_pair_by_time(drive: Path) -> None:
    """Their cameras' pictures are numbered each for itself: here the right one began earlier."""
    extracted = drive.rename(drive.with_name("2011_09_26_drive_0001_extract"))
    write_picture(extracted / "image_03" / "data" / "0000000003.png", 13)
    times = ["2011-09-26 13:02:24.906000000\n"]
    times += [f"2011-09-26 13:02:25.{n}06000000\n" for n in range(3)]
    (extracted / "image_03" / "timestamps.txt").write_text("".join(times))
    source = open_stereo(str(extracted))
    assert [int(source.view(n, "left")[0, 0, 0]) for n in range(3)] == [0, 10, 20]
    assert [int(source.view(n, "right")[0, 0, 0]) for n in range(3)] == [110, 120, 130]
    assert source.timestamp_ns(0) == 1_317_042_145_003_400_001


@given(
    left=st.lists(st.integers(0, 10**10), unique=True, max_size=12).map(sorted),
    right=st.lists(st.integers(0, 10**10), unique=True, max_size=12).map(sorted),
)
def test_pairs_in_time_are_near_and_the_nearest(left: list[int], right: list[int]) -> None:
    pairs = dict(paired_in_time(left, right))
    for place, moment in enumerate(left):
        nearest = min((abs(other - moment) for other in right), default=None)
        if nearest is None or nearest > tolerance_ns(left):
            assert place not in pairs
        else:
            assert abs(right[pairs[place]] - moment) == nearest


def test_kitti_360(drive: Path) -> None:
    """Rectified pictures of image_00 and image_01; image_02 and image_03 are fisheyes there."""
    for old, new in (("image_02", "image_00"), ("image_03", "image_01")):
        (drive / old).rename(drive / new)
        (drive / new / "data").rename(drive / new / "data_rect")
        write_picture(drive / old / "data_rgb" / "0000000000.png", 9)
    (drive / "image_00" / "data_rect" / "0000000001.png").unlink()
    (drive / "image_01" / "data_rect" / "0000000001.png").unlink()
    source = open_stereo(str(drive))
    assert [int(source.view(n, "right")[0, 0, 0]) for n in range(2)] == [100, 120]
    assert source.timestamp_ns(1) - source.timestamp_ns(0) == 200_000_000


@pytest.mark.parametrize(
    ("colour", "grey"),
    [(("image_2", "image_3"), None), (("colored_0", "colored_1"), ("image_0", "image_1"))],
)
def test_testing_folders_of_2015_and_2012(
    tmp_path: Path, colour: tuple[str, str], grey: tuple[str, str] | None
) -> None:
    for part in ("testing", "training"):
        for camera, level in ((colour[0], 1), (colour[1], 2), *((name, 9) for name in grey or ())):
            for scene in range(2):
                write_picture(tmp_path / part / camera / f"{scene:06d}_10.png", level)
                write_picture(tmp_path / part / camera / f"._{scene:06d}_10.png", level)
    source = open_stereo(str(tmp_path / "testing"))
    assert len(source) == 2
    assert [int(source.view(1, side)[0, 0, 0]) for side in ("left", "right")] == [10, 20]
    with pytest.raises(FrameError, match=r"has several parts: give .*training, or another"):
        open_stereo(str(tmp_path))


def test_the_same_frame_twice_is_refused(drive: Path) -> None:
    write_picture(drive / "image_02" / "data" / "0000000001.jpg", 1)
    with pytest.raises(FrameError, match="are the same frame"):
        open_stereo(drive)


def test_no_pictures_at_all(drive: Path) -> None:
    for camera in ("image_02", "image_03"):
        for picture in (drive / camera / "data").iterdir():
            picture.unlink()
    with pytest.raises(FrameError, match="holds no images"):
        open_stereo(drive)


def test_a_change_of_size_is_found_when_the_frame_comes(drive: Path) -> None:
    write_picture(drive / "image_03" / "data" / "0000000002.png", 12, size=(40, 61))
    source = open_stereo(drive)
    source.view(1, "right")
    with pytest.raises(FrameError, match="is 61x40, but the first frame is 60x40"):
        source.view(2, "right")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("2011-09-26 13:02:25.1\n", "has 1 times for 3 frames"),
        ("yesterday\n", "line 1: 'yesterday' is not a time"),
        ("2011-09-26 13:02:25.1234567890\n", "line 1: .* is not a time"),
        ("2011-13-26 13:02:25.1\n", "line 1: .* is not a time"),
        ("2011-09-26 13:02:25.2\n2011-09-26 13:02:25.1\n", "line 2: the time is not after"),
        ("\N{HEAVY BLACK HEART}", "is not a list of timestamps"),
    ],
)
def test_bad_timestamps_are_located(drive: Path, text: str, complaint: str) -> None:
    (drive / "image_02" / "timestamps.txt").write_text(text, encoding="utf-8")
    with pytest.raises(FrameError, match=complaint):
        open_stereo(drive)
    (drive / "image_02" / "timestamps.txt").unlink()
    with pytest.raises(FrameError, match=r"there is no .*timestamps\.txt"):
        open_stereo(drive)


@pytest.mark.parametrize("number", [-1, COUNT])
def test_a_frame_that_is_not_there(drive: Path, number: int) -> None:
    with pytest.raises(FrameError, match=f"no frame {number}: the source has 3"):
        open_stereo(drive).view(number, "left")


def test_without_a_drive_there_is_the_synthetic_rig(drive: Path) -> None:
    source = open_stereo()
    assert len(source) == 20
    assert np.array_equal(source.view(3, "right"), SyntheticRig(frames=20).view(3, "right"))
    assert len(open_stereo(frames=7)) == 7
    assert len(open_stereo(drive)) == COUNT
    with pytest.raises(FrameError, match="at least one"):
        open_stereo(frames=0)


def test_real_drives_are_read(shared: Path | None) -> None:
    if shared is None:
        pytest.skip("no KITTI drive beside the repository")
    drives = sorted((shared / "data" / "kitti").glob("*_sync"))
    source = open_stereo(drives[0])
    assert len(source) == 60
    assert source.view(59, "right").shape[:2] == source.size
    steps = np.diff([source.timestamp_ns(n) for n in range(60)])
    assert 90e6 < steps.mean() < 120e6


def test_a_missing_frame_leaves_the_times_of_the_others(drive: Path) -> None:
    """Whoever copied a drive may have lost pictures; its list of times has all of them."""
    for camera, number in (("image_02", 1), ("image_03", 1)):
        for path in (drive / camera / "data").iterdir():
            path.rename(path.with_name(f"{int(path.stem) % 10:010d}.png"))
        (drive / camera / "data" / f"{number:010d}.png").unlink()
    recording = open_recording(str(drive), "left")
    assert [recording.timestamp_ns(n) % 10**9 for n in range(2)] == [3_400_001, 203_400_001]


def test_a_mark_of_utf_8_before_the_times_is_no_fault(drive: Path) -> None:
    path = drive / "image_02" / "timestamps.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_recording(str(drive), "left")) == COUNT
