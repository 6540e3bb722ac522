"""Live video that FFmpeg decodes, through PyAV (extra `video`), as a camera: network streams, and
whatever a child process writes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2

from dsin.runtime.errors import FrameError
from dsin.runtime.sources.capture_device import CameraSpec
from dsin.runtime.sources.video_file import INSTALL

OPEN_S, READ_S = 10.0, 5.0
"""A stream that does not answer for so long is given up, to be looked for again."""
OPTIONS = {"analyzeduration": "2000000"}
"""Two seconds of a stream must tell what it is. (Their pictures are not lost: the first one that
stands alone may be among them.)"""
MOST_SKIPPED = 250
"""So many pictures are waited for one that stands alone; some cameras never send any."""
STORED_SHARE, STORED_S = 0.5, 2.0
"""Pictures that come in less than that share of the time between them were stored on the way, as at
the start of a stream; for so long at most they are left out."""
UNTIMED = ("mpjpeg", "mjpeg")
"""Formats whose times FFmpeg makes up."""
RTSP_OPTIONS = {"rtsp_transport": "tcp"}
"""Over UDP, pictures with missing pieces come without any mark."""


class AvDevice:
    """The video track of a container that grows, as a CaptureDevice.

    Pictures that were damaged on the way are left out, and with `catch_up` those at the beginning
    that were stored before it was opened: they are as old as that, and their times would be too
    late. `grab` raises FrameError where the video
    ends or breaks off, `retrieve` for one that is interlaced. `closed` is called at the end, and
    `why` for the reason of an end, empty where there is none.
    """

    def __init__(
        self,
        container: Any,
        name: str,
        closed: Callable[[], None] = lambda: None,
        why: Callable[[], str] = lambda: "",
        *,
        catch_up: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not container.streams.video:
            raise FrameError(f"{name} has no video")
        self._container, self._name, self._closed = container, name, closed
        self._why = why
        self._stream = container.streams.video[0]
        # Threads for frames would keep as many of them back.
        self._stream.thread_type = "SLICE"
        self._frames = self._decoded()
        self._now = now
        self._catches_up = catch_up and container.format.name not in UNTIMED
        self._grabbed: Any = None

    def grab(self) -> bool:
        """Wait for the next picture. Raises FrameError where there is none."""
        import av

        try:
            self._grabbed = next(self._frames, None)
            if self._catches_up:
                self._catches_up = False
                self._grabbed = self._first_live(self._grabbed)
        except (av.error.FFmpegError, OSError) as error:
            raise FrameError(f"{self._name}: {self._why() or _reason(error)}") from error
        if self._grabbed is None:
            reason = self._why()
            raise FrameError(f"{self._name}: {reason}" if reason else f"{self._name} has ended")
        return True

    def retrieve(self) -> tuple[bool, Any]:
        """The grabbed picture as OpenCV has them, H×W×3 BGR, upright."""
        frame = self._grabbed
        if frame.interlaced_frame:
            raise FrameError(
                f"{self._name} is interlaced: set the camera to whole pictures (progressive)"
            )
        picture = frame.to_ndarray(format="bgr24")
        turns = round(frame.rotation / 90) % 4
        return True, picture if turns == 0 else _turned(picture, turns)

    def get(self, propId: int, /) -> float:
        """The nominal rate; 0 for what else OpenCV may be asked."""
        rate = self._stream.average_rate if propId == cv2.CAP_PROP_FPS else None
        return float(rate or 0)

    def release(self) -> None:
        self._container.close()
        self._closed()

    def _first_live(self, first: Any) -> Any:
        """The first picture that took its time to come; the last one where none does."""
        frame, begun_s = first, self._now()
        came_s = begun_s
        while frame is not None and came_s - begun_s < STORED_S:
            following = next(self._frames, None)
            if following is None:
                return frame
            before_s, came_s = came_s, self._now()
            if None in (frame.time, following.time):
                return following
            if came_s - before_s >= STORED_SHARE * (following.time - frame.time):
                return following
            frame = following
        return frame

    def _decoded(self) -> Iterator[Any]:
        import av

        whole, skipped = False, 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # as before the first whole picture
                continue
            for frame in frames:
                # What refers to pictures before the beginning shows grey shadows.
                whole = whole or bool(frame.key_frame) or skipped >= MOST_SKIPPED
                skipped += not whole
                if whole and not frame.is_corrupt:
                    yield frame


def open_network_stream(spec: CameraSpec) -> AvDevice:
    """Connect to `rtsp://…`, `http://…`, `udp://…`. Raises FrameError."""
    av = import_av(spec.name)
    options = OPTIONS | (RTSP_OPTIONS if spec.device.startswith("rtsp") else {})
    try:
        container = av.open(spec.device, options=options, timeout=(OPEN_S, READ_S))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise FrameError(
            f"{spec.name} cannot be opened: {_reason(error)}; check the address, and that the "
            "sender runs"
        ) from error
    try:
        return AvDevice(container, spec.name, catch_up=True)
    except FrameError:
        container.close()
        raise


def import_av(name: str) -> Any:
    """The package PyAV. Raises FrameError where it is missing."""
    try:
        import av
    except ImportError as error:
        raise FrameError(f"{name} needs PyAV: {INSTALL}") from error
    return av


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _turned(picture: Any, turns: int) -> Any:
    import numpy as np

    return np.rot90(picture, turns)
