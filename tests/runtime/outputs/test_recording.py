"""Recordings: what is in them, and that they can be read whatever became of their writer."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, ChunkIndex, Message, Schema, Statistics
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer
from support import rig_frames
from support.block_bundle import write_block_bundle
from support.rig_frames import endless, make_frames

from dsin.runtime.errors import RecordingError
from dsin.runtime.outputs import mcap_sink
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse
from dsin.runtime.outputs.mcap_sink import McapSink
from dsin.runtime.sources import mcap_reader
from dsin.runtime.sources.mcap_reader import McapReader, RecordedMessage

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedFrame]:
    return make_frames(write_block_bundle(tmp_path_factory.mktemp("recording") / "blocks"))


def record(path: Path, frames: list[DecodedFrame], **options: Any) -> Path:
    sink = McapSink(path, **options)
    for frame in frames:
        sink.take(frame)
    sink.close()
    return path


@pytest.fixture(scope="module")
def recording(frames: list[DecodedFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames; the last uses the side image of the one before it."""
    late = replace(frames[3], side=frames[2].side, side_use=SideUse.PREVIOUS)
    return record(tmp_path_factory.mktemp("recording") / "drive.mcap", [*frames[:3], late])


def test_the_file_is_as_mcap_doctor_wants_it(recording: Path) -> None:
    """What that tool checks, by the package mcap: checksums, order, indexes and statistics."""
    schemas, channels, counts = set[int](), set[int](), Counter[int]()
    latest = 0
    places, indexed, statistics = [], [], []
    with recording.open("rb") as file:
        kinds = []
        for record in StreamReader(file, emit_chunks=True, validate_crcs=True).records:
            kinds.append(type(record).__name__)
            if isinstance(record, Chunk):
                places.append((record.message_start_time, record.message_end_time))
                inner = breakup_chunk(record, validate_crc=True)
            else:
                inner = [record]
            times = []
            for each in inner:
                if isinstance(each, Schema):
                    assert each.id > 0
                    schemas.add(each.id)
                elif isinstance(each, Channel):
                    assert each.schema_id in schemas
                    channels.add(each.id)
                elif isinstance(each, Message):
                    assert each.channel_id in channels
                    assert each.log_time >= latest
                    latest = each.log_time
                    counts[each.channel_id] += 1
                    times.append(each.log_time)
            if times:
                assert places[-1] == (min(times), max(times))
            if isinstance(record, ChunkIndex):
                indexed.append((record.message_start_time, record.message_end_time))
            if isinstance(record, Statistics):
                statistics.append(record)
    assert (kinds[0], kinds[-1]) == ("Header", "Footer")
    assert indexed == places
    (told,) = statistics
    assert told.channel_message_counts == counts
    assert (told.chunk_count, told.message_count) == (len(places), counts.total())
    assert (told.schema_count, told.channel_count) == (len(schemas), len(channels))


