"""Reads MCAP recordings, whole, cut off or damaged.

A recording that was cut off has no index, so it is read from its start, record by record; nothing
is believed before it is checked, and at most RECORD_BYTES are in memory. Any MCAP file can be
read, chunks compressed or not. Where records cannot be followed any further (a hole, a length that
was damaged) reading goes on with the next chunk that is whole.

The stream reader of the package `mcap` is not used: it unpacks whatever a chunk claims, takes a
record that was cut off for a shorter one, and cannot go on behind a damaged one.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dsin.runtime.errors import RecordingError
from dsin.runtime.sources.mcap_search import next_chunk

RECORD_BYTES = 256 * 2**20
"""The largest record, and the largest chunk once decompressed, that is read."""
MOST_TRIED = 4
"""What only looks like chunks is tried up to so many times the size of the file."""
_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 2, 3, 4, 5, 6, 15
_HEAD = struct.Struct("<BQ")
_FOOTER_BODY = struct.Struct("<QQI")


class RecordedMessage(NamedTuple):
    """A message as the file has it; times in nanoseconds. `schema` is the name of the schema."""

    topic: str
    schema: str
    encoding: str
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


class McapReader:
    """Messages of a file in the order in which they were written.

    Iterating can be repeated. After it, `complete` says whether the file ended as it should,
    `lost_bytes` how many bytes could not be used (those behind the cut, damaged chunks, holes), and
    `lost_ns` for how long there are no messages because of those within the file. Opening raises
    RecordingError for a file that is not MCAP, iterating for one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complete = False
        self.lost_bytes = self.lost_ns = 0
        try:
            with path.open("rb") as file:
                start = file.read(len(_MAGIC))
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}") from error
        if start != _MAGIC:
            raise RecordingError(f"{path} is not a recording: it does not start as MCAP files do")

    def __iter__(self) -> Iterator[RecordedMessage]:
        self.complete, self.lost_bytes, self.lost_ns = False, 0, 0
        try:
            with self.path.open("rb") as file:
                yield from self._messages(file)
        except OSError as error:
            raise RecordingError(f"cannot read {self.path}: {error.strerror}") from error

    def _messages(self, file: BinaryIO) -> Iterator[RecordedMessage]:
        size = file.seek(0, 2)
        tables = _Tables()
        summary = _read_summary(file, size, tables)
        position = behind = len(_MAGIC)  # `behind`: from there on no chunk was read yet
        hole: int | None = None  # where what could not be read begins
        last_ns: int | None = None
        left = MOST_TRIED * size
        while True:
            file.seek(position)
            record = _next_record(file, size - position)
            if record is None:
                found = next_chunk(file, behind, size) if left > 0 else None
                if found is None:
                    hole = position if hole is None else hole
                    self.complete = summary is not None and summary > hole
                    self.lost_bytes += (summary if summary and self.complete else size) - hole
                    return
                if hole is None:
                    hole = position if position < found else behind
                position, behind = found, found + 1
                continue
            opcode, body = record
            if opcode == _DATA_END:
                self.lost_bytes += 0 if hole is None else position - hole
                self.complete = True
                return
            end = position + _HEAD.size + len(body)
            try:
                messages = tables.messages(opcode, body)
            except DamagedError:
                hole = position if hole is None else hole
                behind = position + _HEAD.size  # its length may be wrong
                left -= len(body)
            else:
                if opcode == _CHUNK:
                    behind = position + _HEAD.size + _chunk_bytes(_Fields(body))
                if messages and hole is not None:
                    self.lost_bytes += position - hole
                    self.lost_ns += max(0, messages[0].log_ns - (last_ns or messages[0].log_ns))
                    hole = None
                last_ns = max((message.log_ns for message in messages), default=last_ns)
                yield from messages
            position = end


class DamagedError(Exception):
    """Bytes that are not such a record."""


class _CompressionError(RecordingError):
    """A chunk is compressed in a way that is not known here."""


