"""One MCAP file that grows: after each frame it can be read up to there.

The writer of the package `mcap` (extra `serve`) makes the records. Whole chunks go to the system
at once and unbuffered, so a killed process loses nothing that `flush` has returned for (a power
cut may: nothing is forced to the disk).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsin.runtime.errors import RecordingError
from dsin.runtime.outputs.recording_messages import MESSAGE_ENCODING, SCHEMAS, Outgoing

CHUNK_BYTES = 64 * 1024


class McapWriter:
    """A new file at `path`.

    After an OSError from any method the file must be given up with `abandon`. Raises
    RecordingError where the package is missing, OSError where the file exists or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        writer_type, compression = _writer_parts()
        self._stream = _Stream(path)
        # Packets and pictures are compressed already.
        self._writer: Any = writer_type(
            self._stream, chunk_size=CHUNK_BYTES, compression=compression.NONE
        )
        self._channels: dict[str, int] = {}
        try:
            self._writer.start(profile="", library="dsin")
            self._schemas = {
                name: self._writer.register_schema(name, encoding, data)
                for name, (encoding, data) in SCHEMAS.items()
            }
        except OSError:
            self.abandon()
            raise

    @property
    def bytes(self) -> int:
        """Written so far."""
        return self._stream.tell()

    def write(self, messages: Sequence[Outgoing], log_ns: int, publish_ns: int) -> None:
        """The messages of one frame, and everything to the system. Raises OSError."""
        for message in messages:
            self._writer.add_message(
                self._channel(message), log_time=log_ns, data=message.data,
                publish_time=publish_ns, sequence=message.sequence,
            )  # fmt: skip
        self._writer.flush()
        self._stream.mark_good()
        self.frames += 1

    def finish(self) -> None:
        """Write the summary and close. Raises OSError."""
        self._writer.finish()
        self._stream.close()

    def abandon(self) -> None:
        """Cut off what is not whole, end the file if there is room, and close it.

        A file without a frame is removed.
        """
        if self.frames == 0:
            self._stream.close()
            self.path.unlink(missing_ok=True)
        else:
            self._stream.cut(_end_without_summary())

    def _channel(self, message: Outgoing) -> int:
        if message.topic not in self._channels:
            self._channels[message.topic] = self._writer.register_channel(
                message.topic, MESSAGE_ENCODING[message.schema], self._schemas[message.schema]
            )
        return self._channels[message.topic]


def check_mcap() -> None:
    """Raise RecordingError where the package is missing."""
    _writer_parts()


def _writer_parts() -> tuple[Any, Any]:
    try:
        from mcap.writer import CompressionType, Writer
    except ModuleNotFoundError as error:
        raise RecordingError(
            f"a recording needs {error.name}, which is missing: pip install 'dsin[serve]'"
        ) from error
    return Writer, CompressionType


def _end_without_summary() -> bytes:
    """Records that end a file whose index could not be written."""
    from mcap.data_stream import RecordBuilder
    from mcap.records import DataEnd, Footer
    from mcap.writer import MCAP0_MAGIC

    builder: Any = RecordBuilder()
    DataEnd(data_section_crc=0).write(builder)
    Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(builder)
    records: bytes = builder.end()
    return records + MCAP0_MAGIC


class _Stream:
    """Unbuffered output that knows up to where the file is whole. The writer needs write, tell and
    flush."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._position = self._good = 0

    def write(self, data: bytes) -> int:
        """All of it, or OSError."""
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self._position += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def mark_good(self) -> None:
        self._good = self._position

    def cut(self, end: bytes) -> None:
        """Cut back to the last good byte, then `end` if it fits as a whole; close."""
        try:
            os.ftruncate(self._descriptor, self._good)
            os.lseek(self._descriptor, self._good, os.SEEK_SET)
            try:
                self.write(end)
            except OSError:
                os.ftruncate(self._descriptor, self._good)
        finally:
            self.close()

    def close(self) -> None:
        os.close(self._descriptor)
