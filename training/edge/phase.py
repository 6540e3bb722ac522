"""One phase of training the `edge` model, from where its folder stands to its end or a stop."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import write_json
from dsin.runtime.sources.picture_folders import natural_order
from dsin.training.checkpoint import save_checkpoint
from dsin.training.curves import plot_curves
from dsin.training.edge.crops import CropDrawer, Crops, PictureBank
from dsin.training.edge.model import EdgeDsin
from dsin.training.edge.objective import SHOWN, EdgeObjective
from dsin.training.edge.state import (
    BEST,
    FINAL,
    State,
    best_loss,
    save_average,
    save_state,
)
from dsin.training.edge.step import (
    KINDS,
    EagerStepper,
    GraphStepper,
    Kind,
    Learner,
    learning_rate,
)
from dsin.training.presets import EdgePhase, EdgePreset
from dsin.training.run_report import GpuWatch, MetricsLog, Row, StepClock

READ_EVERY_S = 10.0
"""Seconds between looks at the losses, each of which waits for the device."""
SETTLE_EVERY = 50
"""Steps after which the host waits for a GPU, or for the other processes."""

Views = Sequence[tuple[Tensor, Tensor]]
"""x and y of pairs, uint8 (1, 3, H, W)."""


@dataclass(frozen=True)
class PhaseSetting:
    """What a phase works with. `must_stop` says that time is up or somebody wants to stop;
    `report` gets the phase's figures each time that files are written."""

    preset: EdgePreset
    phase: EdgePhase
    folder: Path
    bank: PictureBank
    validation: Views
    data_notes: dict[str, Any]
    fabric: Fabric
    graphs: bool
    say: Callable[[str], None]
    must_stop: Callable[[float], bool]
    report: Callable[[dict[str, Any]], None]