class _Tables:
    """Schemas and channels that were met so far."""

    def __init__(self) -> None:
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str, str]] = {}
        self._unpacks = False

    def messages(self, opcode: int, body: memoryview) -> list[RecordedMessage]:
        """The messages of a record; all of a chunk's or, if it is damaged, none."""
        if opcode != _CHUNK:
            return self._record(opcode, body)
        inner, position = self._unpacked(body), 0
        found = []
        while position < len(inner):
            if len(inner) - position < _HEAD.size:
                raise DamagedError
            opcode, length = _HEAD.unpack_from(inner, position)
            position += _HEAD.size
            if length > len(inner) - position:
                raise DamagedError
            found += self._record(opcode, inner[position : position + length])
            position += length
        return found

    def _unpacked(self, body: memoryview) -> memoryview:
        """A chunk's records. If another one could be unpacked, damage is what gives this one a
        compression that is not known."""
        try:
            records = _chunk_records(_Fields(body))
        except _CompressionError as error:
            if self._unpacks:
                raise DamagedError from error
            raise
        self._unpacks = True
        return records

    def _record(self, opcode: int, body: memoryview) -> list[RecordedMessage]:
        fields = _Fields(body)
        if opcode == _SCHEMA:
            number, name = fields.integer(2), fields.text()
            self._schemas[number] = name
        elif opcode == _CHANNEL:
            number, schema = fields.integer(2), fields.integer(2)
            topic, encoding = fields.text(), fields.text()
            self._channels[number] = topic, self._schemas.get(schema, ""), encoding
        elif opcode == _MESSAGE:
            number, sequence = fields.integer(2), fields.integer(4)
            log_ns, publish_ns = fields.integer(8), fields.integer(8)
            if number not in self._channels:
                raise DamagedError
            return [
                RecordedMessage(
                    *self._channels[number], log_ns, publish_ns, sequence, bytes(fields.rest())
                )
            ]
        return []


class _Fields:
    """Takes fields off the front of a record."""

    def __init__(self, body: memoryview) -> None:
        self._body = body

    def take(self, length: int) -> memoryview:
        if length > len(self._body):
            raise DamagedError
        taken, self._body = self._body[:length], self._body[length:]
        return taken

    def integer(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def text(self) -> str:
        try:
            return str(self.take(self.integer(4)), "utf-8")
        except UnicodeDecodeError as error:
            raise DamagedError from error

    def rest(self) -> memoryview:
        return self._body


def _read_summary(file: BinaryIO, size: int, tables: _Tables) -> int | None:
    """Take schemas and channels from the end of a file that has them there too: the chunk that
    tells them first may be damaged, and with it all that follows would be lost. Returns where they
    begin, None where there is no such end."""
    end = size - len(_MAGIC) - _HEAD.size - _FOOTER_BODY.size
    file.seek(max(end, 0))
    footer = _next_record(file, size - end)
    if end < 0 or footer is None or footer[0] != _FOOTER or len(footer[1]) < _FOOTER_BODY.size:
        return None
    position, _, _ = _FOOTER_BODY.unpack_from(footer[1])
    start: int = position
    if not len(_MAGIC) <= position < end:
        return None
    file.seek(position)
    while position < end and (record := _next_record(file, end - position)) is not None:
        opcode, body = record
        if opcode in (_SCHEMA, _CHANNEL):
            with suppress(DamagedError):
                tables.messages(opcode, body)
        position += _HEAD.size + len(body)
    return start


def _next_record(file: BinaryIO, left: int) -> tuple[int, memoryview] | None:
    """Opcode and body; None where the file ends first, claims what it cannot hold, or has zeros."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    opcode, length = _HEAD.unpack(head)
    if opcode == 0 or length > min(left - _HEAD.size, RECORD_BYTES):
        return None
    body = file.read(length)
    return (opcode, memoryview(body)) if len(body) == length else None


def _chunk_bytes(fields: _Fields) -> int:
    """Length of a chunk by what it says within."""
    fields.take(28)  # times, size and checksum
    name = len(fields.take(fields.integer(4)))
    return 28 + 4 + name + 8 + fields.integer(8)


def _chunk_records(fields: _Fields) -> memoryview:
    """The records in a chunk, decompressed, their checksum compared."""
    fields.take(16)  # times
    size, checksum = fields.integer(8), fields.integer(4)
    compression = fields.text()
    stored = fields.take(fields.integer(8))
    if size > RECORD_BYTES:
        raise DamagedError
    records = _decompressed(compression, stored, size)
    if len(records) != size or (checksum and zlib.crc32(records) != checksum):
        raise DamagedError
    return records


def _decompressed(compression: str, data: memoryview, size: int) -> memoryview:
    """At most size + 1 bytes, whatever the data claims."""
    if not compression:
        return data
    if compression not in ("zstd", "lz4"):
        raise _CompressionError(f"chunks are compressed with {compression[:20]!r}: use zstd or lz4")
    try:
        return memoryview(
            unpack_zstd(data, size) if compression == "zstd" else unpack_lz4(data, size)
        )
    except ModuleNotFoundError as error:
        raise RecordingError(
            f"a compressed recording needs {error.name}, which is missing: "
            "pip install 'dsin[serve]'"
        ) from error


def unpack_zstd(data: bytes | memoryview, size: int) -> bytes:
    """At most size + 1 bytes. Raises DamagedError."""
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(data).read(size + 1)
    except zstandard.ZstdError as error:
        raise DamagedError from error


def unpack_lz4(data: bytes | memoryview, size: int) -> bytes:
    """At most size + 1 bytes of one frame. Raises DamagedError."""
    import lz4.frame

    try:
        unpacked: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    except RuntimeError as error:
        raise DamagedError from error
    return unpacked
