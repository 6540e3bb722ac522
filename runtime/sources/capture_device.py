"""How cameras are named on the command line, and opened through OpenCV."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2

from dsin.runtime.errors import FrameError
from dsin.runtime.files import exists
from dsin.runtime.quiet_opencv import quiet_opencv
from dsin.runtime.sources.picture_folders import natural_order

V4L2, GSTREAMER = "camera:", "gst:"


class CameraSpec(NamedTuple):
    """A camera and what is asked of it; None leaves it to the camera."""

    name: str
    """As in messages."""
    device: str
    """A path as /dev/video0, or a GStreamer pipeline."""
    gstreamer: bool = False
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    fourcc: str | None = None
    """The format on the wire, as MJPG or YUYV; many USB cameras have high rates in MJPG only."""


class CaptureDevice(Protocol):
    """What is used of cv2.VideoCapture."""

    def grab(self) -> bool:
        """Wait for the next picture; False if there is none."""

    def retrieve(self) -> tuple[bool, Any]:
        """The grabbed picture, decoded: whether there is one, and H×W×C."""

    def get(self, propId: int, /) -> float: ...

    def release(self) -> None: ...


def is_live(spec: str) -> bool:
    """Whether a source's name is that of a live camera."""
    return spec.startswith((V4L2, GSTREAMER))


def parse_camera_spec(spec: str, fps: float | None = None) -> CameraSpec:
    """Parse `camera:DEVICE[,OPTION=VALUE…]` or `gst:PIPELINE`; FrameError for anything else.

    `fps` is as if it was among the options.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise FrameError(f"{fps} frames per second: ask for more than 0")
    if spec.startswith(GSTREAMER):
        return _parse_pipeline(spec[len(GSTREAMER) :].strip(), fps)
    if not spec.startswith(V4L2):
        raise FrameError(
            f"{spec} is not a camera: write camera:0, camera:/dev/video0 or gst:PIPELINE"
        )
    device, *options = spec[len(V4L2) :].split(",")
    if not re.fullmatch(r"[0-9]{1,3}|/.+", device):
        raise FrameError(f"{spec}: name the camera by number or path, as camera:0 or /dev/video0")
    path = device if device.startswith("/") else f"/dev/video{int(device)}"
    parsed = CameraSpec(f"{V4L2}{device}", path, fps=fps)
    for option in options:
        parsed = _with_option(parsed, option, spec)
    return parsed


def open_device(spec: CameraSpec) -> CaptureDevice:
    """Open a camera. Raises FrameError if it is absent, in use, or OpenCV cannot open its kind."""
    if spec.gstreamer:
        return _open_pipeline(spec)
    if not exists(Path(spec.device), FrameError):
        others = [*map(str, sorted(Path("/dev").glob("video[0-9]*"), key=natural_order))]
        there = f"there are {', '.join(others)}" if others else "this machine has no camera"
        raise FrameError(f"there is no {spec.device}: {there}")
    with quiet_opencv():
        capture = cv2.VideoCapture(spec.device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise FrameError(
            f"{spec.device} cannot be opened: it is not a camera, is used by another program, or "
            "belongs to a group that you are not in (usually video)"
        )
    if spec.fourcc is not None:  # first, since sizes and rates depend on it
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*spec.fourcc))
    for option, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, spec.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, spec.height),
        (cv2.CAP_PROP_FPS, spec.fps),
    ):
        if value is not None:
            capture.set(option, value)
    return capture


def has_gstreamer(build_information: str) -> bool:
    """Whether OpenCV was built with GStreamer, according to cv2.getBuildInformation."""
    return re.search(r"GStreamer:\s+YES", build_information) is not None


def _open_pipeline(spec: CameraSpec) -> CaptureDevice:
    if not has_gstreamer(cv2.getBuildInformation()):
        raise FrameError(
            f"OpenCV {cv2.__version__} was built without GStreamer, as all its wheels are: gst: "
            "needs one with it, such as JetPack's or Debian's python3-opencv"
        )
    with quiet_opencv():
        capture = cv2.VideoCapture(spec.device, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise FrameError(
            f"GStreamer cannot start the pipeline {spec.device[:80]!r}: try it in gst-launch-1.0 "
            "with fakesink in place of appsink"
        )
    return capture


def _parse_pipeline(pipeline: str, fps: float | None) -> CameraSpec:
    if "appsink" not in pipeline.rsplit("!", 1)[-1]:
        raise FrameError(
            f"gst:{pipeline[:80]}: end the pipeline with `! videoconvert ! video/x-raw,format=BGR "
            "! appsink drop=true max-buffers=1`"
        )
    if fps is not None:
        raise FrameError("gst: cameras have their rate in the pipeline, as framerate=30/1")
    return CameraSpec("the GStreamer camera", pipeline, gstreamer=True)


def _with_option(spec: CameraSpec, option: str, whole: str) -> CameraSpec:
    name, _, text = option.partition("=")
    if name in ("width", "height") and re.fullmatch(r"[0-9]{1,5}", text) and int(text) > 0:
        pixels = int(text)
        return spec._replace(width=pixels) if name == "width" else spec._replace(height=pixels)
    if name == "fps" and re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) and float(text) > 0:
        if spec.fps not in (None, float(text)):
            raise FrameError(f"{whole}: asks for {text} frames per second, not {spec.fps}")
        return spec._replace(fps=float(text))
    if name == "fourcc" and re.fullmatch(r"[A-Z0-9]{4}", text):
        return spec._replace(fourcc=text)
    raise FrameError(
        f"{whole}: {option!r} is not an option; there are width=, height= (pixels), fps=, "
        "and fourcc= (as MJPG)"
    )
