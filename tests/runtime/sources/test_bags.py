"""ROS bags as recordings, and what is said of those that cannot be used."""

import contextlib
import logging
import re
import shutil
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bags import COMPRESSED, RAW, STEP_NS, Shot, Storage, picture, rig, write_bag

from dsin.export.calibration_frames import read_frames
from dsin.runtime.errors import FrameError
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.picture_files import read_image
from dsin.runtime.profiling.pipeline import Frames
from dsin.runtime.sources.bag_files import BagMessage, bag_files
from dsin.runtime.sources.bag_spec import parse_bag_spec
from dsin.runtime.sources.mcap_search import next_chunk
from dsin.runtime.sources.pair_list import pair_list_of
from dsin.runtime.sources.recordings import open_recording, open_stereo
from dsin.runtime.sources.ros_images import ros_picture

pytest.importorskip("rosbags")
STORAGES: tuple[Storage, ...] = ("ros1", "sqlite", "mcap")


def written(folder: Path, shots: Sequence[Shot], storage: Storage = "mcap", more: str = "") -> str:
    """A bag's path as a source's name has it."""
    name = "drive.bag" if storage == "ros1" else "drive"
    return f"bag:{write_bag(folder / name, shots, storage, more)}"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "png"])
def test_both_cameras_of_a_bag(tmp_path: Path, storage: Storage, encoding: str) -> None:
    bag = written(tmp_path, rig(encoding=encoding), storage)
    source = open_stereo(f"{bag},x=/l,y=/r")
    assert len(source) == 4
    assert source.size == (24, 32)
    assert [source.timestamp_ns(n) for n in range(4)] == [10**9 + n * STEP_NS for n in range(4)]
    for number in (0, 1, 3, 2, 0):  # forwards, with a gap, and back
        assert np.array_equal(source.view(number, "left"), picture(number))
        assert np.array_equal(source.view(number, "right"), picture(40 + number))


@pytest.mark.parametrize("storage", STORAGES)
def test_jpeg_pictures(tmp_path: Path, storage: Storage) -> None:
    bag = written(tmp_path, rig(encoding="jpeg"), storage)
    recording = open_recording(f"{bag},x=/l", "left")
    error = recording.image(2).astype(int) - picture(2)
    assert np.abs(error).max() < 12


def test_grey_pictures_are_replicated_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bag = written(tmp_path, rig(encoding="mono8"))
    with caplog.at_level(logging.WARNING):
        recording = open_recording(f"{bag},x=/l", "left")
    assert "/l is grey and is coded as colour" in caplog.text
    assert np.array_equal(recording.image(1), picture(1)[:, :, [0, 0, 0]])


def test_one_topic_is_one_camera_whichever_side_is_asked_for(tmp_path: Path) -> None:
    bag = written(tmp_path, rig())
    for spec in (f"{bag},x=/r", f"{bag},y=/r"):
        for side in ("left", "right"):
            recording = open_recording(spec, side, 2)  # type: ignore[arg-type]
            assert len(recording) == 2
            assert recording.timestamp_ns(0) == 10**9 + 3_000_000
            assert np.array_equal(recording.image(1), picture(41))
    with pytest.raises(FrameError, match="is one camera: name the other one too, as in bag:"):
        open_stereo(f"{bag},x=/r")


@pytest.mark.parametrize("storage", STORAGES)
def test_times_of_the_header_or_of_recording(tmp_path: Path, storage: Storage) -> None:
    shots = [shot._replace(log_ns=5 * shot.stamp_ns) for shot in rig()]
    bag = written(tmp_path, shots, storage)
    header = open_recording(f"{bag},x=/l", "left")
    log = open_recording(f"{bag},x=/l,time=log", "left")
    assert [header.timestamp_ns(1), log.timestamp_ns(1)] == [1_100_000_000, 5_500_000_000]


def test_headers_without_times_are_told(tmp_path: Path) -> None:
    shots = [shot._replace(stamp_ns=0, log_ns=shot.stamp_ns) for shot in rig()]
    bag = written(tmp_path, shots)
    with pytest.raises(FrameError, match=r"message 1 of /l has a header time .* with ,time=log"):
        open_recording(f"{bag},x=/l", "left")
    assert len(open_recording(f"{bag},x=/l,time=log", "left")) == 4


def test_recordings_of_one_moment_are_told(tmp_path: Path) -> None:
    bag = written(tmp_path, [shot._replace(log_ns=5) for shot in rig()])
    with pytest.raises(FrameError, match=r"message 1 of /l has a log time .* with ,time=header"):
        open_recording(f"{bag},x=/l,time=log", "left")