class PhaseRun:
    """Goes on from `state`; see `dsin.training.edge.train.train_edge`."""

    def __init__(self, setting: PhaseSetting, state: State) -> None:
        self._setting, phase = setting, setting.phase
        self._start, self._step = state, state.step
        device = setting.fabric.device
        model = EdgeDsin(setting.preset)
        model.load_state_dict(state.model)
        model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._model = model
        self._average = copy.deepcopy(model).eval().requires_grad_(False)
        self._average.load_state_dict(state.average)
        self._validator = EdgeObjective(self._average, phase).to(device)
        model.requires_grad_(not phase.freeze_codec)
        model.fusion.requires_grad_(phase.side_weight > 0)
        objective: Any = EdgeObjective(model, phase).to(device)
        if setting.fabric.world_size > 1:
            objective = setting.fabric.setup_module(objective)
        crops = CropDrawer(phase, setting.bank, setting.say)
        draw: dict[Kind, Callable[[], Crops]] = {"photos": crops.photos, "pairs": crops.pairs}
        self._learner = Learner(objective, model, self._average, phase, draw)
        if state.moments is not None:
            self._learner.load_optimiser(state.moments)
        graphs = setting.graphs and device.type == "cuda" and setting.fabric.world_size == 1
        self._stepper = (
            GraphStepper(self._learner, setting.say) if graphs else EagerStepper(self._learner)
        )
        self._best = best_loss(setting.folder)
        self._clock, self._watch = StepClock(device), GpuWatch(device)
        self._log = MetricsLog(setting.folder)
        self._counts = dict.fromkeys(KINDS, 0)
        self._read_at = self._saved_at = time.monotonic()
        self._saving_s = self._validating_s = 0.0

    def go(self) -> bool:
        """Train; whether the phase came to its end. Everything is saved in either case."""
        phase, setting = self._setting.phase, self._setting
        # The step is in the seeds so that a resumed run goes on with other crops.
        seed = [setting.preset.seed, self._step]
        torch.manual_seed(_seed([*seed, setting.fabric.global_rank]))
        coin = np.random.default_rng(seed)
        begun = self._step if self._start.moments is None else 0
        while self._step < phase.steps and not self._must_stop():
            kind: Kind = "photos" if coin.random() < phase.photo_share else "pairs"
            self._learner.set_rate(learning_rate(phase, self._step, begun))
            self._clock.begin()
            self._stepper.step(kind)
            self._clock.end()
            self._counts[kind] += 1
            if self._step == 0:
                self._learner.start_average()
            self._step += 1
            self._look_after()
        finished = self._step >= phase.steps
        self._save()
        if finished:
            self._finish()
        return finished

    @property
    def step(self) -> int:
        """Steps done, those of earlier runs included."""
        return self._step

    def figures(self) -> dict[str, Any]:
        """For the report."""
        phase = self._setting.phase
        rows = self._log.rows
        return {
            "phase": phase.name, "step": self._step, "of_steps": phase.steps,
            "mode": self._stepper.mode, "batch": phase.batch, **self._clock.figures(),
            **self._watch.figures(),
            "history": [row for row in rows if "loss" in row],
            "validation": [row for row in rows if "val_loss" in row],
        }  # fmt: skip

    def _must_stop(self) -> bool:
        asked = self._setting.must_stop(self._saving_s)
        fabric = self._setting.fabric
        if fabric.world_size == 1:
            return asked
        if self._step % SETTLE_EVERY:
            return False
        # All processes stop at the same step, or those that go on would wait for the others.
        votes = fabric.all_reduce(torch.tensor(float(asked), device=fabric.device), reduce_op="sum")
        return bool(votes)

    def _look_after(self) -> None:
        """What is due after a step."""
        phase = self._setting.phase
        if self._step % SETTLE_EVERY == 0:
            self._clock.collect()
        now = time.monotonic()
        if now - self._read_at > READ_EVERY_S:
            self._read()
        if self._step % phase.validate_every_steps == 0:
            if self._setting.must_stop(self._saving_s + self._validating_s):
                self._setting.say(f"{self._where()}  not validated: there is no time left for it")
            else:
                self._validate()
        if now - self._saved_at > 60 * phase.checkpoint_every_minutes:
            self._save()

    def _read(self) -> None:
        """Take the figures of the batches since the last time from the device."""
        taken = sum(self._counts.values())
        if not taken:
            return
        sums = {kind: self._learner.sums[kind].tolist() for kind in KINDS}
        totals = [sum(sums[kind][n] for kind in KINDS) for n in range(len(SHOWN))]
        row = {name: total / taken for name, total in zip(SHOWN[:3], totals, strict=False)}
        if self._counts["pairs"]:
            row[SHOWN[3]] = sums["pairs"][3] / self._counts["pairs"]
        self._check(row["loss"])
        self._log.add(self._step, row)
        for kind in KINDS:
            self._learner.sums[kind].zero_()
            self._counts[kind] = 0
        self._read_at = time.monotonic()
        self._watch.look()

    @torch.no_grad()
    def _validate(self) -> None:
        self._read()
        self._clock.pause()
        begun = time.monotonic()
        views = [(x.float(), y.float()) for x, y in self._setting.validation]
        scores = [self._validator.validate(x, y) for x, y in views]
        row = {name: float(torch.stack([s[name] for s in scores]).mean()) for name in scores[0]}
        self._check(row["val_loss"])
        self._log.add(self._step, row)
        self._setting.say(f"{self._where()}  validated: loss {row['val_loss']:.4f}")
        if row["val_loss"] < self._best:
            self._best = row["val_loss"]
            notes = {**self._notes(), "validation": row}
            if self._setting.fabric.is_global_zero:
                save_checkpoint(self._setting.folder / BEST, self._average, notes=notes)
        self._validating_s = time.monotonic() - begun
        self._clock.go_on()

    def _save(self) -> None:
        self._clock.collect()
        self._read()
        self._clock.pause()
        begun = time.monotonic()
        setting = self._setting
        if setting.fabric.is_global_zero:
            state = State(
                self._step, self._model.state_dict(), self._average.state_dict(),
                self._learner.optimiser.state_dict()["state"], self._start.notes,
            )  # fmt: skip
            save_state(setting.folder, state, setting.preset)
            save_average(setting.folder, self._average, self._notes())
            self._log.save()
            setting.report(self.figures())
        self._saved_at = time.monotonic()
        self._saving_s = self._saved_at - begun
        self._clock.go_on()
        self._tell()

    def _finish(self) -> None:
        setting = self._setting
        if setting.fabric.is_global_zero:
            save_checkpoint(setting.folder / FINAL, self._average, notes=self._notes())
            logs = sorted(setting.folder.glob("log*/metrics.csv"), key=natural_order)
            plot_curves(logs, setting.folder / "curves.png")
            write_json(setting.folder / "done.json", asdict(setting.phase))
        setting.fabric.barrier()  # the next phase reads what the first process has just written

    def _check(self, loss: float) -> None:
        """Before weights that are worth nothing take the place of good ones."""
        if not math.isfinite(loss):
            raise CheckpointError(
                f"phase {self._setting.phase.name} diverged by step {self._step}: its loss is "
                f"{loss}. What was saved before is whole: go on from it with a lower learning_rate"
            )

    def _notes(self) -> dict[str, Any]:
        notes = {"phase": self._setting.phase.name, "step": self._step, **self._setting.data_notes}
        if self._start.notes:
            notes["started_from"] = self._start.notes
        return notes

    def _where(self) -> str:
        return f"{self._setting.phase.name} {self._step}/{self._setting.phase.steps}"

    def _tell(self) -> None:
        last: Row = next((row for row in reversed(self._log.rows) if "loss" in row), {})
        figures = self._clock.figures()
        shown = "".join(f"  {name} {last[name]:.4g}" for name in SHOWN if name in last)
        self._setting.say(
            f"{self._where()}{shown}  {figures['steps_per_s']:.2f} steps/s, "
            f"{100 * figures['share_outside_step']:.1f} % of the time outside of them"
        )


def _seed(numbers: list[int]) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
