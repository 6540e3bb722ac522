"""Sequences against video codecs at low delay."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from support.rig_drive import write_drive

from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation import sequences
from dsin.runtime.evaluation.comparison import Point
from dsin.runtime.evaluation.evaluate import evaluate_list
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.runtime.evaluation.rivals import rivals
from dsin.runtime.evaluation.sequences import video_curve, with_encoder_times
from dsin.runtime.evaluation.video_rivals import (
    VIDEO_RIVALS,
    VideoRival,
    frame_bytes,
    slice_bytes,
    video_rivals,
)
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.sources.pair_list import pair_list_of
from dsin.runtime.sources.synthetic_rig import SyntheticRig

NAMES = ["hevc-lowdelay", "av1-lowdelay", "h264-lowdelay"]


@pytest.fixture(scope="module")
def rig() -> SyntheticRig:
    return SyntheticRig(width=200, height=177, frames=3)  # an odd height: 4:2:0 has none


@pytest.fixture(scope="module")
def pictures(rig: SyntheticRig) -> list[Image]:
    """The last one stands still: a codec that refers to earlier pictures needs next to nothing."""
    views = [rig.view(number, "left") for number in range(3)]
    return [*views, views[-1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_video_codec_refers_to_what_was_sent(name: str, pictures: list[Image]) -> None:
    (rival,) = video_rivals([name])
    few, many = (list(rival.code(pictures, rival.settings[n])) for n in (0, -1))
    for coded in (few, many):
        assert len(coded) == len(pictures)
        assert all(one.picture.shape == pictures[0].shape for one in coded)
        assert all(one.size > 0 and one.encode_ms >= 0 for one in coded)
        assert coded[3].size < 0.2 * coded[0].size
    assert sum(one.size for one in few) < sum(one.size for one in many)
    for number, picture in enumerate(pictures):
        # Each is decoded from itself and those before it: no other picture is so near.
        near = [psnr_db(many[number].picture, other) for other in pictures]
        assert near[number] == max(near)
        assert psnr_db(few[number].picture, picture) < near[number]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are scheduled apart on Linux")
def test_no_thread_goes_before_all_others_of_the_machine(pictures: list[Image]) -> None:
    """SVT-AV1 would have it so for root, and for the thread that calls it to the process's end."""
    (rival,) = video_rivals(["av1-lowdelay"])
    coded = rival.code(pictures, 60)
    for _ in range(2):
        next(coded)
        scheduled = {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}
        assert scheduled == {os.SCHED_OTHER}


def test_the_curve_is_the_mean_of_all_pictures(pictures: list[Image]) -> None:
    rival = video_rivals(["h264-lowdelay"])[0]
    one = VideoRival(rival.name, rival.encoder, rival.decoder, (36,), rival.options, rival.size)
    (point,) = video_curve(one, pictures)
    coded = list(one.code(pictures, 36))
    assert point.bpp == pytest.approx(8 * sum(c.size for c in coded) / (4 * 177 * 200))
    quality = [psnr_db(c.picture, p) for c, p in zip(coded, pictures, strict=True)]
    assert point.psnr_db == pytest.approx(np.mean(quality))
    assert point.encode_ms is not None


