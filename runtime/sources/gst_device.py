"""GStreamer pipelines as cameras, by a child process.

    gst:PIPELINE ─► gst-launch-1.0 PIPELINE ! videoconvert ! RGB ! matroskamux ! pipe ─► PyAV

Matroska carries size, format and time of raw pictures, so any Python with PyAV (extra `video`) will
do; OpenCV's wheels have no GStreamer.
"""

import atexit
import os
import select
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence

from dsin.runtime.errors import FrameError
from dsin.runtime.sources.av_device import AvDevice, import_av
from dsin.runtime.sources.capture_device import CameraSpec

LAUNCH = "gst-launch-1.0"
OPTIONS = {"fpsprobesize": "0"}
"""The header tells all. FFmpeg would wait for twenty pictures to tell their rate, seconds of a slow
camera, and they would come in one burst with the times of its end."""
SILENCE_S = 10.0
"""A pipeline that writes nothing for so long is ended, to be started again."""
END_S = 2.0
"""What it gets to end by itself."""
_REMEMBERED_LINES = 50
_RUNNING: "weakref.WeakSet[_Child]" = weakref.WeakSet()


def open_pipeline(spec: CameraSpec) -> AvDevice:
    """Start a pipeline. Raises FrameError with GStreamer's own message where it does not run."""
    av = import_av(spec.name)
    child = _Child(spec)
    try:
        container = av.open(child, format="matroska", options=OPTIONS)
        return AvDevice(container, spec.name, child.end, child.message)
    except (av.error.FFmpegError, OSError, FrameError) as error:
        child.end()
        raise FrameError(f"{spec.name}: {child.message() or error}") from error
    except BaseException:
        child.end()
        raise


def launch_command(pipeline: str, descriptor: int) -> list[str]:
    """The child's command line: the pipeline's words as a shell would have them, and where its
    pictures go."""
    tail = f"! videoconvert ! video/x-raw,format=RGB ! matroskamux streamable=true ! fdsink \
fd={descriptor} sync=true"
    return [LAUNCH, "-q", *shlex.split(pipeline), *tail.split()]


class _Child:
    """The running pipeline, and what it writes, as PyAV reads it."""

    def __init__(self, spec: CameraSpec) -> None:
        self._name = spec.name
        self._ended = threading.Event()
        self._silent = False
        self._lines: deque[str] = deque(maxlen=_REMEMBERED_LINES)
        self._pictures, descriptor = os.pipe()
        try:
            self._process = self._started(launch_command(spec.device, descriptor), descriptor)
        except BaseException:
            os.close(self._pictures)
            raise
        finally:
            os.close(descriptor)
        self._listener = threading.Thread(target=self._listen, name="gst", daemon=True)
        self._listener.start()
        _RUNNING.add(self)

    def read(self, size: int) -> bytes:
        """What is there, at most `size` bytes; nothing at the end. (PyAV prints what is raised.)"""
        until_s = time.monotonic() + SILENCE_S
        while not self._ended.is_set():
            ready, _, _ = select.select([self._pictures], [], [], 0.2)
            if ready:
                return os.read(self._pictures, size)
            if time.monotonic() > until_s:
                self._silent = True
                break
        return b""

    def message(self) -> str:
        """Why it ended, in GStreamer's words; empty where it did so by itself."""
        if self._silent:
            return f"the pipeline has given no picture for {SILENCE_S:.0f} s"
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return ""
        self._listener.join(END_S)
        said = gstreamer_message(list(self._lines))
        last = f" ({self._lines[-1]})" if self._lines else ""
        return said or (f"{LAUNCH} ended with status {status}{last}" if status > 0 else "")

    def end(self) -> None:
        """End the pipeline, by force where it does not by itself. May be called again."""
        if self._ended.is_set():
            return
        self._ended.set()
        os.close(self._pictures)  # its next picture ends it, if nothing else does
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._listener.join(END_S)
        _RUNNING.discard(self)

    def _started(self, command: list[str], descriptor: int) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, pass_fds=[descriptor], start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise FrameError(
                f"{self._name} needs {LAUNCH}, which is missing: install GStreamer's tools "
                "(apt install gstreamer1.0-tools gstreamer1.0-plugins-good)"
            ) from error
        except (OSError, ValueError) as error:
            raise FrameError(f"{self._name}: cannot start {LAUNCH}: {error}") from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.append(line.decode(errors="replace").strip()[:500])


def gstreamer_message(lines: Sequence[str]) -> str:
    """The line of gst-launch's that says what is wrong, and the reason that it gives, if any."""
    found = next((line for line in lines if "erroneous pipeline" in line), None)
    if found is None:
        found = next((line for line in lines if line.startswith("ERROR")), "")
    said = found.removeprefix("WARNING: erroneous pipeline: ").removeprefix("ERROR: ")
    reason = _debug_reason(lines) if said else ""
    if 'no element "matroskamux"' in said:
        reason = "install gstreamer1.0-plugins-good"
    return said + (f" ({reason})" if reason else "")


def _debug_reason(lines: Sequence[str]) -> str:
    """What follows the place in GStreamer's own code, if there is anything."""
    places = [n for n, line in enumerate(lines) if line == "Additional debug info:"]
    following = lines[places[0] + 2 : places[0] + 3] if places else ()
    reason = "".join(following)
    return "" if reason.startswith(("ERROR", "Setting ")) else reason.removeprefix("system error: ")


@atexit.register
def _end_all() -> None:
    """A thread that still waits for a picture must not leave its pipeline behind."""
    for child in list(_RUNNING):
        child.end()
