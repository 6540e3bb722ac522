"""How cameras are named on the command line, and opened: by OpenCV, GStreamer or FFmpeg."""

import math
import re
import shlex
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import cv2

from dsin.runtime.errors import FrameError
from dsin.runtime.files import exists
from dsin.runtime.quiet_opencv import quiet_opencv
from dsin.runtime.sources.picture_folders import natural_order

V4L2, GSTREAMER = "camera:", "gst:"
NETWORK = ("rtsp://", "rtsps://", "http://", "https://", "udp://")


class CameraSpec(NamedTuple):
    """A camera and what is asked of it; None leaves it to the camera."""

    name: str
    """As in messages."""
    device: str
    """A path as /dev/video0, a GStreamer pipeline or an address."""
    kind: Literal["v4l2", "gstreamer", "network"] = "v4l2"
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
    return spec.startswith((V4L2, GSTREAMER, *NETWORK))


def shown_name(spec: str) -> str:
    """A source's name without a password, as `rtsp://user:password@host/` has one."""
    return re.sub(r"(?<=://)[^/@]*@", "", spec) if spec.startswith(NETWORK) else spec


def parse_camera_spec(spec: str, fps: float | None = None) -> CameraSpec:
    """Parse `camera:DEVICE[,OPTION=VALUE…]`, `gst:PIPELINE` or an address of NETWORK; FrameError
    for anything else.

    `fps` is as if it was among the options.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise FrameError(f"{fps} frames per second: ask for more than 0")
    if spec.startswith(GSTREAMER):
        return _parse_pipeline(spec[len(GSTREAMER) :].strip(), fps)
    if spec.startswith(NETWORK):
        if fps is not None:
            raise FrameError(f"{shown_name(spec)} has a rate of its own: leave --fps out")
        return CameraSpec(shown_name(spec), spec, "network")
    if not spec.startswith(V4L2):
        raise FrameError(
            f"{spec} is not a camera: write camera:0, camera:/dev/video0, gst:PIPELINE or "
            "rtsp://HOST/PATH"
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
    """Open a camera. Raises FrameError if it is absent or in use, or what it needs is missing."""
    if spec.kind == "gstreamer":
        from dsin.runtime.sources.gst_device import open_pipeline

        return open_pipeline(spec)
    if spec.kind == "network":
        from dsin.runtime.sources.av_device import open_network_stream

        return open_network_stream(spec)
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
    if spec.fourcc is not None:
        _check_format(capture, spec)
    return capture


def _check_format(capture: CaptureDevice, spec: CameraSpec) -> None:
    """Raise FrameError for a camera that sends another format than was asked for: at the same size
    it may have a third of the rate."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=False)
    if any(code) and code.decode("latin-1") != spec.fourcc:
        capture.release()
        raise FrameError(
            f"{spec.name} sends {code.decode('latin-1')}, not {spec.fourcc}: ask for a format that "
            f"it has (v4l2-ctl -d {spec.device} --list-formats-ext)"
        )


def _parse_pipeline(pipeline: str, fps: float | None) -> CameraSpec:
    """The pipeline without an appsink at its end, where OpenCV wanted one."""
    *before, last = pipeline.split("!")
    if last.split()[:1] == ["appsink"]:
        pipeline = "!".join(before).strip()
    elif re.fullmatch(r"\w*sink", (last.split() or [""])[0]):
        raise FrameError(f"gst:{pipeline[:80]}: leave the sink {last.split()[0]} out")
    if not pipeline:
        raise FrameError("gst: names no pipeline: write it as gst:v4l2src device=/dev/video0")
    try:
        shlex.split(pipeline)
    except ValueError as error:
        raise FrameError(f"gst:{pipeline[:80]}: a quotation mark is not closed") from error
    if fps is not None:
        raise FrameError("gst: cameras have their rate in the pipeline, as framerate=30/1")
    return CameraSpec("the GStreamer camera", pipeline, "gstreamer")


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
