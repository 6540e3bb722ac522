"""Runs one phase of training on Lightning's trainer: resuming, mixed precision, DDP, what is kept.

`out` gets `best.pt` (lowest validation loss), `final.pt` (which the next phase starts from),
`last.ckpt` (to resume from), `log_<n>/metrics.csv`, `curves.png` and, at the end, `done.json`.
"""

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import write_json
from dsin.runtime.sources.picture_folders import natural_order
from dsin.training.checkpoint import save_checkpoint
from dsin.training.curves import plot_curves
from dsin.training.paper.model import Dsin
from dsin.training.presets import PhaseConfig

UNWANTED_ADVICE = (
    "Checkpoint directory .* exists and is not empty",  # it has the phase's logs
    ".*does not have many workers",  # the validation set is small
    ".*resuming from a checkpoint that ended before the epoch ended",  # training has no epochs
)


# It advertises services, and tells of processors that it does not use.
logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)


class PhaseProgress(RichProgressBar):  # type: ignore[misc]
    """One bar for the phase; training has no epochs."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase

    def _get_train_description(self, current_epoch: int) -> str:
        return f"phase {self._phase}"


class PhaseModule(L.LightningModule):  # type: ignore[misc]
    """What every phase has: `val_loss` is to be logged in `validation_step`."""

    def __init__(self, model: Dsin, phase: PhaseConfig) -> None:
        super().__init__()
        self.model = model
        self.phase = phase

    def validation_loader(self) -> "DataLoader[Any]":
        """What is validated on."""
        raise NotImplementedError

    def data_notes(self) -> dict[str, Any]:
        """What the checkpoint says of the training data."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called once after the last step, before the weights are saved."""


class KeepBest(Callback):  # type: ignore[misc]
    """Saves the weights of the lowest validation loss; goes before whatever swaps weights back."""

    def __init__(self, path: Path, start_notes: Mapping[str, Any]) -> None:
        self.path = path
        self.start_notes = start_notes
        self.loss = math.inf

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        assert isinstance(module, PhaseModule)
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.loss:
            self.loss = loss
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
            notes = {
                "phase": module.phase.name,
                "step": trainer.global_step,
                "validation": metrics,
                "started_from": dict(self.start_notes),
            }
            save_checkpoint(self.path, module.model, notes=notes)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss = float(state_dict["loss"])


def is_done(out: Path, *, resume: bool) -> bool:
    """Whether a phase needs no more training. Raises CheckpointError where `out` has an unfinished
    run and `resume` is off."""
    if resume and (out / "done.json").is_file():
        return True
    if (out / "last.ckpt").is_file() and not resume:
        raise CheckpointError(f"{out} has a run already: continue with --resume, or choose another")
    return False


def run_phase(
    module: PhaseModule, out: Path, *, start_notes: Mapping[str, Any], resume: bool, devices: int,
    nodes: int,
) -> Path:  # fmt: skip
    """Train to the phase's last step; returns `final.pt`, whose notes have those of the weights
    that it started from too. Raises KeyboardInterrupt when stopped before, with `last.ckpt` saved.
    """
    phase, last = module.phase, out / "last.ckpt"
    trainer = L.Trainer(
        max_steps=phase.steps,
        precision=phase.precision,
        devices=devices,
        num_nodes=nodes,
        # Each phase leaves some part of the model without gradients.
        strategy="auto" if devices * nodes == 1 else "ddp_find_unused_parameters_true",
        logger=CSVLogger(out, name="", version=f"log_{len(list(out.glob('log*')))}"),
        callbacks=[
            KeepBest(out / "best.pt", start_notes),
            ModelCheckpoint(
                out, filename="last", enable_version_counter=False,
                train_time_interval=timedelta(minutes=phase.checkpoint_every_minutes),
                save_top_k=1, save_on_exception=True,
            ),
            PhaseProgress(phase.name),
        ],
        val_check_interval=phase.validate_every_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        enable_model_summary=False,
        default_root_dir=out,
    )  # fmt: skip
    with warnings.catch_warnings():
        for advice in UNWANTED_ADVICE:
            warnings.filterwarnings("ignore", advice)
        trainer.fit(
            module,
            val_dataloaders=module.validation_loader(),
            ckpt_path=str(last) if resume and last.is_file() else None,
        )
    if trainer.global_step < phase.steps:
        raise KeyboardInterrupt
    with trainer.precision_plugin.forward_context():
        module.finish()
    if trainer.is_global_zero:
        notes = {"phase": phase.name, "step": trainer.global_step, **module.data_notes()}
        if start_notes:
            notes["started_from"] = dict(start_notes)
        save_checkpoint(out / "final.pt", module.model, notes=notes)
        plot_curves(sorted(out.glob("log*/metrics.csv"), key=natural_order), out / "curves.png")
        write_json(out / "done.json", asdict(phase))
    trainer.strategy.barrier()  # the next phase reads what the first process has just written
    return out / "final.pt"
