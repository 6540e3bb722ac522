"""What a run of training tells of itself: a log to plot, a JSON file, and a line now and then."""

import csv
import io
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from dsin.runtime.files import write_bytes_atomically

Row = dict[str, float]


class StepClock:
    """Times of steps, and the share of time that was spent outside of them.

    On a GPU the times are the device's own, between events in its stream: reading them waits for
    it, so it is done by `collect` only.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[Any, Any]] = []
        self._recent: deque[float] = deque(maxlen=10_000)
        self._inside_s = self._resting_s = 0.0
        self._steps = 0
        self._begin: Any = None
        self._started = time.perf_counter()
        self._rest: float | None = None

    def begin(self) -> None:
        """Before a step."""
        self._begin = self._now()

    def end(self) -> None:
        """After it."""
        self._steps += 1
        if self._on_gpu:
            self._events.append((self._begin, self._now()))
        else:
            self._count(time.perf_counter() - self._begin)

    def pause(self) -> None:
        """From here on, until `go_on`, time does not count: validation, files."""
        self._rest = time.perf_counter()

    def go_on(self) -> None:
        """See `pause`."""
        self._resting_s += self._pause_s()
        self._rest = None

    def collect(self) -> None:
        """Take in the steps so far; waits for the device."""
        if self._events:
            self._events[-1][1].synchronize()
            for begin, end in self._events:
                self._count(begin.elapsed_time(end) / 1e3)
            self._events.clear()

    def figures(self) -> dict[str, Any]:
        """Steps, seconds of training (without pauses) and of pauses, steps a second, the median of
        a step in ms, and the share of training that was outside of steps."""
        resting_s = self._resting_s + self._pause_s()
        training_s = max(time.perf_counter() - self._started - resting_s, 1e-9)
        return {
            "steps": self._steps,
            "training_s": training_s,
            "validation_and_files_s": resting_s,
            "steps_per_s": self._steps / training_s,
            "step_ms_p50": 1e3 * statistics.median(self._recent) if self._recent else None,
            "share_outside_step": max(0.0, 1 - self._inside_s / training_s),
        }

    def _pause_s(self) -> float:
        """Of the pause that goes on."""
        return 0.0 if self._rest is None else time.perf_counter() - self._rest

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _count(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._inside_s += seconds


class GpuWatch:
    """Utilisation in percent, where NVIDIA's management library is installed, and memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: list[int] = []

    def look(self) -> None:
        """Take a sample."""
        if self._device.type != "cuda":
            return
        try:
            self._seen.append(torch.cuda.utilization(self._device))
        except (ModuleNotFoundError, RuntimeError):  # no nvidia-ml-py, or a driver that refuses
            self._seen.clear()

    def figures(self) -> dict[str, Any]:
        """Mean utilisation and most memory, each None where it is not known."""
        on_gpu = self._device.type == "cuda"
        return {
            "gpu_utilisation": statistics.fmean(self._seen) if self._seen else None,
            "gpu_memory_mib": torch.cuda.max_memory_allocated(self._device) >> 20
            if on_gpu
            else None,
        }


class MetricsLog:
    """`metrics.csv`: a row for each report, with a column for whatever a row has."""

    def __init__(self, folder: Path) -> None:
        """A new log beside those of earlier runs of the phase: log_<n>."""
        self.path = folder / f"log_{len(list(folder.glob('log*')))}" / "metrics.csv"
        self.rows: list[Row] = []

    def add(self, step: int, figures: dict[str, float]) -> None:
        """A row, written with the next `save`."""
        self.rows.append({"step": step, **figures})

    def save(self) -> None:
        """Write all rows; the file appears whole or not at all."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(self.path, text.getvalue().encode())
