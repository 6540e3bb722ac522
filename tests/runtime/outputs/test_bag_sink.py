"""Results as a ROS 2 bag: whole or not at all, with the stamps of the camera."""

import errno
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.rig_frames import make_frames

from dsin.runtime.errors import RecordingError
from dsin.runtime.outputs.bag_sink import BagSink
from dsin.runtime.outputs.decoded_frame import DecodedFrame

pytest.importorskip("rosbags")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedFrame]:
    return make_frames(write_block_bundle(tmp_path_factory.mktemp("bag") / "blocks"), 3)


def messages(bag: Path) -> list[tuple[str, int, Any]]:
    """What a reader of ROS 2 bags finds, by the definitions in the bag."""
    from rosbags.highlevel import AnyReader

    with AnyReader([bag]) as reader:
        return [
            (connection.topic, time, reader.deserialize(data, connection.msgtype))
            for connection, time, data in reader.messages()
        ]


def test_a_ros_reader_finds_pictures_stamps_and_frame_ids(
    frames: list[DecodedFrame], tmp_path: Path
) -> None:
    sink = BagSink(tmp_path / "drive")
    for frame in frames:
        sink.take(frame)
        sink.take(replace(frame, rig="7-rear"))
    assert not (tmp_path / "drive").exists()
    sink.close()
    assert sink.paths == [tmp_path / "drive"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "drive", "drive.mcap", "metadata.yaml"
    ]  # fmt: skip
    found = messages(tmp_path / "drive")
    assert {topic for topic, _, _ in found} == {
        "/car/result/compressed", "/rig_7_rear/result/compressed"
    }  # fmt: skip
    own = [(time, m) for topic, time, m in found if topic.startswith("/car")]
    assert [time for time, _ in own] == [frame.timestamp_ns for frame in frames]
    for frame, (time, message) in zip(frames, own, strict=True):
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time
        assert (message.header.frame_id, message.format) == ("car/x", "jpeg")
        picture = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(picture.astype(int) - frame.decoded.image).mean() < 4


def test_what_exists_is_left_alone(frames: list[DecodedFrame], tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    sink = BagSink(tmp_path / "drive")
    sink.take(frames[0])
    sink.close()
    assert sink.paths == [tmp_path / "drive.2"]
    assert not list((tmp_path / "drive").iterdir())
    assert len(messages(tmp_path / "drive.2")) == 1


def test_without_a_frame_there_is_nothing(tmp_path: Path) -> None:
    BagSink(tmp_path / "drive").close()
    assert not list(tmp_path.iterdir())


def test_a_time_that_ros_cannot_hold_leaves_those_before_it(
    frames: list[DecodedFrame], tmp_path: Path
) -> None:
    sink = BagSink(tmp_path / "drive")
    sink.take(frames[0])
    with pytest.raises(RecordingError, match="which ROS cannot hold"):
        sink.take(replace(frames[1], timestamp_ns=2**31 * 10**9))
    sink.close()
    assert len(messages(tmp_path / "drive")) == 1


def test_a_bag_that_cannot_be_finished_is_not_there(
    frames: list[DecodedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = BagSink(tmp_path / "drive")
    sink.take(frames[0])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RecordingError, match=r"cannot write .*drive: No space left"):
        sink.close()
    assert not list(tmp_path.iterdir())


def test_a_bag_that_cannot_be_begun_or_go_on_is_one_line(
    frames: list[DecodedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", full)
        with pytest.raises(RecordingError, match=r"^cannot write .*drive: No space left"):
            BagSink(tmp_path / "drive")
    sink = BagSink(tmp_path / "drive")
    sink.take(frames[0])
    with monkeypatch.context() as patch:
        patch.setattr(sink._writer, "write", full)
        with pytest.raises(RecordingError, match=r"^cannot write .*drive: No space left"):
            sink.take(frames[1])
    sink.close()
    assert len(messages(tmp_path / "drive")) == 1


def test_a_folder_that_does_not_exist_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="its folder does not exist"):
        BagSink(tmp_path / "nowhere" / "drive")


def test_without_rosbags_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rosbags.rosbag2", None)
    with pytest.raises(RecordingError, match=r"--bag needs rosbags.*dsin\[ros\]"):
        BagSink(tmp_path / "drive")
