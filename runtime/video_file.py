"""Video files as recordings: frames in order, with the times that the container tells."""

import contextlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.frames import Image, limited

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")
SILENT = 0
"""The lowest of OpenCV's log levels."""
WHOLE = 0.9
"""A video that lasts less than this share of what its header promises was cut off."""


class VideoFile:
    """One camera's recording in a video file, read through OpenCV's FFmpeg.

    Frames cost little when asked for in increasing order: the file is decoded once, and what is
    skipped is decoded but not converted. Going back starts from the file's beginning, which finds
    the right frame in every format; seeking does not. Opening reads the whole file once, without
    decoding it, for the number of frames and their times. `frames` takes the first so many. Raises
    FrameError for a file that is no video, or is cut off.
    """

    def __init__(self, path: Path, frames: int | None = None) -> None:
        self._path = path
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        times = _frame_times(path)
        self._timestamps_ns = times[: limited(len(times), frames, path)]
        height, width = self._decoded(0).shape[:2]
        self.size = height, width

    def __len__(self) -> int:
        return len(self._timestamps_ns)

    def timestamp_ns(self, number: int) -> int:
        """Nanoseconds since the first frame; FrameError if there is no such frame."""
        return self._timestamps_ns[self._checked(number)]

    def image(self, number: int) -> Image:
        """A frame's picture, H×W×3; FrameError if the file is damaged there."""
        picture = self._decoded(self._checked(number))
        height, width = picture.shape[:2]
        if (height, width) != self.size:
            raise FrameError(f"{self._path} changes its size to {width}x{height} at frame {number}")
        return np.ascontiguousarray(picture[:, :, ::-1])

    def _decoded(self, number: int) -> Image:
        """The frame as OpenCV has it, BGR."""
        if self._capture is None or number < self._next:
            self._capture, self._next = _open(self._path), 0
        while self._next < number:
            self._advance(self._capture)
        self._advance(self._capture)
        read, picture = self._capture.retrieve()
        if not read or picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise FrameError(f"{self._path}: frame {number} cannot be decoded as 8-bit colour")
        return np.asarray(picture, np.uint8)

    def _advance(self, capture: cv2.VideoCapture) -> None:
        if not capture.grab():
            raise FrameError(
                f"{self._path} can be decoded up to frame {self._next} of {len(self)}: "
                "it is cut off or damaged there"
            )
        self._next += 1

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise FrameError(f"there is no frame {number}: the video has {len(self)}")
        return number


def _frame_times(path: Path) -> tuple[int, ...]:
    """When each frame is shown, in nanoseconds.

    Without sane times in the container (some have none, or the same twice; OpenCV before 4.11 does
    not tell them), frames come at its nominal rate.
    """
    with _opened(path, [cv2.CAP_PROP_FORMAT, -1]) as packets:  # -1: what is coded, undecoded
        rate = packets.get(cv2.CAP_PROP_FPS)
        promised = packets.get(cv2.CAP_PROP_FRAME_COUNT)
        times_ms: list[float] = []
        while packets.grab():
            times_ms.append(packets.get(cv2.CAP_PROP_POS_MSEC))
    # Before 0 lies what a cut without recoding left over: decoders do not show it. Packets lie in
    # the order of decoding, which B-frames make another one than that of showing.
    shown = sorted(round(1e6 * time) for time in times_ms if -0.5 < time < 1e12)
    sane = all(before < after for before, after in pairwise(shown))
    if len(shown) < 2 or not sane:
        if not 0.01 <= rate <= 10_000:
            raise FrameError(f"{path} tells neither its frames' times nor their rate")
        shown = [round(1e9 * number / rate) for number in range(len(times_ms))]
    if not shown:
        raise FrameError(f"{path} holds no frames")
    lasts_s = 1e-9 * (shown[-1] - shown[0]) * len(shown) / max(1, len(shown) - 1)
    if rate > 0 and len(shown) < promised and lasts_s < WHOLE * promised / rate:
        raise FrameError(
            f"{path} promises {promised:.0f} frames and holds {len(shown)}: it was cut off; "
            "copy it with a tool that repairs videos (ffmpeg -i OLD -c copy NEW)"
        )
    return tuple(shown)


@contextlib.contextmanager
def _opened(path: Path, parameters: list[int]) -> Iterator[cv2.VideoCapture]:
    capture = _open(path, parameters)
    try:
        yield capture
    finally:
        capture.release()


def _open(path: Path, parameters: list[int] | None = None) -> cv2.VideoCapture:
    if not path.is_file():
        raise FrameError(f"there is no video {path}")
    # FFmpeg would tell of each damaged byte on stderr; what is said here is enough.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, parameters or [])
    if not capture.isOpened():
        raise FrameError(f"{path} is not a video that OpenCV's FFmpeg reads, or was cut off")
    return capture


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV without its warnings, which repeat on stderr what errors here say in one line."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 has it, and 4
    level = logging.getLogLevel()
    logging.setLogLevel(SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