class Decoder:
    """Reads protobuf messages by nothing but the schema in the file."""

    def __init__(self, name: str, schema: bytes) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(schema).file:
            pool.Add(file)
        self.message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def independent(path: Path) -> dict[str, list[tuple[Any, Any]]]:
    """Topic to its messages and decoded contents, as the format's own reader finds them."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            assert schema is not None
            assert (schema.encoding, channel.message_encoding) in (
                ("protobuf", "protobuf"), ("jsonschema", "json"),
            )  # fmt: skip
            content = (
                json.loads(message.data)
                if channel.message_encoding == "json"
                else Decoder(schema.name, schema.data).message.FromString(message.data)
            )
            found.setdefault(channel.topic, []).append((message, content))
    return found


class TestWhatIsInIt:
    def test_the_format_s_own_reader_finds_it(
        self, recording: Path, frames: list[DecodedFrame]
    ) -> None:
        found = independent(recording)
        counts = {topic: len(messages) for topic, messages in found.items()}
        assert counts == {"/car/side": 3, "/car/x/packet": 4, "/car/frame": 4, "/car/result": 4}
        for frame, (message, packet) in zip(frames, found["/car/x/packet"], strict=True):
            assert packet.packet == frame.packet
            assert packet.timestamp_ns == frame.timestamp_ns
            assert message.sequence == packet.frame_number == frame.number
            assert (message.log_time, message.publish_time) == (
                frame.decoded_ns, frame.captured_ns,
            )  # fmt: skip

    def test_side_images_are_exact_and_there_once(
        self, recording: Path, frames: list[DecodedFrame]
    ) -> None:
        sides = independent(recording)["/car/side"]
        for frame, (message, image) in zip(frames[:3], sides, strict=True):
            assert frame.side is not None
            assert (image.format, image.frame_id) == ("png", "car/y")
            stamp = image.timestamp.seconds * 10**9 + image.timestamp.nanos
            assert stamp == frame.side.timestamp_ns
            assert message.sequence == frame.side.number
            assert np.array_equal(decoded(image.data), frame.side.image)

    def test_status_and_results(self, recording: Path, frames: list[DecodedFrame]) -> None:
        found = independent(recording)
        status = found["/car/frame"][3][1]
        assert (status["side_use"], status["side_number"]) == ("previous", 2)
        assert status["age_ms"] == pytest.approx(60)
        assert status["stage_ms"].keys() == frames[3].stage_ms.keys()
        result = found["/car/result"][0][1]
        assert result.format == "jpeg"
        error = decoded(result.data).astype(float) - frames[0].decoded.image
        assert np.abs(error).mean() < 5

    def test_topics_of_rigs_with_odd_names_and_times(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        odd = replace(frames[0], rig="a/../b", captured_ns=-5, decoded_ns=2**64, side=None)
        path = record(tmp_path / "a.mcap", [odd])
        messages = list(McapReader(path))
        assert messages[0].topic == "/a%2F..%2Fb/x/packet"
        assert (messages[0].publish_ns, messages[0].log_ns) == (0, 2**64 - 1)

    def test_both_readers_agree(self, recording: Path) -> None:
        ours = McapReader(recording)
        counted = Counter(message.topic for message in ours)
        assert counted == {topic: len(found) for topic, found in independent(recording).items()}
        assert (ours.complete, ours.lost_bytes) == (True, 0)


def decoded(data: bytes) -> Any:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture[:, :, ::-1]


class TestParts:
    def test_an_existing_file_is_never_touched(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        (tmp_path / "a.mcap").write_bytes(b"mine")
        record(tmp_path / "a.mcap", frames[:1])
        assert (tmp_path / "a.mcap").read_bytes() == b"mine"
        assert McapReader(tmp_path / "a.2.mcap").path.is_file()

    def test_a_long_recording_has_parts_that_stand_alone(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        same_side = [replace(frame, side=frames[0].side) for frame in frames]
        record(tmp_path / "a.mcap", same_side, part_frames=2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.2.mcap", "a.mcap"]
        for path in tmp_path.iterdir():
            counts = {topic: len(found) for topic, found in independent(path).items()}
            assert (counts["/car/x/packet"], counts["/car/side"]) == (2, 1)
        record(tmp_path / "b.mcap", frames, part_bytes=1)
        assert len(list(tmp_path.glob("b*.mcap"))) == 4

    def test_a_part_ends_at_2000_frames(self, frames: list[DecodedFrame], tmp_path: Path) -> None:
        sink = McapSink(tmp_path / "a.mcap")
        assert sink._part is not None
        sink._part.frames = 1998
        sink.take(frames[0])
        assert [path.name for path in sink.paths] == ["a.mcap"]
        sink.take(frames[1])
        assert [path.name for path in sink.paths] == ["a.mcap", "a.2.mcap"]
        sink.close()

    def test_what_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(RecordingError, match="No such file or directory"):
            McapSink(tmp_path / "no" / "a.mcap")
        monkeypatch.setitem(sys.modules, "mcap.writer", None)
        with pytest.raises(RecordingError, match=r"pip install 'dsin\[serve\]'"):
            McapSink(tmp_path / "a.mcap")
        assert list(tmp_path.iterdir()) == []


class TestFullDisk:
    """A limit on the size of files stands in for the end of the disk."""

    CODE = """
import pickle, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.rig_frames import endless
from dsin.runtime.errors import RecordingError
from dsin.runtime.outputs.mcap_sink import RESUME_S, McapSink

