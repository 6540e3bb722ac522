"""Replay: recorded packets decode to the same pictures, and to better ones with side images that
came too late."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import Writer
from support.block_bundle import write_block_bundle
from support.command_line import Outcome, Run, command_line
from support.rig_frames import INTERVAL_NS, SECOND_CAMERA_LATE_NS, make_frames

from dsin.runtime import DecodedFrames, Encoder, SentFrames
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.errors import DsinError, PacketError, RecordingError
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse
from dsin.runtime.outputs.mcap_sink import McapSink
from dsin.runtime.picture_files import read_image
from dsin.runtime.replay.recorded_frames import (
    TOLERANCE_NS,
    RecordedPacket,
    RecordedSide,
    RecordedStatus,
    RigTimeline,
    recorded_events,
)
from dsin.runtime.replay.replay import ReplayReport, RigReplay, replay_recordings
from dsin.runtime.signals import ENDING
from dsin.runtime.sources.mcap_reader import McapReader, RecordedMessage
from dsin.runtime.sources.recordings import open_recording
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.runtime.sources.video_file import VideoFile


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_block_bundle(tmp_path_factory.mktemp("replay") / "blocks")


@pytest.fixture(scope="module")
def frames(bundle: Path) -> list[DecodedFrame]:
    return make_frames(bundle, 6)


def test_what_says_nothing_of_a_rig_is_left_out() -> None:
    """Other topics, other schemas and damaged messages; those after them count."""
    content = {"frame_number": 3, "received_ns": 7, "side_use": "paired", "side_number": None}
    whole = RecordedMessage(
        "/my%20car/frame", "dsin.FrameStatus", "json", 1, 2, 0, json.dumps(content).encode()
    )
    spoilt = [{**content, "received_ns": -1}, {**content, "side_use": "no"}, {}]
    others = [
        whole._replace(topic="/car/other"), whole._replace(schema="other"),
        whole._replace(data=b"{"),
        *(whole._replace(data=json.dumps(each).encode()) for each in spoilt),
    ]  # fmt: skip
    status = RecordedStatus("my car", 3, 7, SideUse.PAIRED, None)
    assert list(recorded_events([*others, whole])) == [status]


def test_the_report_has_a_line_for_each_rig_and_says_what_is_missing() -> None:
    front = RigReplay(12, 2, 10, 11, 3, bits=150_000, pixels=1_000_000)
    rear = RigReplay(rejected=4, fault="frame rejected: packet is damaged")
    head = "rig           frames  bit/pixel    side: live       now  repaired  rejected"
    rows = [
        "front             12     0.1500            10        11         3         2",
        "rear               0          -             0         0         0         4",
        "rear: frame rejected: packet is damaged",
    ]
    rigs = {"front": front, "rear": rear}
    whole = ReplayReport(rigs, 0, complete=True)
    assert whole.table().splitlines() == [head, *rows]
    hole = ReplayReport(rigs, 700, complete=False, lost_s=0.25)
    assert hole.table().splitlines() == [
        head, *rows, "the recording was cut off; everything before the cut was read",
        "700 bytes of it, 0.2 s within it, could not be used",
    ]  # fmt: skip
    end = ReplayReport({}, 700, complete=True)
    assert end.table().splitlines() == [head, "700 bytes of it could not be used"]


def record(path: Path, frames: list[DecodedFrame]) -> Path:
    sink = McapSink(path)
    for frame in frames:
        sink.take(frame)
    sink.close()
    return path


def with_y_late(frames: list[DecodedFrame]) -> list[DecodedFrame]:
    """As a server has them when y comes after x: frame 1 has nothing that is recent enough, frame 2
    the side image of frame 1, frame 3 its own again; so the recording has all but number 2."""
    frames = list(frames)
    alone = replace(
        frames[1].decoded, image=frames[1].decoded.x_dec, y_syn=None, matches=None, used_side=False
    )
    frames[2] = replace(frames[2], side=frames[1].side, side_use=SideUse.PREVIOUS)
    frames[1] = replace(frames[1], decoded=alone, side=None, side_use=SideUse.MISSING)
    return frames


class Replayed(NamedTuple):
    frames: list[DecodedFrame]
    report: ReplayReport


@pytest.fixture(scope="module")
def replay(bundle: Path) -> Callable[..., Replayed]:
    def run(*paths: Path, **options: object) -> Replayed:
        shown: list[DecodedFrame] = []
        with Decoder(bundle) as decoder:
            report = replay_recordings(paths, decoder, on_frame=shown.append, **options)  # type: ignore[arg-type]
        return Replayed(shown, report)

    return run


Replay = Callable[..., Replayed]


def standing_frames(count: int) -> list[DecodedFrame]:
    """Frames without side images, of which all but the first refer to the one before."""
    scene = SyntheticRig(width=128, height=64, frames=1).view(0, "left")
    sent, seen, frames = SentFrames(), DecodedFrames(), []
    with Encoder(threads=1) as encoder, Decoder(threads=1) as decoder:
        for number in range(count):
            packet = encoder.encode(scene, 5, frame_number=number, references=sent)
            decoded = decoder.decode(packet, None, references=seen)
            sent.confirm(number)
            at_ns = 10**18 + number * INTERVAL_NS
            frames.append(
                DecodedFrame(
                    rig="car",
                    number=number,
                    timestamp_ns=0,
                    captured_ns=at_ns,
                    received_ns=at_ns,
                    decoded_ns=at_ns,
                    packet=bytes(packet),
                    decoded=decoded,
                    side=None,
                    side_use=SideUse.MISSING,
                    stage_ms={},
                )
            )
            assert (packet.header.reference is None) == (number == 0)
    return frames


def test_frames_that_refer_to_others_in_the_recording(tmp_path: Path) -> None:
    frames = standing_frames(4)
    again: list[DecodedFrame] = []
    with Decoder(threads=1) as decoder:
        whole = record(tmp_path / "whole.mcap", frames)
        replay_recordings([whole], decoder, on_frame=again.append)
        for was, now in zip(frames, again, strict=True):
            assert np.array_equal(was.decoded.image, now.decoded.image)
        cut = record(tmp_path / "cut.mcap", [frames[0], *frames[2:]])
        figures = replay_recordings([cut], decoder).rigs["car"]
    assert (figures.frames, figures.rejected) == (1, 2)
    assert figures.fault is not None
    assert "packet refers to frame 1, which is not among the last frames" in figures.fault


class TestReplay:
    def test_the_same_pictures_and_times(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        again, report = replay(record(tmp_path / "a.mcap", frames))
        for was, now in zip(frames, again, strict=True):
            assert np.array_equal(was.decoded.image, now.decoded.image)
            assert was.side is not None
            assert now.side is not None
            assert np.array_equal(was.side.image, now.side.image)
            for name in ("rig", "number", "timestamp_ns", "captured_ns", "received_ns",
                         "decoded_ns", "packet", "side_use"):  # fmt: skip
                assert getattr(was, name) == getattr(now, name)
            assert now.stage_ms.keys() >= {"server.entropy", "server.search"}
        figures = report.rigs["car"]
        assert (figures.frames, figures.live, figures.now, figures.repaired) == (6, 6, 6, 0)
        assert figures.bits / figures.pixels == pytest.approx(
            np.mean([8 * len(frame.packet) / (120 * 216) for frame in frames])
        )

    def test_a_side_image_that_came_late_is_there_now(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        path = record(tmp_path / "a.mcap", with_y_late(frames))
        again, report = replay(path)
        # As if it had been in time.
        assert np.array_equal(again[1].decoded.image, frames[1].decoded.image)
        assert [frame.side and frame.side.number for frame in again] == [0, 1, 1, 3, 4, 5]
        assert [frame.side_use.value for frame in again] == [
            "paired", "paired", "previous", "paired", "paired", "paired",
        ]  # fmt: skip
        figures = report.rigs["car"]
        assert (figures.live, figures.now, figures.repaired) == (5, 6, 1)

        live, report = replay(path, repair_side=False)
        assert np.array_equal(live[1].decoded.image, frames[1].decoded.x_dec)
        assert live[1].side_use is SideUse.MISSING
        assert report.rigs["car"].repaired == 0

    def test_without_side_images(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        again, report = replay(record(tmp_path / "a.mcap", frames), use_side=False)
        for was, now in zip(frames, again, strict=True):
            assert np.array_equal(now.decoded.image, was.decoded.x_dec)
            assert (now.side, now.side_use) == (None, SideUse.MISSING)
        assert report.rigs["car"].now == 0

    def test_one_rig_of_two_and_a_recording_in_parts(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        vans = [replace(frame, rig="the van") for frame in frames]
        both = [frame for pair in zip(frames, vans, strict=True) for frame in pair]
        parts = record(tmp_path / "a.mcap", both[:7]), record(tmp_path / "b.mcap", both[7:])
        again, report = replay(*parts)
        assert [(f.rig, f.number) for f in again] == [(f.rig, f.number) for f in both]
        assert {name: rig.frames for name, rig in report.rigs.items()} == {"car": 6, "the van": 6}
        assert {frame.rig for frame in replay(*parts, rig="the van").frames} == {"the van"}
        with pytest.raises(RecordingError, match="no frames of rig bus"):
            replay(*parts, rig="bus")

    def test_a_camera_that_began_again(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        """Its numbers come twice, with other pictures."""
        second = [replace(f, captured_ns=f.captured_ns + 10**10) for f in frames[:3]]
        for place, frame in enumerate(second):
            assert frame.side is not None
            swapped = frames[place + 3].side
            assert swapped is not None
            stamp = frame.side.timestamp_ns + 10**10
            side = replace(frame.side, image=swapped.image, timestamp_ns=stamp)
            second[place] = replace(frame, side=side)
        again = replay(record(tmp_path / "a.mcap", [*frames[:3], *second])).frames
        for was, now in zip([*frames[:3], *second], again, strict=True):
            assert was.side is not None
            assert now.side is not None
            assert np.array_equal(was.side.image, now.side.image)

    def test_packets_that_do_not_decode_are_counted(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        broken = bytearray(frames[2].packet)
        broken[-1] ^= 1
        damaged = [*frames[:2], replace(frames[2], packet=bytes(broken)), *frames[3:]]
        again, report = replay(record(tmp_path / "a.mcap", damaged))
        assert [frame.number for frame in again] == [0, 1, 3, 4, 5]
        assert report.rigs["car"].rejected == 1
        assert "frame rejected: packet is damaged" in report.table()

    def test_another_bundle_of_the_same_codec(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        """One that truncates where the first one rounds."""
        again: list[DecodedFrame] = []
        other = write_block_bundle(tmp_path / "other", truncate_to_uint8=True)
        with Decoder(other) as decoder:
            path = record(tmp_path / "a.mcap", frames)
            replay_recordings([path], decoder, on_frame=again.append)
        differences = [
            was.decoded.image.astype(int) - now.decoded.image
            for was, now in zip(frames, again, strict=True)
        ]
        assert {0, 1} == set(np.unique(differences).tolist())

    def test_another_codec_is_refused(
        self, frames: list[DecodedFrame], tmp_path: Path, edge_bundle: Path
    ) -> None:
        path = record(tmp_path / "a.mcap", frames)
        with Decoder(edge_bundle) as decoder, pytest.raises(PacketError, match="another bundle"):
            replay_recordings([path], decoder)

    def test_a_side_image_of_another_size_is_not_used(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        side = frames[0].side
        assert side is not None
        small = replace(frames[0], side=replace(side, image=side.image[:60]))
        again, report = replay(record(tmp_path / "a.mcap", [small, *frames[1:]]))
        assert again[0].side is None
        assert (report.rigs["car"].live, report.rigs["car"].now) == (6, 5)
        assert "side image 0 cannot be used" in report.table()

    def test_a_recording_that_was_cut_off(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        path = record(tmp_path / "a.mcap", frames)
        path.write_bytes(path.read_bytes()[:200_000])
        again, report = replay(path)
        assert [frame.number for frame in again] == [0, 1, 2]
        assert not report.complete
        assert "cut off" in report.table()
        assert f"{report.lost_bytes} bytes" in report.table()

    def test_a_hole_costs_the_frames_within(
        self, replay: Replay, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        path = record(tmp_path / "a.mcap", frames)
        data = bytearray(path.read_bytes())
        data[200_000:210_000] = bytes(10_000)
        path.write_bytes(data)
        again, report = replay(path)
        assert [frame.number for frame in again] == [0, 1, 2, 4, 5]
        assert report.complete
        seconds = f"{2 * INTERVAL_NS / 1e9:.1f} s within it"
        assert f"{report.lost_bytes} bytes of it, {seconds}, could not be used" in report.table()

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_hostile_messages(
        self, replay: Replay, hostile_source: list[RecordedMessage], data: st.DataObject,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:  # fmt: skip
        """Checksums of the file are right, what is in the messages is not."""
        path = tmp_path_factory.mktemp("hostile") / "a.mcap"
        messages = list(hostile_source)
        for place in data.draw(st.sets(st.integers(0, len(messages) - 1), min_size=1, max_size=4)):
            content = bytearray(messages[place].data)
            for _ in range(data.draw(st.integers(1, 3))):
                byte = data.draw(st.integers(0, min(len(content), 300) - 1))
                content[byte] = data.draw(st.integers(0, 255))
            messages[place] = messages[place]._replace(data=bytes(content))
        write_messages(path, messages)
        try:
            report = replay(path).report
        except DsinError:
            return
        figures = report.rigs["car"]
        assert figures.frames + figures.rejected <= 3


@pytest.fixture(scope="module")
def hostile_source(
    frames: list[DecodedFrame], tmp_path_factory: pytest.TempPathFactory
) -> list[RecordedMessage]:
    path = record(tmp_path_factory.mktemp("hostile") / "a.mcap", frames[:3])
    return list(McapReader(path))


def write_messages(path: Path, messages: list[RecordedMessage]) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        for message in messages:
            schema = writer.register_schema(message.schema, "", b"")
            channel = writer.register_channel(message.topic, message.encoding, schema)
            writer.add_message(
                channel, message.log_ns, message.data, message.publish_ns, message.sequence
            )
        writer.finish()


class TestTimeline:
    """Which side image a frame gets, by time."""

    def timeline(
        self, uses: list[SideUse], offset_ns: Callable[[int], int] = lambda n: 0
    ) -> RigTimeline:
        """Frames 100 ms apart; those that were paired have a side image, and so has each other one,
        but too late, after its status. `offset_ns` is the server's clock less that of camera y."""
        timeline = RigTimeline()
        for number, use in enumerate(uses):
            now = 10**15 + number * INTERVAL_NS
            side = RecordedSide("r", number, now - offset_ns(number), b"")
            packet = RecordedPacket("r", number, now, now, now, b"")
            paired = use is SideUse.PAIRED
            status = RecordedStatus("r", number, now, use, number if paired else None)
            for event in (side, packet, status) if paired else (packet, status, side):
                timeline.add(event)
        return timeline

    def test_every_frame_gets_the_one_of_its_moment(self) -> None:
        uses = [SideUse.PAIRED, SideUse.MISSING, SideUse.CLOCK_UNCERTAIN, SideUse.PAIRED]
        for offset in (0, SECOND_CAMERA_LATE_NS, -SECOND_CAMERA_LATE_NS):
            assert self.timeline(uses, lambda n, o=offset: o).repaired_sides() == [0, 1, 2, 3]  # type: ignore[misc]

    def test_clocks_that_drift_apart(self) -> None:
        """By almost a second over the recording."""
        uses = [SideUse.PAIRED, SideUse.PAIRED, SideUse.MISSING] * 300
        drift = 1_000_000  # each frame: 1 %, far more than a clock does
        timeline = self.timeline(uses, lambda n: n * drift)
        assert timeline.repaired_sides() == list(range(900))

    def test_a_pair_of_other_moments_does_not_tell_how_the_clocks_differ(self) -> None:
        """One of nine frames around was paired with a side image that is an interval too early, and
        one with one that is too late."""
        uses = [SideUse.PAIRED] * 4 + [SideUse.MISSING] + [SideUse.PAIRED] * 5
        off = {1: INTERVAL_NS, 7: -INTERVAL_NS}
        timeline = self.timeline(uses, lambda n: off.get(n, 0))
        assert timeline.repaired_sides() == list(range(10))

    def test_nothing_is_guessed_without_a_paired_frame(self) -> None:
        timeline = self.timeline([SideUse.MISSING, SideUse.MISSING])
        assert timeline.repaired_sides() == [None, None]

    @pytest.mark.parametrize("off", [TOLERANCE_NS, TOLERANCE_NS + 1])
    def test_tolerance(self, off: int) -> None:
        timeline = self.timeline(
            [SideUse.PAIRED, SideUse.PAIRED, SideUse.PAIRED, SideUse.MISSING],
            lambda n: off if n == 3 else 0,
        )
        expected = 3 if off <= TOLERANCE_NS else 2 if INTERVAL_NS <= TOLERANCE_NS else None
        assert timeline.repaired_sides()[3] == expected


