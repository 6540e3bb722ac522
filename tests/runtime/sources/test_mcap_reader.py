"""MCAP records that are damaged: they cost what is in them, and that is counted."""

import sys
from pathlib import Path

import pytest

from dsin.runtime.errors import RecordingError
from dsin.runtime.sources.mcap_reader import McapReader, RecordedMessage

SECOND_NS = 10**9


def record(opcode: int, *fields: bytes) -> bytes:
    body = b"".join(fields)
    return bytes([opcode]) + len(body).to_bytes(8, "little") + body


def integer(value: int, length: int) -> bytes:
    return value.to_bytes(length, "little")


def text(value: bytes) -> bytes:
    return integer(len(value), 4) + value


def schema(name: bytes = b"some") -> bytes:
    return record(3, integer(1, 2), text(name), text(b"jsonschema"), text(b"{}"))


def channel(number: int = 1, topic: bytes = b"/t") -> bytes:
    return record(4, integer(number, 2), integer(1, 2), text(topic), text(b"json"), text(b""))


def message(seconds: int, number: int = 1) -> bytes:
    times = integer(seconds * SECOND_NS, 8), integer(seconds * SECOND_NS + 5, 8)
    return record(5, integer(number, 2), integer(seconds, 4), *times, b"{}")


def chunk(inner: bytes, size: int | None = None, compression: bytes = b"") -> bytes:
    said = integer(len(inner) if size is None else size, 8), integer(0, 4)
    return record(6, bytes(16), *said, text(compression), integer(len(inner), 8), inner)


def read(path: Path, *records: bytes) -> tuple[McapReader, list[RecordedMessage]]:
    path.write_bytes(b"\x89MCAP0\r\n" + b"".join(records) + record(15, bytes(4)))
    reader = McapReader(path)
    return reader, list(reader)


def expected(seconds: int, schema: str = "some") -> RecordedMessage:
    log_ns = seconds * SECOND_NS
    return RecordedMessage("/t", schema, "json", log_ns, log_ns + 5, seconds, b"{}")


def test_messages_outside_of_chunks_and_within(tmp_path: Path) -> None:
    records = schema(), channel(), message(1), chunk(message(2) + message(3))
    reader, found = read(tmp_path / "a.mcap", *records)
    assert found == [expected(1), expected(2), expected(3)]
    assert (reader.complete, reader.lost_bytes, reader.lost_ns) == (True, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        record(5, integer(1, 2), integer(9, 4), integer(9, 8), integer(9, 4)),
        message(2, number=7),
        channel(2, topic=b"/\xff"),
        record(4, integer(2, 2), integer(1, 2), integer(1000, 4), b"/t"),
        chunk(message(2) + message(2)[:7]),
        chunk(message(2) + message(2)[:-1]),
        chunk(message(2), size=5),
        record(6, bytes(28), text(b""), integer(1000, 8), message(2)),
        chunk(b"\x28\xb5\x2f\xfd" + bytes(20), compression=b"zstd"),
        chunk(b"\x04\x22\x4d\x18" + bytes(20), compression=b"lz4"),
    ],
    ids=[
        "a message without a second time", "a channel that nothing announced", "no text",
        "a length beyond the record", "half a head in a chunk", "half a message in a chunk",
        "a chunk of another size", "a chunk longer than its record", "no zstd", "no lz4",
    ],
)  # fmt: skip
def test_a_damaged_record_costs_itself_and_is_counted(tmp_path: Path, bad: bytes) -> None:
    records = schema(), channel(), message(1), bad, message(4)
    reader, found = read(tmp_path / "a.mcap", *records)
    assert found == [expected(1), expected(4)]
    assert (reader.complete, reader.lost_bytes, reader.lost_ns) == (True, len(bad), 3 * SECOND_NS)


def test_a_damaged_schema_leaves_messages_without_its_name(tmp_path: Path) -> None:
    bad = schema(b"\xff")
    reader, found = read(tmp_path / "a.mcap", bad, channel(), message(1))
    assert found == [expected(1, schema="")]
    assert (reader.complete, reader.lost_ns) == (True, 0)
    assert reader.lost_bytes >= len(bad)


def test_chunks_that_are_packed_in_another_way_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="compressed with 'brotli': use zstd or lz4"):
        read(tmp_path / "a.mcap", chunk(message(1), compression=b"brotli"))


def test_behind_a_chunk_that_could_be_read_another_way_of_packing_is_damage(tmp_path: Path) -> None:
    whole, bad = chunk(schema() + channel() + message(1)), chunk(message(2), compression=b"zsud")
    reader, found = read(tmp_path / "a.mcap", whole, bad, message(4))
    assert found == [expected(1), expected(4)]
    assert (reader.complete, reader.lost_bytes) == (True, len(bad))


@pytest.mark.parametrize(("compression", "package"), [("zstd", "zstandard"), ("lz4", "lz4.frame")])
def test_without_the_package_that_unpacks_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecordingError, match=rf"needs {package}, .* pip install 'dsin\[serve\]'"):
        read(tmp_path / "a.mcap", chunk(b"words", compression=compression.encode()))


def test_a_file_that_goes_away_is_told(tmp_path: Path) -> None:
    reader, _ = read(tmp_path / "a.mcap", schema())
    (tmp_path / "a.mcap").unlink()
    with pytest.raises(RecordingError, match=r"cannot read .*a\.mcap: No such file"):
        list(reader)
