"""A recording that grows: whatever ends it, the frames before are there, and it ends as a file."""

import errno
import os
import struct
from pathlib import Path

import pytest

from dsin.runtime.outputs.mcap_writer import McapWriter
from dsin.runtime.outputs.recording_messages import PACKET_SCHEMA, Outgoing
from dsin.runtime.sources.mcap_reader import McapReader

END = (
    struct.pack("<BQI", 0x0F, 4, 0)  # the data ends here; there is no checksum of it
    + struct.pack("<BQQQI", 0x02, 20, 0, 0, 0)  # nor a summary
    + b"\x89MCAP0\r\n"
)


def message(number: int, size: int = 1000) -> Outgoing:
    return Outgoing("/car/x/packet", PACKET_SCHEMA, number, bytes(size))


def half_written(path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> bytes:
    """What a file has that holds a frame, and for the next one found `room` bytes only; it is
    given up, and `room` bytes are there again."""
    writer = McapWriter(path)
    writer.write([message(0)], 5, 6)
    whole = path.read_bytes()
    assert (writer.frames, writer.bytes) == (1, len(whole))
    write, left = os.write, room

    def fill(descriptor: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, bytes(data)[:left])
        left -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space left"):
            writer.write([message(1)], 7, 8)
        assert len(path.read_bytes()) == len(whole) + room
        left = room
        writer.abandon()
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.finish()
    return whole


def test_what_is_not_whole_is_cut_off_and_the_file_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mcap"
    whole = half_written(path, monkeypatch, room=500)
    assert path.read_bytes() == whole + END
    reader = McapReader(path)
    assert [(m.sequence, m.log_ns, m.publish_ns) for m in reader] == [(0, 5, 6)]


def test_an_end_for_which_there_is_no_room_is_left_out_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mcap"
    whole = half_written(path, monkeypatch, room=len(END) - 1)
    assert path.read_bytes() == whole
    assert [m.sequence for m in McapReader(path)] == [0]


def test_a_file_without_a_frame_is_removed(tmp_path: Path) -> None:
    writer = McapWriter(tmp_path / "a.mcap")
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_finished_has_a_summary(tmp_path: Path) -> None:
    writer = McapWriter(tmp_path / "a.mcap")
    for number in range(3):
        writer.write([message(number)], 10 * number, 11 * number)
    before = writer.bytes
    writer.finish()
    data = (tmp_path / "a.mcap").read_bytes()
    assert len(data) > before + len(END)
    assert data.endswith(END[-8:])
    reader = McapReader(tmp_path / "a.mcap")
    assert [(m.topic, m.log_ns, m.publish_ns) for m in reader] == [
        ("/car/x/packet", 10 * number, 11 * number) for number in range(3)
    ]
    assert reader.complete
    with pytest.raises(FileExistsError):
        McapWriter(tmp_path / "a.mcap")


def test_a_file_that_cannot_be_begun_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        McapWriter(tmp_path / "a.mcap")
    assert not list(tmp_path.iterdir())