@pytest.mark.parametrize(
    ("storage", "more"),
    [("ros1", "bz2"), ("ros1", "lz4"), ("sqlite", "message"), ("mcap", "message"),
     ("mcap", "storage")],
)  # fmt: skip
def test_compressed_bags(tmp_path: Path, storage: Storage, more: str) -> None:
    bag = written(tmp_path, rig(), storage, more)
    assert np.array_equal(open_stereo(f"{bag},x=/l,y=/r").view(3, "right"), picture(43))


def test_a_bag_that_is_compressed_as_a_whole_is_refused(tmp_path: Path) -> None:
    bag = written(tmp_path, rig(), "sqlite", "file")
    with pytest.raises(FrameError, match=r"compressed as a whole: unpack it \(unzstd .*zstd\)"):
        open_recording(f"{bag},x=/l", "left")


def test_a_topic_that_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shots = [shot for shot in rig(6) if shot.topic == "/l" or shot.stamp_ns < 1_250_000_000]
    bag = written(tmp_path, shots)
    with caplog.at_level(logging.WARNING):
        source = open_stereo(f"{bag},x=/l,y=/r")
    assert len(source) == 3
    assert "3 of 6 pictures of /l have none of /r within 50 ms and are left out" in caplog.text
    assert "/r stops 0.3 s earlier" in caplog.text


def test_a_picture_that_is_missing_is_left_out_with_its_partner(tmp_path: Path) -> None:
    shots = rig(6)
    del shots[5]  # the third one of /r
    del shots[0]  # the first one of /l
    source = open_stereo(f"{written(tmp_path, shots)},x=/l,y=/r")
    views = [int(source.view(n, "right")[0, 0, 1]) for n in range(len(source))]
    assert views == [3 * (40 + n) for n in (1, 3, 4, 5)]
    assert [source.timestamp_ns(n) for n in range(4)] == [10**9 + n * STEP_NS for n in (1, 3, 4, 5)]


def test_cameras_of_different_times_are_told(tmp_path: Path) -> None:
    bag = written(tmp_path, rig(late_ns=90_000_000_000))
    with pytest.raises(FrameError, match="no picture of /l has one of /r within 50 ms"):
        open_recording(f"{bag},x=/l,y=/r", "left")


DEPTH = np.zeros((24, 32), np.uint8)
PNG16 = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBB", 13, b"IHDR", 4, 4, 16, 0) + bytes(7) + (
    struct.pack(">I4sI", 0, b"IEND", 0)
)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "encoding", "complaint"),
    [
        (DEPTH, "16UC1", r"message 0 of /c is depth \(16UC1\): give a topic of colour"),
        (DEPTH, "32FC1", "is depth"),
        (DEPTH, "bayer_rggb8", "/c is bayer_rggb8, raw values of a Bayer sensor: give the topic"),
        (DEPTH, "yuv422", "is 'yuv422': rgb8, bgr8, rgba8, bgra8, mono8 can be coded"),
        (DEPTH, "rgb8", "fewer bytes than its size and encoding need"),
        (DEPTH[:, :0], "mono8", "0x24 is empty"),
        (b"words", "jpeg", "neither JPEG nor PNG"),
        (PNG16, "png", "has 16 bits"),
        (PNG16, "16UC1; compressedDepth", "is depth"),
        (PNG16, "bayer_rggb8; png compressed", "/c is bayer_rggb8, raw values of a Bayer sensor"),
        (encode_picture(picture(0))[:-9], "png", "was cut off"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_coded(
    tmp_path: Path, content: np.ndarray | bytes, encoding: str, complaint: str
) -> None:
    bag = written(tmp_path, [Shot("/c", 10**9, content, encoding)])
    with pytest.raises(FrameError, match=complaint):
        open_recording(f"{bag},x=/c", "left")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (
            "std_msgs/msg/String",
            r"^it is a std_msgs/msg/String: give a topic of Image or Compressed",
        ),
        (RAW, "^it is damaged: it is no sensor_msgs/msg/Image$"),
        (COMPRESSED, "^it is damaged: it is no sensor_msgs/msg/CompressedImage$"),
    ],
)
@pytest.mark.parametrize("ros1", [False, True])
def test_messages_that_are_no_pictures(kind: str, complaint: str, ros1: bool) -> None:
    with pytest.raises(FrameError, match=complaint):
        ros_picture(BagMessage("/c", kind, 1, b"words", ros1), "it")


