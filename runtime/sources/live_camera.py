"""Cameras that take pictures now: V4L2 devices, GStreamer pipelines, network streams.

`camera:0` and `camera:/dev/video2` name V4L2 devices; options follow behind commas, as in
`camera:0,width=1280,height=720,fps=30,fourcc=MJPG`. `gst:PIPELINE` is a GStreamer pipeline without
its sink, as CSI cameras of a Jetson need it:

    gst:nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 !
        nvvidconv ! video/x-raw,format=BGRx

`rtsp://…`, `http://…` and `udp://…` are cameras in the network.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import FrameError
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.pictures import Image
from dsin.runtime.sources.cameras import CapturedFrame, Clock
from dsin.runtime.sources.capture_device import (
    CameraSpec,
    CaptureDevice,
    open_device,
    parse_camera_spec,
)

LOG = logging.getLogger(__name__)
PATIENCE_S = 5.0
"""A camera that gives no picture for so long is reported; the search for it goes on."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 2.0
"""Pauses between attempts to open a lost camera again: each twice the one before, up to this."""
FIRST_ATTEMPTS = 3
"""Some cameras fail to give the very first picture after they were opened."""


BAD_PICTURES = 10
"""So many in a row that cannot be decoded, as MJPEG from a bad cable: the camera is opened anew."""


class _Picture(NamedTuple):
    """What OpenCV gave, not yet converted."""

    number: int
    taken_s: float
    pixels: npt.NDArray[Any]
    retrieve_ms: float


