"""Video files as recordings: frames in order, each with its own time in the container."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.files import is_file
from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import limited

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")
INSTALL = "pip install 'dsin[video]'"
"""What brings PyAV."""
WHOLE = 0.9
"""A video that has less than this share of what its own track promises was cut off."""
WITHOUT_TIMES = ("avi",)
"""Containers that know the order of decoding only."""
SECOND_NS = 10**9


class VideoFile:
    """One camera's recording in a video file, read through PyAV.

    Frames cost little when asked for in increasing order: the file is decoded once, and what is
    skipped is decoded but not converted. Going back starts from the file's beginning, which finds
    the right frame in every format; seeking does not. Opening reads the whole file once, without
    decoding more than its first picture, for the number of frames and their times. `frames` takes
    the first so many. Raises FrameError for a file that is not a video, is interlaced or is cut
    off, and where PyAV is missing.
    """

    def __init__(self, path: Path, frames: int | None = None) -> None:
        self._path = path
        self._decoder: Iterator[Any] | None = None
        self._next = 0
        self._index = _read_index(path)
        first = self._following(_decoded(path))
        # Before its first whole picture, what begins inside a group of pictures shows nothing.
        self._index = self._index.starting_with(first.pts)
        self._index = self._index.limited_to(limited(len(self._index.times_ns), frames))
        self._check_progressive(first)
        self.size = _picture(first).shape[:2]

    def __len__(self) -> int:
        return len(self._index.times_ns)

    def timestamp_ns(self, number: int) -> int:
        """Nanoseconds since the track's beginning; FrameError if there is no such frame."""
        return self._index.times_ns[self._checked(number)]

    def image(self, number: int) -> Image:
        """A frame's picture, H×W×3, upright; FrameError if the file is damaged there."""
        frame = self._frame(self._checked(number))
        self._check_progressive(frame)
        picture = _picture(frame)
        height, width = picture.shape[:2]
        if (height, width) != self.size:
            raise FrameError(f"{self._path} changes its size to {width}x{height} at frame {number}")
        return picture

    def _frame(self, number: int) -> Any:
        if self._decoder is None or number < self._next:
            self._decoder, self._next = _decoded(self._path), 0
        wanted = self._index.stamps[number] if self._index.stamps else None
        while True:
            frame = self._following(self._decoder)
            self._next += 1
            place = (number, self._next - 1) if wanted is None else (wanted, frame.pts)
            if place[1] is not None and place[1] < place[0]:
                continue
            if frame.is_corrupt or place[0] != place[1]:
                raise FrameError(f"{self._path}: frame {number} of {len(self)} is damaged")
            self._next = number + 1
            return frame

    def _following(self, decoder: Iterator[Any]) -> Any:
        import av

        try:
            frame = next(decoder, None)
        except av.error.FFmpegError:
            frame = None
        if frame is None:
            raise FrameError(
                f"{self._path} can be decoded up to frame {self._next} of {len(self)}: "
                "it is cut off or damaged there"
            )
        return frame

    def _check_progressive(self, frame: Any) -> None:
        if frame.interlaced_frame:
            raise FrameError(
                f"{self._path} is interlaced: make whole pictures of its fields first "
                "(ffmpeg -i OLD -vf bwdif NEW)"
            )

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise FrameError(f"there is no frame {number}: the video has {len(self)}")
        return number


class _Index(NamedTuple):
    """When each frame is shown, in nanoseconds since the track's beginning, and its stamp in the
    container. `stamps` is None where the container has no sane ones: then frames are counted, and
    come at the nominal rate."""

    times_ns: tuple[int, ...]
    stamps: tuple[int, ...] | None

    def starting_with(self, stamp: int | None) -> "_Index":
        if self.stamps is None or stamp is None:
            return self
        kept = [n for n, own in enumerate(self.stamps) if own >= stamp]
        return _Index(
            tuple(self.times_ns[n] for n in kept), tuple(self.stamps[n] for n in kept)
        )  # fmt: skip

    def limited_to(self, count: int) -> "_Index":
        stamps = None if self.stamps is None else self.stamps[:count]
        return _Index(self.times_ns[:count], stamps)