def test_frames_that_a_bag_lacks(tmp_path: Path) -> None:
    recording = open_recording(f"{written(tmp_path, rig())},x=/l", "left")
    for number in (-1, 4):
        with pytest.raises(FrameError, match=f"there is no frame {number}: the source has 4"):
            recording.image(number)
    shutil.rmtree(tmp_path / "drive")
    written(tmp_path, rig(2))
    with pytest.raises(FrameError, match="drive has changed while it was read"):
        recording.image(3)


def test_a_size_that_changes(tmp_path: Path) -> None:
    shots = [*rig(2), Shot("/l", 2 * 10**9, picture(3, (20, 32)))]
    bag = written(tmp_path, shots)
    with pytest.raises(FrameError, match="message 2 of /l is 32x20, but the first one is 32x24"):
        open_recording(f"{bag},x=/l", "left")


def test_a_damaged_picture_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    png = bytearray(encode_picture(picture(0)))
    png[60:70] = bytes(10)
    bag = written(tmp_path, [Shot("/l", 1, encode_picture(picture(0)), "png"),
                             Shot("/l", 2, bytes(png), "png")])  # fmt: skip
    recording = open_recording(f"{bag},x=/l", "left")
    with pytest.raises(FrameError, match="message 1 of /l is a damaged picture"):
        recording.image(1)
    assert np.array_equal(recording.image(0), picture(0))


@pytest.mark.parametrize("storage", STORAGES)
def test_topics_are_listed_where_one_is_missing(tmp_path: Path, storage: Storage) -> None:
    bag = written(tmp_path, rig(), storage)
    with pytest.raises(FrameError, match="no messages of /left; its topics of pictures are /l, /r"):
        open_recording(f"{bag},x=/left", "left")
    with pytest.raises(FrameError, match=r"name a topic, as in x=.* are /l, /r"):
        open_recording(bag, "left")


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])


