"""Training the paper's model in phases; `dsin.training.edge.train` has the other model."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from dsin.runtime.errors import CheckpointError
from dsin.runtime.evaluation.pairs import Pair
from dsin.training.checkpoint import load_checkpoint
from dsin.training.data import CentredPairs, RandomPairs
from dsin.training.losses import Loss, loss_of, psnr_db
from dsin.training.paper.model import Coded, Dsin, inference_mode_of
from dsin.training.paper.phase_runner import PhaseModule, is_done, run_phase
from dsin.training.presets import PhaseConfig, Preset

VALIDATION_CROP = (320, 1200)
"""Validation crop, (height, width): multiples of the patch and of the stride."""


class Phase(PhaseModule):
    """One phase of one preset as Lightning sees it."""

    model: Dsin
    phase: PhaseConfig

    def __init__(
        self, model: Dsin, phase: PhaseConfig, pairs: list[Pair], validation: list[Pair],
        workers: int,
    ) -> None:  # fmt: skip
        super().__init__(model, phase)
        for part in (model.encoder, model.decoder, model.fusion):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pairs = pairs
        self.validation = validation
        self.workers = workers
        self.steps_per_epoch = max(1, len(pairs) // phase.batch)
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

    def validation_loader(self) -> "DataLoader[tuple[Tensor, Tensor]]":
        return DataLoader(CentredPairs(self.validation, VALIDATION_CROP))

    def data_notes(self) -> dict[str, Any]:
        return {"pairs": len(self.pairs)}

    def finish(self) -> None:
        if self.phase.freeze_autoencoder or self.phase.batch_norm == "settled":
            return
        settle_batch_norm(
            self.model,
            _random(self.pairs, self.phase, (self.model.preset.seed + 1,), 0),
            count=min(100, self.phase.steps),
        )


def train(
    preset: Preset,
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

    `out/<phase>/` gets what `dsin.training.paper.phase_runner` says. With `resume` finished phases
    are skipped and the unfinished one goes on; an interrupt or SIGTERM loses nothing, a kill what
    came after the last `checkpoint_every_minutes`.
    Raises CheckpointError where `out` has a run already and `resume` is off.
    """
    if not preset.phases:
        raise CheckpointError(f"preset {preset.name} has no phases to train")
    best = start_from
    for phase in preset.phases:
        folder = out / phase.name
        if is_done(folder, resume=resume):
            best = folder / "final.pt"
            continue
        L.seed_everything(preset.seed, workers=True, verbose=False)
        model, notes = load_checkpoint(best, preset=preset) if best else (Dsin(preset), {})
        module = Phase(model.train(), phase, pairs, validation, workers)
        best = run_phase(module, folder, start_notes=notes, resume=resume, devices=devices,
                         nodes=nodes)  # fmt: skip
    assert best is not None
    return best


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
