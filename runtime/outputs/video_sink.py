"""Decoded frames as a video file for each rig."""

import shutil
from pathlib import Path
from typing import NamedTuple

import cv2

from dsin.runtime.errors import DsinError
from dsin.runtime.files import is_folder
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.output_names import rig_name_in_paths, unused_path
from dsin.runtime.pictures import Image, pad

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
"""FourCC that OpenCV's wheels encode without a licence, for each container."""
LEAST_FREE_BYTES = 32 * 2**20
"""OpenCV does not report a full disk: below this the file is closed while that still succeeds."""


class _Video(NamedTuple):
    writer: cv2.VideoWriter
    height: int
    width: int


class VideoSink:
    """Writes STEM-RIG.SUFFIX beside `path`, with all result pictures at `fps` frames a second.

    Every frame that arrives is one of the video, whenever it was captured. Sides are padded to
    even numbers, as the codecs need (by repeating the last row and column). Existing files stay;
    a number is put before the suffix. A rig that changes its frame size gets another file.

    After a kill, .avi can be played up to the last megabyte or so and .mkv up to the last
    half megabyte written; .mp4 cannot, since its index comes last. Raises DsinError for
    another suffix, or where OpenCV has no such encoder.
    """

    name = "video"

    def __init__(self, path: Path, fps: float = 10.0) -> None:
        if path.suffix not in CODECS:
            raise DsinError(f"cannot write {path}: videos are {', '.join(CODECS)}")
        if not 0 < fps <= 1000:
            raise DsinError(f"a video of {fps:g} frames a second: ask for 1000 at most")
        if not is_folder(path.absolute().parent):
            raise DsinError(f"cannot write {path}: its folder does not exist")
        self.paths: list[Path] = []
        self._path = path
        self._fps = fps
        self._videos: dict[str, _Video] = {}

    def take(self, frame: DecodedFrame) -> None:
        """Add a frame. Raises DsinError if the disk is nearly full; the videos so far are whole."""
        self._check_space()
        picture = pad(frame.decoded.image, (2, 2))
        video = self._videos.get(frame.rig)
        if video is not None and (video.height, video.width) != picture.shape[:2]:
            self._videos.pop(frame.rig).writer.release()
            video = None
        if video is None:
            video = self._videos[frame.rig] = self._open(frame.rig, picture)
        video.writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Write the indexes."""
        for video in self._videos.values():
            video.writer.release()
        self._videos.clear()

    def _open(self, rig: str, picture: Image) -> _Video:
        name = f"{self._path.stem}-{rig_name_in_paths(rig)}{self._path.suffix}"
        path = unused_path(self._path.with_name(name))
        height, width = picture.shape[:2]
        codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, self._fps, (width, height))
        if not writer.isOpened():
            raise DsinError(f"cannot write {path}: this OpenCV cannot encode it; use .avi")
        self.paths.append(path)
        return _Video(writer, height, width)

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._path.absolute().parent).free
        if free < LEAST_FREE_BYTES:
            self.close()
            raise DsinError(
                f"video stopped: less than {LEAST_FREE_BYTES // 2**20} MiB are free "
                f"beside {self._path}"
            )