def test_bags_without_an_index(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A ROS 1 bag needs one; an MCAP file does not, and is read up to where it was cut off."""
    bag = written(tmp_path, rig(), "ros1")
    data = bytearray((tmp_path / "drive.bag").read_bytes())
    place = data.index(b"index_pos=") + len(b"index_pos=")
    data[place : place + 8] = bytes(8)
    (tmp_path / "drive.bag").write_bytes(data)
    with pytest.raises(FrameError, match=r"has no index: make one \(rosbag reindex"):
        open_recording(f"{bag},x=/l", "left")
    shots = [Shot("/l", n + 1, picture(n, (200, 300))) for n in range(16)]
    bag = written(tmp_path, shots)
    cut(tmp_path / "drive" / "drive.mcap", 0.8)
    (tmp_path / "drive" / "metadata.yaml").unlink()
    assert 2 <= len(open_recording(f"{bag},x=/l", "left")) < 16
    assert "was cut off: what lies before the cut is read" in caplog.text


def test_a_bag_with_a_hole_is_read_on_behind_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shots = [Shot("/l", 10**9 * n, picture(n, (400, 600))) for n in range(1, 9)]
    bag = written(tmp_path, shots)
    file = tmp_path / "drive" / "drive.mcap"
    data = bytearray(file.read_bytes())
    with file.open("rb") as whole:
        chunk = next_chunk(whole, len(data) // 4, len(data))
    assert chunk is not None
    data[chunk : chunk + 500] = bytes(500)
    file.write_bytes(data)
    found = len(open_recording(f"{bag},x=/l", "left"))
    assert 4 < found < 8
    told = re.search(r"is damaged: (\d+) bytes of it, (\d).0 s, could not be used", caplog.text)
    assert told
    assert int(told[1]) > (8 - found) * 400 * 600 * 3
    assert int(told[2]) == 9 - found


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("ros1", r"\(\w+ .*\): try rosbag reindex$"),
        ("sqlite", r"\(\w+ .*\): try ros2 bag reindex$"),
    ],
)
def test_bags_that_were_cut_off(tmp_path: Path, storage: Storage, reason: str) -> None:
    bag = written(tmp_path, rig(), storage)
    cut(next(p for p in tmp_path.rglob("drive.*") if p.is_file()), 0.7)
    with pytest.raises(FrameError, match=f"is damaged, was cut off or is no bag {reason}"):
        open_recording(f"{bag},x=/l", "left")


def test_what_only_has_the_name_of_an_mcap_file(tmp_path: Path) -> None:
    (tmp_path / "drive.mcap").write_bytes(b"words")
    with pytest.raises(FrameError, match=r"drive\.mcap is not a recording: it does not start as"):
        open_recording(f"bag:{tmp_path / 'drive.mcap'},x=/l", "left")


def test_a_chunk_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = written(tmp_path, rig(), "ros1", "bz2")
    monkeypatch.setattr("dsin.runtime.sources.bag_files.RECORD_BYTES", 5000)
    with pytest.raises(FrameError, match="a chunk unpacks to more than 5000 bytes"):
        open_recording(f"{bag},x=/l", "left")


def test_a_bag_as_a_list_of_pairs(tmp_path: Path) -> None:
    """As `dsin evaluate` reads it."""
    bag = written(tmp_path, rig())
    with pair_list_of(f"{bag},x=/l,y=/r", frames=2) as (listed, folder):
        lines = listed.read_text().split()
        assert lines == ["x/000000.png", "y/000000.png", "x/000001.png", "y/000001.png"]
        assert np.array_equal(read_image(folder / lines[3]), picture(41))
    assert not folder.exists()


def test_pictures_to_calibrate_on_come_in_pairs(tmp_path: Path) -> None:
    bag = written(tmp_path, rig(20))
    frames = read_frames(Path(f"{bag},x=/l,y=/r"))
    assert [int(frame[0, 0, 1]) for frame in frames[:4]] == [0, 3 * 40, 3 * 1, 3 * 41]
    assert len(frames) == 40
    with pytest.raises(FrameError, match="is a bag: --root is where"):
        read_frames(Path(f"{bag},x=/l,y=/r"), tmp_path)


def test_a_bag_can_be_read_in_another_thread(tmp_path: Path) -> None:
    """As a device and a server do, which open it in the main one."""
    recording = open_recording(f"{written(tmp_path, rig(), 'sqlite')},x=/l", "left")
    recording.image(0)
    with ThreadPoolExecutor(1) as thread:
        assert np.array_equal(thread.submit(recording.image, 1).result(), picture(1))


def test_several_files_of_one_bag_in_natural_order(tmp_path: Path) -> None:
    for number, file in ((0, 9), (1, 10)):
        shots = [shot for shot in rig(4) if (shot.stamp_ns - 10**9) // (2 * STEP_NS) == number]
        write_bag(tmp_path / f"part_{file}", shots, "sqlite")
        (tmp_path / "drive").mkdir(exist_ok=True)
        shutil.copy(tmp_path / f"part_{file}" / f"part_{file}.db3", tmp_path / "drive")
    (tmp_path / "drive" / "._part_9.db3").write_bytes(b"what macOS leaves")
    recording = open_recording(f"bag:{tmp_path}/drive,x=/l", "left")
    assert [int(recording.image(n)[0, 0, 1]) for n in range(4)] == [0, 3, 6, 9]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("bag:", "names no bag"),
        ("bag:,x=/l", "names no bag"),
        ("bag:a.bag,x=l", "x=l is not a topic"),
        ("bag:a.bag,x=/l,y=/l", "the same topic"),
        ("bag:a.bag,x=/l,time=now", "time= is header or log"),
        ("bag:a.bag,x=/l,z=/r", "'z=/r' is not an option"),
        ("bag:a.bag,x=/l,x=/r", "'x=/r' is not an option"),
        ("bag:nowhere.bag,x=/l", "there is no bag nowhere.bag"),
    ],
)
def test_names_that_are_none(spec: str, complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        open_recording(spec, "left")


def test_what_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    for path in (tmp_path, tmp_path / "picture.png"):
        with pytest.raises(FrameError, match="is not a bag"):
            bag_files(path)


def test_a_profile_names_the_bag(tmp_path: Path) -> None:
    bag = written(tmp_path, rig(1), "ros1")
    frames = Frames(f"{bag},x=/l,y=/r")
    assert (frames.name, frames.count) == ("drive.bag", 1)


def test_a_path_may_hold_commas() -> None:
    assert parse_bag_spec("bag:a,b.bag,x=/l").path == Path("a,b.bag")


def test_without_rosbags_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = written(tmp_path, rig(), "ros1")
    monkeypatch.setitem(__import__("sys").modules, "rosbags.rosbag1", None)
    with pytest.raises(FrameError, match=r"bags need rosbags.* pip install 'dsin\[ros\]'"):
        open_recording(f"{bag},x=/l", "left")


@pytest.fixture(scope="module", params=STORAGES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    written(folder, rig(2, encoding="png"), request.param)
    return next(p for p in folder.rglob("drive.*") if p.is_file())


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_pictures_or_one_error(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"damaged{whole.suffix}"
    damaged.write_bytes(content)
    with contextlib.suppress(FrameError):  # anything else would be a fault
        source = open_stereo(f"bag:{damaged},x=/l,y=/r")
        for number in range(len(source)):
            assert source.view(number, "right").shape == (*source.size, 3)