@pytest.fixture
def dsin(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""
    return command_line(monkeypatch, capfd)


Run = Callable[..., Outcome]


class TestCommand:
    def test_everything_at_once(
        self, dsin: Run, bundle: Path, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        path = record(tmp_path / "a.mcap", with_y_late(frames))
        done = dsin("replay", path, "--bundle", bundle, "-o", tmp_path / "out",
                    "--mcap", tmp_path / "b.mcap", "--video", tmp_path / "v.mkv",
                    "--bag", tmp_path / "bag")  # fmt: skip
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[1].split()[:2] == ["car", "6"]
        assert done.out.splitlines()[1].split()[3:7] == ["5", "6", "1", "0"]
        picture = read_image(tmp_path / "out" / "car" / "frame_000001.png")
        assert np.array_equal(picture, frames[1].decoded.image)
        assert (tmp_path / "v-car.mkv").is_file()
        results = open_recording(f"bag:{tmp_path}/bag,x=/car/result/compressed", "left")
        assert [results.timestamp_ns(n) for n in range(6)] == [f.timestamp_ns for f in frames[:6]]
        # What was repaired is so in the new recording.
        again = dsin("replay", tmp_path / "b.mcap", "--bundle", bundle, "--live-side")
        assert again.out.splitlines()[1].split()[3:7] == ["6", "6", "0", "0"]

    @pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"garbage" * 100])
    def test_what_is_no_recording(
        self, dsin: Run, bundle: Path, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "a.mcap"
        path.write_bytes(content)
        done = dsin("replay", path, "--bundle", bundle)
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"dsin: {path} ")
        assert done.err.count("\n") == 1

    def test_a_recording_of_something_else(
        self, dsin: Run, bundle: Path, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        """Topics of the right names hold other schemas, or bytes that do not fit theirs."""
        path = tmp_path / "a.mcap"
        with path.open("wb") as file:
            writer = Writer(file)
            writer.start()
            for schema, name in (("other", "x/packet"), ("dsin.v1.EncodedFrame", "x/packet"),
                                 ("foxglove.CompressedImage", "side"),
                                 ("dsin.FrameStatus", "frame")):  # fmt: skip
                number = writer.register_schema(schema, "protobuf", b"")
                channel = writer.register_channel(f"/car/{name}", "protobuf", number)
                for data in (b"\xff\xff", b"[]", b'{"side_number": [1]}', b"\0" * 9):
                    writer.add_message(channel, 0, data, 0)
            writer.finish()
        done = dsin("replay", path, "--bundle", bundle)
        assert (done.status, done.out) == (1, "")
        assert "holds no frames that dsin recorded" in done.err


@pytest.fixture
def signals_end_the_process() -> Iterator[None]:
    """As they do unless whoever started the tests had some ignored, as nohup does."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_any_signal_that_ends_a_replay_leaves_whole_files(
    dsin: Run, frames: list[DecodedFrame], bundle: Path, tmp_path: Path, number: str,
    monkeypatch: pytest.MonkeyPatch, signals_end_the_process: None,
) -> None:  # fmt: skip
    """A terminal that is closed, a service manager: a video without its index does not play."""
    source = record(tmp_path / "a.mcap", frames)
    take = McapSink.take

    def take_two(sink: McapSink, frame: DecodedFrame) -> None:
        take(sink, frame)
        if frame.number == frames[1].number:
            os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr(McapSink, "take", take_two)
    before = [signal.getsignal(n) for n in ENDING]
    done = dsin(
        "replay", source, "--bundle", bundle, "--video", tmp_path / "v.mp4", "--mcap",
        tmp_path / "b.mcap",
    )  # fmt: skip
    assert done.status == 128 + getattr(signal, number)
    assert "Traceback" not in done.err
    assert [signal.getsignal(n) for n in ENDING] == before
    (video,) = tmp_path.glob("v*.mp4")
    assert len(VideoFile(video)) == 2
    reader = McapReader(tmp_path / "b.mcap")
    assert list(reader)
    assert (reader.complete, reader.lost_bytes) == (True, 0)