class LiveCamera:
    """A camera that takes pictures now; a thread of its own grabs them.

    The thread keeps the newest picture only. It takes every one out of OpenCV, since a picture that
    was grabbed and not retrieved is gone as soon as the next grab begins. Timestamps are
    time.monotonic's, set by the wall clock once, at the start: they never step. A camera that was
    unplugged is opened again when it is back; meanwhile `newest` returns None, and raises
    FrameError when that has lasted PATIENCE_S, twice as long, four times as long and so on. The
    caller may keep asking.

    `fps` asks for a rate (cameras take the nearest they have), `frames` ends after so many captured
    frames. Raises FrameError for a camera that is absent, gives no picture, or not the size that
    was asked for.
    """

    def __init__(
        self,
        spec: str,
        *,
        fps: float | None = None,
        frames: int | None = None,
        opened: Callable[[CameraSpec], CaptureDevice] = open_device,
        patience_s: float = PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if frames is not None and frames < 1:
            raise FrameError(f"{frames} frames: ask for at least one")
        self._spec = parse_camera_spec(spec, fps)
        self._open, self._frames, self._patience_s, self._now = opened, frames, patience_s, now
        self._wall_ns = now_ns() - round(1e9 * now())
        self.clock: Clock = "live"
        self.start_ns: int | None = None
        self.captured = 0
        self.skipped = 0
        device = opened(self._spec)
        try:
            self.size = self._first_size(device)
            rate = device.get(cv2.CAP_PROP_FPS)
        except BaseException:
            device.release()
            raise
        self.fps: float | None = rate if 0 < rate < 10_000 else None
        self._changed = threading.Condition()
        self._newest: _Picture | None = None
        self._returned = -1
        self._fault: BaseException | None = None
        self._seen_s = now()
        self._reported_after_s = patience_s
        self._stop = threading.Event()
        self._backoff_s = FIRST_BACKOFF_S
        self._bad = 0
        self._reason = ""
        """Why the camera is away, where that is known."""
        self._thread = threading.Thread(
            target=self._run, args=(device,), name="camera", daemon=True
        )
        self._thread.start()

    @property
    def ended(self) -> bool:
        """True once it was closed, or all `frames` were captured."""
        with self._changed:
            return self._stop.is_set() or (self._all_captured() and self._newest is None)

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        """As Camera has it; FrameError for a picture of another size or kind than the first."""
        with self._changed:
            self._changed.wait_for(self._anything_new, timeout_s)
            picture, self._newest = self._newest, None
            if picture is not None:
                self.skipped += picture.number - self._returned - 1
                self._returned = picture.number
                self._reported_after_s = self._patience_s
            elif self._fault is not None:
                raise self._fault
            else:
                self._check_patience()
                return None
        begun = self._now()
        image = to_rgb(picture.pixels, self._spec.name)
        self._check_size(image)
        capture_ms = picture.retrieve_ms + 1000 * (self._now() - begun)
        timestamp_ns = self._wall_ns + round(1e9 * picture.taken_s)
        return CapturedFrame(picture.number, timestamp_ns, image, picture.taken_s, capture_ms)

    def close(self) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        # A grab that hangs in the driver must not hang the program: the thread is a daemon.
        self._thread.join(timeout=2.0)

    def _anything_new(self) -> bool:
        waiting = self._newest is None and self._fault is None
        return not waiting or self._stop.is_set() or self._all_captured()

    def _all_captured(self) -> bool:
        return self._frames is not None and self.captured >= self._frames

    def _run(self, device: CaptureDevice) -> None:
        current: CaptureDevice | None = device
        try:
            while not self._stop.is_set() and not self._all_captured():
                if current is None:
                    current = self._reopened()
                elif not self._grab(current):
                    current.release()
                    current = None
                    reason = self._reason or f"{self._spec.name} gives no picture any more"
                    LOG.warning("%s: looking for it again", reason)
        except BaseException as fault:  # told by `newest`, in the thread of whoever asks
            with self._changed:
                self._fault = fault
                self._changed.notify_all()
        finally:
            if current is not None:
                current.release()

    def _reopened(self) -> CaptureDevice | None:
        """The lost camera once it is back; None if the camera was closed meanwhile."""
        while not self._stop.wait(self._backoff_s):
            self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S)
            try:
                device = self._open(self._spec)
            except FrameError as error:
                self._reason = str(error)
                continue
            LOG.warning("%s is back", self._spec.name)
            return device
        return None

    def _grab(self, device: CaptureDevice) -> bool:
        """Wait for the next picture, in place of the one before."""
        self._reason = ""
        try:
            if not device.grab():
                return False
        except FrameError as error:
            self._reason = str(error)
            return False
        taken_s = self._now()
        read, pixels = device.retrieve()
        if not read:
            self._bad += 1
            return self._bad < BAD_PICTURES
        self._bad = 0
        retrieve_ms = 1000 * (self._now() - taken_s)
        self._backoff_s = FIRST_BACKOFF_S
        with self._changed:
            self._newest = _Picture(self.captured, taken_s, pixels, retrieve_ms)
            self.captured += 1
            self._seen_s = taken_s
            self._changed.notify_all()
        return True

    def _check_patience(self) -> None:
        silent_s = self._now() - self._seen_s
        over = self._stop.is_set() or self._all_captured()
        if silent_s > self._reported_after_s and not over:
            while self._reported_after_s < silent_s:
                self._reported_after_s *= 2
            usual = "check that it is plugged in and not used by another program"
            raise FrameError(
                f"{self._spec.name} has given no picture for {silent_s:.0f} s: "
                f"{self._reason or usual}"
            )

    def _check_size(self, image: Image) -> None:
        if image.shape[:2] != self.size:
            (height, width), (first_height, first_width) = image.shape[:2], self.size
            raise FrameError(
                f"{self._spec.name} now gives {width}x{height} instead of "
                f"{first_width}x{first_height}: start again"
            )

    def _first_size(self, device: CaptureDevice) -> tuple[int, int]:
        height, width = self._first_picture(device).shape[:2]
        if (self._spec.width or width, self._spec.height or height) != (width, height):
            raise FrameError(
                f"{self._spec.name} gives {width}x{height}, not {self._spec.width or width}x"
                f"{self._spec.height or height}: ask for a size that it has"
            )
        return height, width

    def _first_picture(self, device: CaptureDevice) -> Image:
        for _ in range(FIRST_ATTEMPTS):
            if device.grab():
                read, picture = device.retrieve()
                if read:
                    return to_rgb(picture, self._spec.name)
        raise FrameError(f"{self._spec.name} can be opened, but gives no picture")


def to_rgb(picture: npt.NDArray[Any], camera: str) -> Image:
    """What OpenCV takes from a camera, grey, BGR or BGRA, as RGB, H×W×3.

    Raises FrameError for anything else, such as raw YUYV or more than 8 bits.
    """
    if picture.ndim == 2:
        picture = picture[:, :, None]
    channels = picture.shape[2] if picture.ndim == 3 else 0
    if picture.dtype != np.uint8 or channels not in (1, 3, 4) or picture.size == 0:
        shape = "x".join(map(str, picture.shape))
        raise FrameError(
            f"{camera} gives pictures of {shape} {picture.dtype}: 8-bit BGR, BGRA or grey is needed"
        )
    order = [0, 0, 0] if channels == 1 else [2, 1, 0]
    return np.ascontiguousarray(picture[:, :, order])
