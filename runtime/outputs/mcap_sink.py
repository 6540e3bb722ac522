"""Decoded frames as an MCAP recording, with all that is needed to decode them again.

What is in it is listed in dsin.runtime.outputs.recording_messages; `McapReader` reads it, cut off
or not, and so do the tools of mcap.dev.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from dsin.runtime.errors import RecordingError
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.mcap_writer import McapWriter, check_mcap
from dsin.runtime.outputs.output_names import unused_path
from dsin.runtime.outputs.recording_messages import (
    Outgoing,
    packet_message,
    result_message,
    side_message,
    status_message,
)

PART_BYTES = 2 * 2**30
PART_FRAMES = 2000
"""A part has about so much, so that its index, which the writer keeps in memory, stays small:
2 MB for 2000 frames."""
RESUME_S = 5.0
"""After a failure, the time before another part is begun."""
LEAST_FREE_BYTES = 64 * 2**20
"""And the room that there must be for it."""


class McapSink:
    """Records frames at `path`.

    Side images are stored without loss, each once however many frames use it, and results as JPEG,
    since `dsin replay` makes them again. An existing file is never touched: then, and after
    PART_BYTES or PART_FRAMES, recording goes on in PATH.2.mcap and so on. Each part can be read
    alone.

    Every frame is a whole number of chunks (of 64 KiB, or of one message if that is larger) which
    are with the system when `take` returns: a kill loses at most the frame that is being written.
    On a full disk the part is cut back to its last whole frame and ended; frames are refused with
    a RecordingError until RESUME_S have passed and LEAST_FREE_BYTES are free, then the next part
    begins. Raises RecordingError for a path that cannot be written, or without the package mcap.
    """

    name = "mcap"

    def __init__(
        self,
        path: Path,
        *,
        part_bytes: int = PART_BYTES,
        part_frames: int = PART_FRAMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_mcap()
        self._base = path
        self._limits = part_bytes, part_frames
        self._clock = clock
        self._last_side: dict[str, tuple[int, int]] = {}
        self._resume_at_s = 0.0
        self._failure = ""
        self.paths: list[Path] = []
        self._part: McapWriter | None = self._begin()

    def take(self, frame: DecodedFrame) -> None:
        """Record a frame. Raises RecordingError."""
        try:
            if self._part is None:
                self._part = self._resume()
            captured_ns, decoded_ns = _stamp(frame.captured_ns), _stamp(frame.decoded_ns)
            self._part.write(self._messages(frame, captured_ns), decoded_ns, captured_ns)
            if frame.side is not None:
                self._last_side[frame.rig] = frame.side.number, frame.side.timestamp_ns
            if self._part.bytes >= self._limits[0] or self._part.frames >= self._limits[1]:
                self._finish()
                self._part = self._begin()
        except OSError as error:
            raise self._stopped(error) from error

    def close(self) -> None:
        """Write the index. Raises RecordingError; the frames are readable all the same."""
        try:
            self._finish()
        except OSError as error:
            raise self._stopped(error) from error

    def _messages(self, frame: DecodedFrame, captured_ns: int) -> list[Outgoing]:
        messages = []
        side = frame.side
        if side is not None and self._last_side.get(frame.rig) != (side.number, side.timestamp_ns):
            messages.append(side_message(frame.rig, side))
        return [
            *messages,
            packet_message(frame),
            status_message(frame),
            result_message(frame, captured_ns),
        ]

    def _begin(self) -> McapWriter:
        self._last_side.clear()
        path = unused_path(self._base)
        try:
            part = McapWriter(path)
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror}") from error
        if path not in self.paths:  # as after a part that was removed, since it had no frame
            self.paths.append(path)
        return part

    def _finish(self) -> None:
        if self._part is None:
            return
        if self._part.frames == 0:
            self._part.abandon()
        else:
            self._part.finish()
        self._part = None

    def _resume(self) -> McapWriter:
        if self._clock() < self._resume_at_s:
            raise RecordingError(self._failure)
        self._resume_at_s = self._clock() + RESUME_S
        disk = os.statvfs(self._base.absolute().parent)
        if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
            self._failure = f"recording to {self._base} has stopped: the disk is full; make room"
            raise RecordingError(self._failure)
        return self._begin()

    def _stopped(self, error: OSError) -> RecordingError:
        """Give the part up, so that what it has can be read."""
        part, self._part = self._part, None
        self._resume_at_s = self._clock() + RESUME_S
        self._failure = f"recording to {self._base} has stopped: {error.strerror}; make room"
        if part is not None:
            part.abandon()
        return RecordingError(self._failure)


def _stamp(nanoseconds: int) -> int:
    """As the file can hold it: 64 bits without a sign."""
    return min(max(nanoseconds, 0), 2**64 - 1)
