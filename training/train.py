"""Training in phases on Lightning's trainer: resume, mixed precision and DDP come from there."""

import math
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from dsin.runtime.errors import CheckpointError
from dsin.runtime.files import write_json
from dsin.training.checkpoint import load_checkpoint, save_checkpoint
from dsin.training.curves import plot_curves
from dsin.training.data import CentredPairs, Pair, RandomPairs
from dsin.training.losses import Loss, loss_of, psnr_db
from dsin.training.model import Coded, Dsin, inference_mode_of
from dsin.training.presets import AnyPreset, PhaseConfig, Preset

VALIDATION_CROP = (320, 1200)
"""Validation crop, (height, width): multiples of the patch and of the stride."""

UNWANTED_ADVICE = (
    "Checkpoint directory .* exists and is not empty",  # it has the phase's logs
    ".*does not have many workers",  # the validation set is small
    ".*resuming from a checkpoint that ended before the epoch ended",  # training has no epochs
)


class Phase(L.LightningModule):  # type: ignore[misc]
    """One phase of one preset as Lightning sees it."""

    def __init__(
        self, model: Dsin, phase: PhaseConfig, pairs: list[Pair], best: Path, workers: int
    ) -> None:
        super().__init__()
        for part in (model.encoder, model.decoder, model.fusion):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.phase = phase
        self.pairs = pairs
        self.workers = workers
        self.steps_per_epoch = max(1, len(pairs) // phase.batch)
        self.best_path = best
        self.best_loss = math.inf
        trained = model.fusion if phase.freeze_autoencoder else model
        self.trained = [p for p in trained.parameters() if p.requires_grad]

    def train_dataloader(self) -> "DataLoader[tuple[Tensor, Tensor]]":
        # The step is in the seed so that a resumed run goes on with other crops.
        seed = (self.model.preset.seed, self.trainer.global_rank, self.global_step)
        return _random(self.pairs, self.phase, seed, self.workers)

    def forward_losses(self, x: Tensor, y: Tensor) -> tuple[Loss, Coded, Tensor | None]:
        y_dec = None if self.phase.ae_only else self.model.reconstruct(y)
        coded = self._code(x)
        x_hat = None if y_dec is None else self.model.fuse(coded.x_dec, y, y_dec).x_hat
        return loss_of(self.model, self.model.preset, x, coded, x_hat), coded, x_hat

    def _code(self, x: Tensor) -> Coded:
        if not self.phase.freeze_autoencoder:
            return self.model.code(x)
        with torch.no_grad(), inference_mode_of(self.model.encoder, self.model.decoder):
            return self.model.code(x)

    def train(self, mode: bool = True) -> "Phase":
        super().train(mode)
        if mode and self.phase.batch_norm == "settled":
            for norm in batch_norms(self.model):
                norm.eval()
        return self

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = (t.contiguous(memory_format=torch.channels_last) for t in batch)
        loss, coded, _x_hat = self.forward_losses(x, y)
        shown = {"loss": loss.total, "bpp": loss.bpp, "psnr": psnr_db(x, coded.x_dec).mean()}
        self.log_dict(shown, prog_bar=True)
        self.log("d_x_hat", loss.x_hat)
        return loss.total

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        x, y = batch
        loss, coded, x_hat = self.forward_losses(x, y)
        scores = {
            "val_loss": loss.total,
            "val_bpp": loss.bpp,
            "val_psnr_no_side": psnr_db(x, coded.x_dec).mean(),
        }
        if x_hat is not None:
            scores["val_psnr"] = psnr_db(x, x_hat.clamp(0, 255)).mean()
        self.log_dict(scores, prog_bar=True, sync_dist=True, batch_size=len(x))

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        loss = float(self.trainer.callback_metrics["val_loss"])
        if loss < self.best_loss:
            self.best_loss = loss
            metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            notes = {"phase": self.phase.name, "step": self.global_step, "validation": metrics}
            save_checkpoint(self.best_path, self.model, notes=notes)

    def configure_optimizers(self) -> Any:
        # Adam with epsilon 1e-8, as published; the epsilon's place differs by less than noise.
        optimiser = torch.optim.Adam(self.trained, lr=self.phase.learning_rate)
        schedule = {"scheduler": LambdaLR(optimiser, self._decay), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": schedule}

    def _decay(self, step: int) -> float:
        if self.phase.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.phase.steps)))
        epochs = step / self.steps_per_epoch
        return float(self.phase.decay_factor ** (epochs // self.phase.decay_every_epochs))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dsin_best_loss"] = self.best_loss

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best_loss = float(checkpoint["dsin_best_loss"])


def train(
    preset: AnyPreset,
    pairs: list[Pair],
    validation: list[Pair],
    out: Path,
    *,
    start_from: Path | None = None,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    workers: int = 2,
) -> Path:
    """Run the preset's phases in turn; returns the last phase's final checkpoint.

    `out/<phase>/` gets `best.pt` (lowest validation loss), `final.pt` (which the next phase starts
    from), `last.ckpt` (to resume from), `log_<n>/metrics.csv` and `curves.png`. With `resume`
    finished phases are skipped and the unfinished one goes on; an interrupt or SIGTERM loses
    nothing, a kill what came after the last `checkpoint_every_minutes`.
    Raises CheckpointError where `out` has a run already and `resume` is off, or for a preset of
    the edge model.
    """
    if not isinstance(preset, Preset):
        raise CheckpointError("dsin train knows the paper's model only, not yet that of edge")
    if not preset.phases:
        raise CheckpointError(f"preset {preset.name} has no phases to train")
    best = start_from
    for phase in preset.phases:
        best = _run_phase(preset, phase, pairs, validation, out / phase.name, best, resume,
                          devices, nodes, workers)  # fmt: skip
    assert best is not None
    return best


def _run_phase(
    preset: Preset, phase: PhaseConfig, pairs: list[Pair], validation: list[Pair], out: Path,
    start_from: Path | None, resume: bool, devices: int, nodes: int, workers: int,
) -> Path:  # fmt: skip
    done, last = out / "done.json", out / "last.ckpt"
    if resume and done.is_file():
        return out / "final.pt"
    if last.is_file() and not resume:
        raise CheckpointError(f"{out} has a run already: continue with --resume, or choose another")
    L.seed_everything(preset.seed, workers=True, verbose=False)
    model = load_checkpoint(start_from, preset=preset)[0] if start_from else Dsin(preset)
    module = Phase(model.train(), phase, pairs, out / "best.pt", workers)
    trainer = L.Trainer(
        max_steps=phase.steps,
        precision=phase.precision,
        devices=devices,
        num_nodes=nodes,
        # Each phase leaves some part of the model without gradients.
        strategy="auto" if devices * nodes == 1 else "ddp_find_unused_parameters_true",
        logger=CSVLogger(out, name="", version=f"log_{len(list(out.glob('log*')))}"),
        callbacks=[
            ModelCheckpoint(
                out, filename="last", enable_version_counter=False,
                train_time_interval=_minutes(phase.checkpoint_every_minutes), save_top_k=1,
                save_on_exception=True,
            ),
            RichProgressBar(),
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
            val_dataloaders=DataLoader(CentredPairs(validation, VALIDATION_CROP)),
            ckpt_path=str(last) if resume and last.is_file() else None,
        )
    if trainer.global_step < phase.steps:
        raise KeyboardInterrupt
    if not phase.freeze_autoencoder and phase.batch_norm == "batch":
        with trainer.precision_plugin.forward_context():
            settle_batch_norm(
                module.model,
                _random(pairs, phase, (preset.seed + 1,), 0),
                count=min(100, phase.steps),
            )
    if trainer.is_global_zero:
        notes = {"phase": phase.name, "step": trainer.global_step, "pairs": len(pairs)}
        save_checkpoint(out / "final.pt", module.model, notes=notes)
        plot_curves(sorted(out.glob("log*/metrics.csv")), out / "curves.png")
        write_json(done, asdict(phase))
    trainer.strategy.barrier()  # the next phase reads what the first process has just written
    return out / "final.pt"


@torch.no_grad()
def settle_batch_norm(
    model: Dsin, batches: "DataLoader[tuple[Tensor, Tensor]]", count: int = 100
) -> None:
    """Replace the moving statistics, noisy with small batches, by means over `count` batches."""
    norms = batch_norms(model)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for _, (x, _y) in zip(range(count), batches, strict=False):
        z = model.encoder(x.to(next(model.parameters()).device)).z
        model.decoder(model.quantiser(z.float()).q)
    for norm in norms:
        norm.momentum = 0.1


def batch_norms(model: Dsin) -> list[torch.nn.BatchNorm2d]:
    """Every batch norm of the model."""
    return [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def _random(
    pairs: list[Pair], phase: PhaseConfig, seed: tuple[int, ...], workers: int
) -> "DataLoader[tuple[Tensor, Tensor]]":
    data = RandomPairs(pairs, phase.crop, seed=seed)
    return DataLoader(
        data, phase.batch, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip


def _minutes(minutes: float) -> Any:
    from datetime import timedelta

    return timedelta(minutes=minutes)
