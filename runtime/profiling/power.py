"""Power, and memory of the GPU, while something runs.

NVML tells it of a graphics card, tegrastats of a Jetson. Where neither exists, a profile says so
and has no figures.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from dsin.runtime.backends.session import Backend
from dsin.runtime.gpu.cuda_driver import gpu_index

INTERVAL_S = 0.1
"""Between two readings."""
NO_METER = "neither tegrastats (Jetson) nor NVML (pip install nvidia-ml-py) is there"
NOT_ITS_METER = "NVML measures the graphics card, which this backend does not use"
TEGRASTATS_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")
"""What the whole board takes, by the names of several Jetsons."""
_HOT = 0x08 | 0x20 | 0x40 | 0x80
"""NVML's reasons to slow down: hardware slowdown, software and hardware thermal, power brake."""
_MIB = 2**20


@dataclass
class Readings:
    """What a meter read so far: watts, MiB of GPU memory used by this process, and how often it
    saw the chip slowed down by heat or power."""

    watts: list[float] = field(default_factory=list)
    gpu_mib: list[float] = field(default_factory=list)
    throttle_events: int = 0


@dataclass(frozen=True)
class Power:
    """Mean power of `what` and energy, idle share included, of one frame."""

    source: str
    what: str
    mean_w: float
    energy_per_frame_j: float


class Meter(Protocol):
    """Reads in the background between `start` and `stop`; `source` is its name, `what` is what it
    measures."""

    @property
    def source(self) -> str: ...

    @property
    def what(self) -> str: ...

    def start(self) -> None:
        """Begin to read."""

    def stop(self) -> Readings:
        """End, and return what was read."""


@contextmanager
def metering(meter: Meter | None) -> Iterator[Readings]:
    """Readings of what runs within: complete at its end, and empty without a meter."""
    readings = Readings()
    if meter is None:
        yield readings
        return
    meter.start()
    try:
        yield readings
    finally:
        taken = meter.stop()
        readings.watts, readings.gpu_mib = taken.watts, taken.gpu_mib
        readings.throttle_events = taken.throttle_events


def open_meter(backend: Backend) -> tuple[Meter | None, str | None]:
    """A meter of what the backend runs on, or None and the reason."""
    if (path := shutil.which("tegrastats")) is not None:
        return Tegrastats(path), None
    nvml = _nvml()
    if nvml is None:
        return None, NO_METER
    if backend == "cpu":
        return None, NOT_ITS_METER
    try:
        return NvmlMeter(nvml), None
    except nvml.NVMLError as error:
        return None, f"NVML does not tell of the card: {error}"


def power_of(meter: Meter, readings: Readings, seconds: float, frames: int) -> Power | None:
    """From the readings taken in so many seconds; None if there was not one."""
    if not readings.watts:
        return None
    mean_w = sum(readings.watts) / len(readings.watts)
    return Power(meter.source, meter.what, round(mean_w, 3), round(mean_w * seconds / frames, 4))


def chosen_card() -> str:
    """NVML's index or UUID of the card that $DSIN_GPU chooses among those the process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(gpu_index())
    cards = visible.split(",")
    return cards[min(gpu_index(), len(cards) - 1)]


class NvmlMeter:
    """The card that the process computes on. `nvml` is the module pynvml, initialised."""

    source = "NVML"

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        card = chosen_card()
        self._card = (
            nvml.nvmlDeviceGetHandleByIndex(int(card))
            if card.isdecimal()
            else nvml.nvmlDeviceGetHandleByUUID(card)
        )
        name = nvml.nvmlDeviceGetName(self._card)
        self.what = name.decode() if isinstance(name, bytes) else str(name)
        self._readings = Readings()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_on, name="power", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Readings:
        self._ended.set()
        self._thread.join()
        return self._readings

    def _read_on(self) -> None:
        while True:
            self._read()
            if self._ended.wait(INTERVAL_S):
                return

    def _read(self) -> None:
        nvml, readings = self._nvml, self._readings
        # A card that does not support one of these still has the others.
        with contextlib.suppress(nvml.NVMLError):
            readings.watts.append(nvml.nvmlDeviceGetPowerUsage(self._card) / 1000)
        with contextlib.suppress(nvml.NVMLError):
            mine = [p.usedGpuMemory for p in nvml.nvmlDeviceGetComputeRunningProcesses(self._card)
                    if p.pid == os.getpid() and p.usedGpuMemory is not None]  # fmt: skip
            readings.gpu_mib += [used / _MIB for used in mine]
        with contextlib.suppress(nvml.NVMLError):
            why = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._card)
            readings.throttle_events += bool(why & _HOT)


class Tegrastats:
    """NVIDIA's program on a Jetson, which prints a line at each interval."""

    source = "tegrastats"
    what = "the whole board"

    def __init__(self, path: str) -> None:
        self._command = [path, "--interval", str(round(1000 * INTERVAL_S))]
        # Not a pipe, which would fill up: nobody reads until the end.
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open until stop
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._printed)

    def stop(self) -> Readings:
        assert self._process is not None, "stop follows start"
        self._process.terminate()
        self._process.wait()
        self._printed.seek(0)
        watts = [watts_of(line) for line in self._printed]
        self._printed.close()
        return Readings([w for w in watts if w is not None])


def watts_of(line: str) -> float | None:
    """Power of the board in a line of tegrastats, such as `… VDD_IN 4980mW/4980mW …`."""
    for rail in TEGRASTATS_RAILS:
        if (found := re.search(rf"\b{rail} (\d+)(?:mW)?/", line)) is not None:
            return int(found[1]) / 1000
    return None


def _nvml() -> Any | None:
    """pynvml with its library loaded, or None without either."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