class _Packet(NamedTuple):
    """What is kept of a coded picture: when it is shown and decoded, in units of the track, and
    whether it is shown at all. Its bytes are not, for a video may be larger than the memory."""

    pts: int | None
    dts: int | None
    shown: bool


def _read_index(path: Path) -> _Index:
    """Read every packet of the video track, decode none."""
    with _opened(path) as (container, stream):
        packets = list(_packets(path, container, stream))
        # A container's edit list leaves packets out: they are decoded, but not shown.
        shown = [p for p in packets if p.shown]
        rate, base, start = stream.average_rate, stream.time_base, stream.start_time
        promised = _promised_frames(stream, rate)
        counted = container.format.name in WITHOUT_TIMES
    if not shown:
        raise FrameError(f"{path} holds no frames")
    if len(packets) < WHOLE * promised:
        raise FrameError(
            f"{path} announces {promised:.0f} frames but holds {len(packets)}: it was cut off; "
            "copy it with a tool that repairs videos (ffmpeg -i OLD -c copy NEW)"
        )
    _check_order(path, packets)
    # Packets lie in the order of decoding, which B-frames make another one than that of showing.
    stamps = sorted(p.pts for p in shown if p.pts is not None)
    sane = len(stamps) == len(shown) and all(a < b for a, b in pairwise(stamps))
    if sane and not counted:
        first = stamps[0] if start is None else start
        return _Index(tuple(_nanoseconds(s - first, base) for s in stamps), tuple(stamps))
    if not rate:
        raise FrameError(f"{path} gives neither the times of its frames nor their rate")
    return _Index(tuple(_nanoseconds(n, 1 / rate) for n in range(len(shown))), None)


def _promised_frames(stream: Any, rate: Fraction | None) -> float:
    """Frames of this very track by its header, 0 if it tells none. (What containers tell of the
    whole file, such as its duration, may be that of a longer sound.)"""
    if stream.frames:
        return float(stream.frames)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        lasts_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0
    return lasts_s * float(rate or 0)


def _check_order(path: Path, packets: list[_Packet]) -> None:
    decoding = [p.dts for p in packets if p.dts is not None]
    if any(later < earlier for earlier, later in pairwise(decoding)):
        raise FrameError(
            f"{path} was joined from parts whose times do not continue each other: make one of "
            "them (ffmpeg -fflags +genpts -i OLD -c copy NEW)"
        )


def _nanoseconds(units: int, base: Fraction) -> int:
    return round(units * base * SECOND_NS)


def _packets(path: Path, container: Any, stream: Any) -> Iterator[_Packet]:
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:  # the last one only flushes
                yield _Packet(packet.pts, packet.dts, not packet.is_discard)
    except av.error.FFmpegError as error:
        raise FrameError(f"{path} cannot be read to its end: {error.strerror}") from error


def _decoded(path: Path) -> Iterator[Any]:
    """All frames of the video track, in the order of showing."""
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video track. The file is opened here, not by FFmpeg: file names need
    not be text, and what a file says of other files or addresses is not followed."""
    try:
        import av
    except ImportError as error:
        raise FrameError(f"video files need PyAV: {INSTALL}") from error
    if not is_file(path, FrameError):
        raise FrameError(f"there is no video {path}")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise FrameError(f"cannot read {path}: {error.strerror}") from error
        try:
            container = stack.enter_context(av.open(file))
        except (av.error.FFmpegError, OSError) as error:
            raise FrameError(f"{path} is not a video that FFmpeg reads, or was cut off") from error
        yield container, _video_track(path, container)


def _video_track(path: Path, container: Any) -> Any:
    import av

    cover = av.stream.Disposition.attached_pic
    tracks = [s for s in container.streams.video if not s.disposition & cover]
    if not tracks:
        raise FrameError(f"{path} has no video track")
    if tracks[0].codec_context is None:
        raise FrameError(
            f"{path} has a format that this FFmpeg cannot decode: convert it "
            "(ffmpeg -i OLD -c:v libx264 -crf 12 NEW)"
        )
    return tracks[0]


def _picture(frame: Any) -> Image:
    """RGB, as the camera was held."""
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
