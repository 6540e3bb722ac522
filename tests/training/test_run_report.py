"""The figures that a run of training tells of itself."""

import csv
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dsin.training import run_report
from dsin.training.paper.phase_runner import PhaseProgress
from dsin.training.run_report import GpuWatch, MetricsLog, StepClock

CPU = torch.device("cpu")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows, in seconds."""
    shown = [100.0]
    monkeypatch.setattr(run_report, "time", SimpleNamespace(perf_counter=lambda: shown[0]))
    return shown


def test_steps_and_what_lies_between_them(now: list[float]) -> None:
    """Three steps of 2, 2 and 5 s, 1 s before each, and a validation of 30 s."""
    clock = StepClock(CPU)
    for seconds in (2.0, 2.0, 5.0):
        now[0] += 1
        clock.begin()
        now[0] += seconds
        clock.end()
    clock.pause()
    now[0] += 30
    within = clock.figures()
    clock.go_on()
    assert clock.figures() == within
    assert within == {
        "steps": 3,
        "training_s": 12.0,
        "validation_and_files_s": 30.0,
        "steps_per_s": 0.25,
        "step_ms_p50": 2000.0,
        "share_outside_step": 0.25,
    }


def test_a_run_without_steps_has_figures_too(now: list[float]) -> None:
    figures = StepClock(CPU).figures()
    assert (figures["steps"], figures["step_ms_p50"], figures["steps_per_s"]) == (0, None, 0)


class FakeEvent:
    """A CUDA event that shows the clock, and may be read after it was waited for only."""

    def __init__(self, now: list[float]) -> None:
        self._now, self.at, self.waited = now, 0.0, False

    def record(self) -> None:
        self.at = self._now[0]

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e3 * (end.at - self.at)


def test_a_gpu_is_waited_for_once_for_many_steps(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FakeEvent] = []

    def event(enable_timing: bool) -> FakeEvent:
        assert enable_timing
        made.append(FakeEvent(now))
        return made[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    clock = StepClock(torch.device("cuda"))
    for _ in range(4):
        clock.begin()
        now[0] += 0.003
        clock.end()
        now[0] += 0.001
    assert not any(e.waited for e in made)
    clock.collect()
    assert [e.waited for e in made] == [False] * 7 + [True]
    assert clock.figures()["step_ms_p50"] == pytest.approx(3)
    assert clock.figures()["share_outside_step"] == pytest.approx(0.25)
    clock.collect()
    assert clock.figures()["share_outside_step"] == pytest.approx(0.25), "steps counted twice"


def test_a_processor_has_no_gpu_figures() -> None:
    watch = GpuWatch(CPU)
    watch.look()
    assert watch.figures() == {"gpu_utilisation": None, "gpu_memory_mib": None}


def test_gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter([90, 100])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(shown))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    watch = GpuWatch(torch.device("cuda"))
    watch.look()
    watch.look()
    assert watch.figures() == {"gpu_utilisation": 95, "gpu_memory_mib": 3}

    def absent(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", absent)
    watch.look()
    assert watch.figures() == {"gpu_utilisation": None, "gpu_memory_mib": 3}


def test_a_log_has_a_column_for_whatever_a_row_has(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.add(1, {"loss": 0.5})
    log.save()
    log.add(2, {"loss": 0.25, "psnr": 30.0})
    log.add(2, {"val_loss": 0.125})
    log.save()
    with (tmp_path / "log_0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "1", "loss": "0.5", "psnr": "", "val_loss": ""},
        {"step": "2", "loss": "0.25", "psnr": "30.0", "val_loss": ""},
        {"step": "2", "loss": "", "psnr": "", "val_loss": "0.125"},
    ]
    assert MetricsLog(tmp_path).path == tmp_path / "log_1" / "metrics.csv"


def test_the_papers_phases_have_one_bar_and_no_advertisements() -> None:
    assert PhaseProgress("fusion")._get_train_description(3) == "phase fusion"
    told = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert not told.isEnabledFor(logging.INFO)
    assert told.isEnabledFor(logging.WARNING)