def test_an_encoders_time_is_of_the_pictures_after_a_first_one(
    pictures: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first picture takes 100 s here, and each other one 2 s: 3 of 4 are timed."""
    now, encoder = [0.0], MagicMock()
    monkeypatch.setattr(sequences, "_TIMED", 3)
    monkeypatch.setattr(sequences, "time", SimpleNamespace(process_time=lambda: now[0]))
    monkeypatch.setattr(sequences, "Encoder", encoder)

    def encode(picture: Image, rate: int) -> None:
        now[0] += 2.0 if now[0] else 100.0

    encoder.return_value.__enter__.return_value.encode = encode
    (timed,) = with_encoder_times([Point(0, 0.1, 30.0, None)], MagicMock(), pictures, "cpu")
    assert timed == Point(0, 0.1, 30.0, None, 2000.0)


def test_what_is_not_of_pictures_does_not_count() -> None:
    sets = b"\0\0\0\1\x67abc\0\0\1\x68de"
    slices = b"\0\0\1\x65abc", b"\0\0\1\x41de"
    h264, hevc = VIDEO_RIVALS["h264-lowdelay"].size, VIDEO_RIVALS["hevc-lowdelay"].size
    assert h264(sets + b"".join(slices)) == len(slices[0]) + len(slices[1])
    assert hevc(b"\0\0\1\x40\1abc\0\0\1\x26\1ab\0\0\1\x02\1abc") == 7 + 8
    assert slice_bytes(b"", lambda first: True) == 0
    # Temporal delimiter, sequence header, frame (with an extension, 200 bytes), tile group.
    frame = b"\x36\0\xc8\x01" + bytes(200)
    assert frame_bytes(b"\x12\0" + b"\x0a\3abc" + frame + b"\x22\1a") == len(frame) + 3
    with pytest.raises(DsinError, match="an AV1 unit without its size"):
        frame_bytes(b"\x12\0\x30abc")


def test_an_encoder_that_keeps_pictures_back_is_told(pictures: list[Image]) -> None:
    rival = VIDEO_RIVALS["h264-lowdelay"]
    slow = VideoRival("slow", rival.encoder, rival.decoder, (36,), lambda _: {}, rival.size)
    with pytest.raises(DsinError, match="low delay"):
        list(slow.code(pictures, 36))


def test_a_list_of_pairs_has_no_order(tmp_path: Path) -> None:
    with pytest.raises(DsinError, match="--kitti DRIVE"):
        evaluate_list(tmp_path / "none", tmp_path, against=["jpeg", "av1-lowdelay"])
    with pytest.raises(DsinError, match="h264-lowdelay"):
        rivals(["bpg"])  # the message names all


def test_pictures_of_several_sizes_are_no_video(pictures: list[Image]) -> None:
    (rival,) = video_rivals(["h264-lowdelay"])
    with pytest.raises(DsinError, match="one size"):
        list(rival.code([*pictures, pictures[0][:-2]], 36))


def test_a_drive_is_taken_in_order_and_where_it_is(rig: SyntheticRig, tmp_path: Path) -> None:
    drive = write_drive(rig, tmp_path / "drive", interval_ms=100)
    with pair_list_of(str(drive), frames=2) as (listed, root):
        found = read_pair_list(listed, root)
    assert root == drive
    assert [pair.x.parents[1].name for pair in found] == ["image_02", "image_02"]
    assert [pair.y.parents[1].name for pair in found] == ["image_03", "image_03"]
    assert found[0].x.name < found[1].x.name
    assert found[0].x.exists()


def test_a_report_of_a_sequence(rig: SyntheticRig, tiny_bundle: Path, tmp_path: Path) -> None:
    drive = write_drive(rig, tmp_path / "drive", interval_ms=100)
    with pair_list_of(str(drive), frames=2) as (listed, root):
        report = evaluate_list(
            listed, root, bundle=tiny_bundle, against=["h264-lowdelay", "jpeg"], in_order=True
        )
    assert len(report["images"]) == 2
    points = report["rivals"]["h264-lowdelay"]
    assert len(points) == len(VIDEO_RIVALS["h264-lowdelay"].settings)
    assert all(point["encode_ms"] > 0 for point in points)
    assert set(report["bd_rate"]) == {"h264-lowdelay", "jpeg"}


def test_a_video_codec_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV itself with its extra; its own library is told to be quiet, unless somebody asked."""
    monkeypatch.delenv("SVT_LOG", raising=False)
    assert [rival.name for rival in video_rivals(VIDEO_RIVALS)] == list(VIDEO_RIVALS)
    assert os.environ["SVT_LOG"] == "0"
    monkeypatch.setenv("SVT_LOG", "3")
    name, rival = next(iter(VIDEO_RIVALS.items()))
    monkeypatch.setitem(VIDEO_RIVALS, name, replace(rival, decoder="of-nobody"))
    with pytest.raises(DsinError) as missing:
        video_rivals([name])
    assert str(missing.value) == f"{name} needs of-nobody, which this PyAV lacks"
    assert os.environ["SVT_LOG"] == "3"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DsinError) as missing:
        video_rivals([name])
    assert str(missing.value) == "av is not installed: pip install 'dsin[evaluate]'"