now = 0.0
sink = McapSink(Path(sys.argv[3]), clock=lambda: now)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
errors = []
for frame in endless(pickle.loads(Path(sys.argv[2]).read_bytes())):
    try:
        sink.take(frame)
    except RecordingError as error:
        errors.append(str(error))
    if len(errors) == 3:  # room again
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    if len(errors) == 5:
        now = RESUME_S
    if frame.number == 40:
        break
sink.close()
print(len(errors), len(set(errors)), errors[0])
"""

    @pytest.mark.parametrize("limit", [200_000, 200_001, 261_111, 300_500])
    def test_it_ends_readable_and_goes_on_later(
        self, frames: list[DecodedFrame], tmp_path: Path, limit: int
    ) -> None:
        (tmp_path / "frames").write_bytes(pickle.dumps(frames))
        path = tmp_path / "a.mcap"
        arguments = [str(TESTS), str(tmp_path / "frames"), str(path), str(limit)]
        done = subprocess.run(
            [sys.executable, "-c", self.CODE, *arguments],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        failures, distinct, message = done.stdout.split(" ", 2)
        assert (failures, distinct) == ("5", "1")
        assert "has stopped: File too large; make room" in message
        assert path.stat().st_size <= limit
        before, after = independent(path), independent(tmp_path / "a.2.mcap")
        numbers = [m.sequence for found in (before, after) for m, _ in found["/car/x/packet"]]
        lost = [number for number in range(41) if number not in numbers]
        assert len(lost) == 5
        assert lost == list(range(lost[0], lost[0] + 5))
        assert numbers[0] == 0
        assert numbers[-1] == 40
        for found in (before, after):
            assert len(found["/car/side"]) == len(found["/car/frame"]) == len(found["/car/result"])

    def test_an_index_for_which_there_is_no_room_is_told(
        self, frames: list[DecodedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The frames are readable all the same."""
        sink = McapSink(tmp_path / "a.mcap")
        sink.take(frames[0])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RecordingError, match=r"has stopped: No space left.*; make room"):
            sink.close()
        read = McapReader(tmp_path / "a.mcap")
        assert [m.sequence for m in read if m.topic == "/car/x/packet"] == [0]

    def test_a_part_without_a_frame_is_removed(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        sink = McapSink(tmp_path / "a.mcap")
        sink.close()
        assert list(tmp_path.iterdir()) == []

    def test_it_waits_until_there_is_room(
        self, frames: list[DecodedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        sink = McapSink(tmp_path / "a.mcap", clock=lambda: now)
        sink.take(frames[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(RecordingError, match="No space left"):
                sink.take(frames[1])
        now = mcap_sink.RESUME_S
        with monkeypatch.context() as patch:
            patch.setattr(mcap_sink, "LEAST_FREE_BYTES", 2**62)
            with pytest.raises(RecordingError, match="the disk is full"):
                sink.take(frames[2])
        now *= 2
        sink.take(frames[3])
        sink.close()
        assert [path.name for path in sink.paths] == ["a.mcap", "a.2.mcap"]
        # Not even the end of the first part found room, which readers of whole files need.
        first = McapReader(tmp_path / "a.mcap")
        assert [m.sequence for m in first if m.topic == "/car/x/packet"] == [0]
        assert (first.complete, first.lost_bytes) == (False, 0)


def full(descriptor: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")


class TestKill:
    def test_at_most_half_a_second_is_lost(
        self, frames: list[DecodedFrame], tmp_path: Path
    ) -> None:
        (tmp_path / "frames").write_bytes(pickle.dumps(frames))
        command = [sys.executable, rig_frames.__file__, str(tmp_path / "frames")]
        path = tmp_path / "a.mcap"
        with subprocess.Popen([*command, str(path), "0.1"], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            offered = [int(process.stdout.readline()) for _ in range(15)]
            process.send_signal(signal.SIGKILL)
            offered += [int(line) for line in process.stdout.read().split()]
        found = McapReader(path)
        packets = [m.sequence for m in found if m.topic == "/car/x/packet"]
        assert packets == list(range(len(packets)))
        assert packets[-1] >= offered[-1] - 5
        assert not found.complete


def prefix_of(shorter: list[RecordedMessage], longer: list[RecordedMessage]) -> bool:
    return shorter == longer[: len(shorter)]


class TestDamage:
    def test_cut_at_every_byte_of_the_end(self, recording: Path, tmp_path: Path) -> None:
        data, whole = recording.read_bytes(), list(McapReader(recording))
        path = tmp_path / "cut.mcap"
        seen = set()
        # The last frame and a little of the one before, their indexes, the summary, the footer.
        start = len(data) - 16_000
        for length in [*range(start, len(data), 7), *range(len(data) - 400, len(data) + 1)]:
            path.write_bytes(data[:length])
            cut = McapReader(path)
            messages = list(cut)
            assert prefix_of(messages, whole)
            assert cut.complete or cut.lost_bytes < length
            seen.add(len(messages))
        assert seen == {8, 12, 15}  # whole frames, all of them

    @pytest.mark.parametrize("start", [0, 7, 10**6, 2**64 - 1])
    def test_a_summary_elsewhere_is_not_read(
        self, recording: Path, tmp_path: Path, start: int
    ) -> None:
        changed = bytearray(recording.read_bytes())
        changed[-28:-20] = start.to_bytes(8, "little")
        path = tmp_path / "elsewhere.mcap"
        path.write_bytes(changed)
        assert list(McapReader(path)) == list(McapReader(recording))

    def test_what_is_lost_is_counted(self, recording: Path, tmp_path: Path) -> None:
        path = tmp_path / "cut.mcap"
        path.write_bytes(recording.read_bytes()[:100])
        cut = McapReader(path)
        assert list(cut) == []
        # The magic and the header are whole, the first chunk is not.
        assert (cut.complete, cut.lost_bytes) == (False, 100 - 8 - 21)

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_changed_bytes(self, recording: Path, data: st.DataObject) -> None:
        changed = bytearray(recording.read_bytes())
        whole = {message.data for message in McapReader(recording)}
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(8, len(changed) - 1))
            changed[place] ^= data.draw(st.integers(1, 255))
        path = recording.with_name("changed.mcap")
        path.write_bytes(changed)
        assert {message.data for message in readable(path)} <= whole

    def test_a_damaged_chunk_costs_its_messages_alone(
        self, recording: Path, tmp_path: Path
    ) -> None:
        changed = bytearray(recording.read_bytes())
        changed[30_000] ^= 1
        path = tmp_path / "changed.mcap"
        path.write_bytes(changed)
        found = McapReader(path)
        # The first chunk said what the channels are; the summary at the end does too.
        assert list(found) == list(McapReader(recording))[4:]
        assert found.complete
        assert found.lost_bytes > 50_000

    @pytest.mark.parametrize("damage", ["zeros", "noise", "short", "long", "name"])
    def test_behind_a_hole_reading_goes_on_with_the_next_chunk(
        self, recording: Path, tmp_path: Path, damage: str
    ) -> None:
        data, whole = bytearray(recording.read_bytes()), list(McapReader(recording))
        with recording.open("rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        second, third = (index.chunk_start_offset for index in summary.chunk_indexes[1:3])
        expected = whole[:4] + whole[8:]
        if damage in ("short", "long"):
            length = int.from_bytes(data[second + 1 : second + 9], "little")
            changed = 100 if damage == "short" else length + 1000
            data[second + 1 : second + 9] = changed.to_bytes(8, "little")
            expected = expected if damage == "short" else whole  # there is another length within
        elif damage == "name":
            data[second + 37 : second + 45] = b"\x04\0\0\0zsud"
        else:
            hole = range(second - 40, third - 100)
            noise = np.random.default_rng(1).bytes(len(hole))
            data[hole.start : hole.stop] = bytes(len(hole)) if damage == "zeros" else noise
        path = tmp_path / "hole.mcap"
        path.write_bytes(data)
        found = McapReader(path)
        assert list(found) == expected
        assert found.complete
        assert found.lost_ns == whole[8].log_ns - whole[7 if damage == "long" else 3].log_ns
        least = 0 if damage == "long" else third - second - 200
        assert least < found.lost_bytes < least + 600

    def test_a_last_chunk_that_is_gone_is_no_cut(self, recording: Path, tmp_path: Path) -> None:
        with recording.open("rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        last = summary.chunk_indexes[-1].chunk_start_offset
        path, data = tmp_path / "hole.mcap", bytearray(recording.read_bytes())
        data[last : last + 50] = bytes(50)
        path.write_bytes(data)
        found = McapReader(path)
        assert list(found) == list(McapReader(recording))[:12]
        assert found.complete
        assert 0 < found.lost_bytes < len(data) - last

    def test_what_only_looks_like_chunks_takes_no_time_without_end(self, tmp_path: Path) -> None:
        """Each claims to reach to the end of the file, and to be whole until it is read."""
        path, count, size = tmp_path / "a.mcap", 3000, 49
        parts = []
        for number in range(count):
            held = (count - number - 1) * size
            lengths = [held.to_bytes(8, "little")] * 2
            parts.append(
                b"\x06" + (40 + held).to_bytes(8, "little") + bytes(16) + lengths[0] + b"\1\0\0\0"
                + bytes(4) + lengths[1]
            )  # fmt: skip
        path.write_bytes(b"\x89MCAP0\r\n" + b"\0" * 9 + b"".join(parts))
        reader = McapReader(path)
        with patch.object(mcap_reader, "_chunk_records", wraps=mcap_reader._chunk_records) as tried:
            assert list(reader) == []
        assert 3 < tried.call_count < 10
        assert not reader.complete

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200))
    def test_garbage(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        path = tmp_path_factory.mktemp("garbage") / "a.mcap"
        path.write_bytes(b"\x89MCAP0\r\n" + data)
        assert readable(path) == []
        path.write_bytes(b"x" + data)
        with pytest.raises(RecordingError, match="is not a recording"):
            McapReader(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(RecordingError, match="No such file"):
            McapReader(tmp_path / "none.mcap")
        with pytest.raises(RecordingError, match="Is a directory"):
            McapReader(tmp_path)


def readable(path: Path) -> list[RecordedMessage]:
    """What can be read, where refusing a compression that is not known is no fault."""
    recording = McapReader(path)
    messages: list[RecordedMessage] = []
    with suppress(RecordingError):
        for message in recording:
            messages.append(message)
    return messages


class TestCompression:
    """Recordings of dsin are not compressed, but other tools write them so."""

    @pytest.mark.parametrize("compression", list(CompressionType))
    def test_any(self, tmp_path: Path, compression: CompressionType) -> None:
        path = tmp_path / "a.mcap"
        with path.open("wb") as file:
            writer = Writer(file, compression=compression)
            writer.start()
            schema = writer.register_schema("some", "jsonschema", b"{}")
            channel = writer.register_channel("/t", "json", schema)
            for number in range(100):
                writer.add_message(channel, number, b"{}" * 50, number, number)
            writer.finish()
        found = list(McapReader(path))
        assert [message.sequence for message in found] == list(range(100))
        assert (found[0].topic, found[0].schema, found[0].data) == ("/t", "some", b"{}" * 50)

    @pytest.mark.parametrize("compression", ["zstd", "lz4"])
    def test_a_chunk_that_claims_more_than_is_allowed_is_not_unpacked(
        self, tmp_path: Path, compression: str
    ) -> None:
        pack: dict[str, Callable[[bytes], bytes]] = {
            "zstd": pytest.importorskip("zstandard").compress,
            "lz4": pytest.importorskip("lz4.frame").compress,
        }
        bomb = pack[compression](bytes(2**27))
        name = compression.encode()
        for claimed in (100, 2**63):
            body = b"".join(
                (
                    bytes(16), claimed.to_bytes(8, "little"), zlib.crc32(b"").to_bytes(4, "little"),
                    len(name).to_bytes(4, "little"), name, len(bomb).to_bytes(8, "little"), bomb,
                )
            )  # fmt: skip
            path = tmp_path / "bomb.mcap"
            head = b"\x06" + len(body).to_bytes(8, "little")
            path.write_bytes(b"\x89MCAP0\r\n" + head + body)
            found = McapReader(path)
            assert list(found) == []
            assert found.lost_bytes == 9 + len(body)


def test_the_helper_goes_on_for_ever(frames: list[DecodedFrame]) -> None:
    """What the tests above count on: numbers and times of all frames increase."""
    many = list(islice(endless(frames), 9))
    assert [frame.number for frame in many] == list(range(9))
    times = [frame.captured_ns for frame in many]
    assert np.unique(np.diff(times)).tolist() == [rig_frames.INTERVAL_NS]
