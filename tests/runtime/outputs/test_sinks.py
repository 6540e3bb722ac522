"""Sinks: what they write, and that none of them can hold up or end a stream."""

import importlib.util
import logging
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.rig_frames import make_frames

from dsin.runtime.errors import DsinError, RecordingError
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.output_names import rig_name_in_paths, unused_path
from dsin.runtime.outputs.outputs import Outputs
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.outputs.picture_sink import PictureSink, frame_panels
from dsin.runtime.outputs.rerun_sink import RerunSink
from dsin.runtime.outputs.sinks import SinkRunner
from dsin.runtime.outputs.video_sink import VideoSink
from dsin.runtime.picture_files import read_image


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedFrame]:
    return make_frames(write_block_bundle(tmp_path_factory.mktemp("sinks") / "blocks"), 6)


class Recorder:
    """A sink that remembers, does `work` first, and can be held up."""

    name = "recorder"

    def __init__(self, work: Callable[[DecodedFrame], None] = lambda frame: None) -> None:
        self.numbers: list[int] = []
        self.threads: set[int] = set()
        self.closed = 0
        self.busy = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._work = work

    def take(self, frame: DecodedFrame) -> None:
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.may_go_on.wait(60)
        self._work(frame)
        self.numbers.append(frame.number)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


class TestSinkRunner:
    def test_frames_arrive_in_order_in_one_other_thread(self, frames: list[DecodedFrame]) -> None:
        sink = Recorder()
        runner = SinkRunner(sink, depth=len(frames))
        for frame in frames:
            runner.offer(frame)
        runner.close()
        assert sink.numbers == [0, 1, 2, 3, 4, 5]
        assert (runner.taken, runner.missed, runner.failed) == (6, 0, 0)
        assert len(sink.threads) == 1
        assert threading.get_ident() not in sink.threads
        assert sink.closed == 1

    def test_a_slow_sink_misses_the_oldest_frames(self, frames: list[DecodedFrame]) -> None:
        sink = Recorder()
        sink.may_go_on.clear()
        runner = SinkRunner(sink, depth=2)
        runner.offer(frames[0])
        assert sink.busy.wait(60)
        for frame in frames[1:]:
            runner.offer(frame)  # returns, though the sink does nothing
        sink.may_go_on.set()
        runner.close()
        assert sink.numbers == [0, 4, 5]
        assert (runner.taken, runner.missed) == (3, 3)

    def test_a_failing_sink_is_tried_again_and_logged_once_for_each_message(
        self, frames: list[DecodedFrame], caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(frame: DecodedFrame) -> None:
            if frame.number < 3:
                raise DsinError("no room\nleft")
            if frame.number == 3:
                raise OSError("gone")

        sink = Recorder(work)
        runner = SinkRunner(sink, depth=len(frames))
        with caplog.at_level(logging.INFO, "dsin.runtime.outputs.sinks"):
            for frame in frames:
                runner.offer(frame)
            runner.close()
        assert sink.numbers == [4, 5]
        assert (runner.taken, runner.missed, runner.failed) == (2, 0, 4)
        assert runner.last_error == "gone"
        assert [r.getMessage() for r in caplog.records] == [
            "recorder: no room left", "recorder: gone",
        ]  # fmt: skip
        assert not any(record.exc_info for record in caplog.records)

    def test_a_fault_of_a_sink_is_logged_with_its_traceback(
        self, frames: list[DecodedFrame], caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(frame: DecodedFrame) -> None:
            raise ZeroDivisionError("a fault")

        runner = SinkRunner(Recorder(work))
        with caplog.at_level(logging.ERROR, "dsin.runtime.outputs.sinks"):
            runner.offer(frames[0])
            runner.close()
        assert runner.failed == 1
        assert runner.last_error == "ZeroDivisionError: a fault"
        assert caplog.records[0].exc_info is not None

    def test_a_sink_that_says_something_else_each_time_is_logged_each_time(
        self, frames: list[DecodedFrame], caplog: pytest.LogCaptureFixture
    ) -> None:
        """What it said is forgotten after 64 messages, and then told again."""
        words = [str(number) for number in (*range(64), 3, 64, 3)]

        def work(frame: DecodedFrame) -> None:
            raise DsinError(words[frame.number])

        runner = SinkRunner(Recorder(work), depth=len(words))
        with caplog.at_level(logging.ERROR, "dsin.runtime.outputs.sinks"):
            for number in range(len(words)):
                runner.offer(replace(frames[0], number=number))
            runner.close()
        assert caplog.messages == [f"recorder: {word}" for word in (*words[:64], "64", "3")]
        assert runner.failed == len(words)

    def test_a_queue_holds_a_frame_at_least(self) -> None:
        with pytest.raises(ValueError, match="a queue of 0 frames holds none"):
            SinkRunner(Recorder(), depth=0)

    def test_closing_does_not_wait_for_ever(
        self, frames: list[DecodedFrame], caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = Recorder()
        sink.may_go_on.clear()
        runner = SinkRunner(sink)
        runner.offer(frames[0])
        assert sink.busy.wait(60)
        for frame in frames[1:3]:
            runner.offer(frame)
        with caplog.at_level(logging.WARNING, "dsin.runtime.outputs.sinks"):
            runner.close(timeout_s=0.05)
        assert "gave up waiting" in caplog.text
        runner.offer(frames[3])
        sink.may_go_on.set()
        runner.close()
        # The time to drain was over, so two frames were missed, as was the one after closing.
        assert (sink.numbers, sink.closed, runner.missed) == ([0], 1, 3)


class TestNames:
    def test_a_rig_cannot_leave_the_folder(self) -> None:
        for rig in ("..", ".", "", "../../etc", "/abs", "a/b", "a\0b", "grün", ".hidden"):
            name = rig_name_in_paths(rig)
            assert Path(name).name == name
            assert not name.startswith(".")
            assert "\0" not in name
        assert rig_name_in_paths("car-7_b.front") == "car-7_b.front"

    def test_existing_files_are_left_alone(self, tmp_path: Path) -> None:
        assert unused_path(tmp_path / "a.mcap").name == "a.mcap"
        for name in ("a.mcap", "a.2.mcap"):
            (tmp_path / name).touch()
        assert unused_path(tmp_path / "a.mcap").name == "a.3.mcap"


class TestPictures:
    def test_a_folder_for_each_rig(self, frames: list[DecodedFrame], tmp_path: Path) -> None:
        sink = PictureSink(tmp_path / "out", panels=True)
        sink.take(frames[2])
        sink.take(replace(frames[3], rig="../van"))
        sink.close()
        written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*") if p.is_file()}
        assert written == {
            "out/car/frame_000002.png", "out/car/panels_000002.png",
            "out/%2E.%2Fvan/frame_000003.png", "out/%2E.%2Fvan/panels_000003.png",
        }  # fmt: skip
        picture = read_image(tmp_path / "out" / "car" / "frame_000002.png")
        assert np.array_equal(picture, frames[2].decoded.image)

    def test_panels_tell_bits_per_pixel_and_age(self, frames: list[DecodedFrame]) -> None:
        """3240 bytes for 216x120 pixels are one bit for each."""
        side = frames[2].side
        assert side is not None
        panels = frame_panels(replace(frames[2], packet=bytes(3240)))
        assert [(panel.name, panel.note) for panel in panels] == [
            ("x_dec", "from the packet alone, 1.0000 bit per pixel"),
            ("y", "side image: paired"),
            ("y_syn", "patches of the side image"),
            ("result", "frame 2, 60 ms old"),
        ]
        pictures = (
            frames[2].decoded.x_dec, side.image, frames[2].decoded.y_syn,
            frames[2].decoded.image,
        )  # fmt: skip
        assert all(panel.picture is p for panel, p in zip(panels, pictures, strict=True))

    @pytest.mark.parametrize(
        ("width", "sheet_width"), [(100, 2 * 500 + 4), (480, 2 * 480 + 4), (481, 2 * 481 + 4)]
    )
    def test_narrow_pictures_are_enlarged_by_a_whole_factor(
        self, width: int, sheet_width: int
    ) -> None:
        panel = Panel(np.zeros((20, width, 3), np.uint8), "name", "note")
        assert side_by_side([panel] * 4).shape[1] == sheet_width

    def test_a_frame_without_side_image_has_panels_too(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        alone = replace(frames[0].decoded, y_syn=None, matches=None, used_side=False)
        sink = PictureSink(tmp_path, ".jpg", panels=True)
        sink.take(replace(frames[0], decoded=alone, side=None))
        sheet = read_image(tmp_path / "car" / "panels_000000.jpg")
        with_side = PictureSink(tmp_path, ".png", panels=True)
        with_side.take(frames[0])
        assert sheet.shape == read_image(tmp_path / "car" / "panels_000000.png").shape

    def test_what_cannot_be_written(self, frames: list[DecodedFrame], tmp_path: Path) -> None:
        with pytest.raises(DsinError, match=r"\.png, \.jpg"):
            PictureSink(tmp_path, ".gif")
        (tmp_path / "file").touch()
        with pytest.raises(DsinError, match="cannot write pictures"):
            PictureSink(tmp_path / "file")
        sink = PictureSink(tmp_path)
        with pytest.raises(DsinError, match="File name too long"):
            sink.take(replace(frames[0], rig="r" * 300))


def count_frames(path: Path) -> tuple[int, tuple[int, ...]]:
    """Frames of a video, and the shape of the last."""
    video, count, shape = cv2.VideoCapture(str(path)), 0, ()
    while True:
        there, picture = video.read()
        if not there:
            video.release()
            return count, shape
        count, shape = count + 1, picture.shape


class TestVideo:
    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
    def test_all_frames_are_in_it(
        self, frames: list[DecodedFrame], tmp_path: Path, suffix: str
    ) -> None:
        sink = VideoSink(tmp_path / f"drive{suffix}", fps=10)
        for frame in frames:
            sink.take(frame)
        sink.take(replace(frames[0], rig="van"))
        sink.close()
        assert sink.paths == [tmp_path / f"drive-{rig}{suffix}" for rig in ("car", "van")]
        assert sorted(tmp_path.iterdir()) == sink.paths
        assert count_frames(tmp_path / f"drive-car{suffix}") == (6, (120, 216, 3))
        assert count_frames(tmp_path / f"drive-van{suffix}")[0] == 1

    def test_colours_are_not_swapped(self, frames: list[DecodedFrame], tmp_path: Path) -> None:
        orange = np.full((64, 96, 3), (220, 110, 30), np.uint8)
        sink = VideoSink(tmp_path / "drive.avi")
        sink.take(replace(frames[0], decoded=replace(frames[0].decoded, image=orange)))
        sink.close()
        video = cv2.VideoCapture(str(tmp_path / "drive-car.avi"))
        picture = video.read()[1]
        video.release()
        np.testing.assert_allclose(picture.mean((0, 1)), (30, 110, 220), atol=8)

    def test_odd_sizes_are_padded_and_another_size_is_another_file(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        sink = VideoSink(tmp_path / "drive.avi")
        cut = replace(frames[1].decoded, image=frames[1].decoded.image[:99, :101])
        sink.take(frames[0])
        sink.take(replace(frames[1], decoded=cut))
        sink.close()
        assert count_frames(tmp_path / "drive-car.avi") == (1, (120, 216, 3))
        assert count_frames(tmp_path / "drive-car.2.avi") == (1, (100, 102, 3))

    def test_what_cannot_be_written(
        self, frames: list[DecodedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DsinError, match=r"\.mp4, \.avi, \.mkv"):
            VideoSink(tmp_path / "drive.wmv")
        with pytest.raises(DsinError, match="folder does not exist"):
            VideoSink(tmp_path / "no" / "drive.mp4")
        for fps in (0, -1, 1000.5):
            with pytest.raises(DsinError) as refused:
                VideoSink(tmp_path / "drive.mp4", fps=fps)
            told = f"a video of {fps:g} frames a second: ask for 1000 at most"
            assert str(refused.value) == told
        for fps in (0.5, 1000):
            VideoSink(tmp_path / "drive.mp4", fps=fps).close()
        with monkeypatch.context() as patch:
            patch.setattr(cv2, "VideoWriter", Mock(**{"return_value.isOpened.return_value": False}))
            with pytest.raises(
                DsinError, match=r"drive-car.mp4: this OpenCV cannot encode it; use .avi"
            ):
                VideoSink(tmp_path / "drive.mp4").take(frames[0])
        sink = VideoSink(tmp_path / "drive.mp4")
        sink.take(frames[0])
        free = SimpleNamespace(free=32 * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
        sink.take(frames[1])
        free.free -= 1
        with pytest.raises(DsinError, match="video stopped: less than 32 MiB are free beside"):
            sink.take(frames[1])
        assert count_frames(tmp_path / "drive-car.mp4")[0] == 2

    @pytest.mark.parametrize("suffix", [".avi", ".mkv"])
    def test_a_killed_process_leaves_most_of_it(self, tmp_path: Path, suffix: str) -> None:
        code = f"""
import os, sys
from types import SimpleNamespace
import numpy as np
from pathlib import Path
from dsin.runtime.outputs.video_sink import VideoSink
sink = VideoSink(Path({str(tmp_path)!r}) / "drive{suffix}")
noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
for _ in range(100):
    sink.take(SimpleNamespace(rig="car", decoded=SimpleNamespace(image=noise)))
os.kill(os.getpid(), 9)
"""
        done = subprocess.run([sys.executable, "-c", code])
        assert done.returncode == -signal.SIGKILL
        assert count_frames(tmp_path / f"drive-car{suffix}")[0] > 50


class TestRerun:
    def test_frames_can_be_loaded_back(self, frames: list[DecodedFrame], tmp_path: Path) -> None:
        pytest.importorskip("rerun")
        sink = RerunSink(tmp_path / "drive.rrd")
        for frame in frames:
            sink.take(frame)
        sink.close()
        rows = rerun_rows(tmp_path / "drive.rrd")
        assert {rows[f"/car/{name}"] for name in ("x_dec", "result", "y", "bpp", "age_ms")} == {6}
        chunk = pytest.importorskip("rerun.chunk")
        (entry,) = chunk.RrdReader(str(tmp_path / "drive.rrd")).recordings()
        assert entry.application_id == "dsin"
        assert rows["/car/stage_ms/search"] == 6

    def test_values_stand_at_their_frame_and_time(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        chunk = pytest.importorskip("rerun.chunk")
        sink = RerunSink(tmp_path / "drive.rrd")
        sink.take(frames[1])
        sink.close()
        parts = {p.entity_path: p for p in chunk.RrdReader(str(tmp_path / "drive.rrd")).stream()}
        bpp = parts["/car/bpp"]
        columns = bpp.to_record_batch()
        assert {"frame", "captured"} <= set(bpp.timeline_names)
        assert columns["frame"].to_pylist() == [frames[1].number]
        assert columns["captured"].cast("int64").to_pylist() == [frames[1].captured_ns]
        pixels = frames[1].decoded.image.size / 3
        assert columns["Scalars:scalars"].to_pylist() == [[8 * len(frames[1].packet) / pixels]]
        picture = parts["/car/result"].to_record_batch()
        assert picture["EncodedImage:media_type"].to_pylist() == [["image/jpeg"]]

    @pytest.mark.filterwarnings("ignore:RRD file has no footer")
    def test_a_killed_process_leaves_what_it_took(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        pytest.importorskip("rerun")
        (tmp_path / "frames").write_bytes(pickle.dumps(frames))
        code = f"""
import os, pickle
from pathlib import Path
from dsin.runtime.outputs.rerun_sink import RerunSink
folder = Path({str(tmp_path)!r})
sink = RerunSink(folder / "drive.rrd")
for frame in pickle.loads((folder / "frames").read_bytes()):
    sink.take(frame)
os.kill(os.getpid(), 9)
"""
        done = subprocess.run([sys.executable, "-c", code])
        assert done.returncode == -signal.SIGKILL
        assert rerun_rows(tmp_path / "drive.rrd")["/car/result"] == 6

    def test_it_says_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(RecordingError, match=r"end with \.rrd"):
            RerunSink(tmp_path / "drive.mcap")
        with pytest.raises(RecordingError, match="folder does not exist"):
            RerunSink(tmp_path / "no" / "drive.rrd")
        if Path("/proc").is_dir() and importlib.util.find_spec("rerun"):
            with pytest.raises(RecordingError, match="cannot write"):
                RerunSink(Path("/proc/drive.rrd"))
        monkeypatch.setitem(sys.modules, "rerun", None)
        with pytest.raises(RecordingError, match=r"pip install 'dsin\[rerun\]'"):
            RerunSink(tmp_path / "drive.rrd")


def rerun_rows(path: Path) -> dict[str, int]:
    """Rows of each entity in a Rerun recording."""
    chunk = pytest.importorskip("rerun.chunk")
    rows: dict[str, int] = {}
    for part in chunk.RrdReader(str(path)).stream():
        rows[part.entity_path] = rows.get(part.entity_path, 0) + part.num_rows
    return rows


def test_if_one_output_cannot_be_had_none_stays_open(tmp_path: Path) -> None:
    with pytest.raises(DsinError, match="cannot write"):
        Outputs(mcap=tmp_path / "a.mcap", rerun=tmp_path / "a.txt").open()
    assert list(tmp_path.iterdir()) == []
    sinks = Outputs(pictures=tmp_path / "p", video=tmp_path / "v.avi", mcap=tmp_path / "a.mcap")
    opened = sinks.open()
    assert [sink.name for sink in opened] == ["pictures", "video", "mcap"]
    for sink in opened:
        sink.close()
