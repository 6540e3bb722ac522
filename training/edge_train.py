"""Training the `edge` model: one phase for the codec, one with the side image, any number of both.

    loss of a picture at rate r = sqrt(m / multiplier(r)) · (bpp + multiplier(r) · distortion)

m is the geometric mean of the multipliers: so low rates weigh as much as high ones. Each picture of
a batch has a rate of its own, drawn at random. With a side image the distortion is that of x_hat
with weight `side_weight`, and that of x_dec with the rest.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from dsin.runtime.errors import CheckpointError
from dsin.training.checkpoint import load_edge_checkpoint
from dsin.training.data import CentredPairs, Pair
from dsin.training.edge_data import EdgeBatches
from dsin.training.edge_model import MULTIPLE, EdgeCoded, EdgeDsin
from dsin.training.edge_rates import fits, multipliers, with_preset
from dsin.training.edge_side import side_input
from dsin.training.losses import ms_ssim_of_each, psnr_db
from dsin.training.phase_runner import PhaseModule, run_phase
from dsin.training.presets import EdgePhase, EdgePreset

VALIDATION_CROP = (320, 1216)
"""Height and width, multiples of 8."""
VALIDATED_RATES = 3
"""Spread over all: each picture is validated at these."""
WARM_UP = 100
"""Steps over which the learning rate rises."""
LEAST_RATE = 0.03
"""Share of the peak that the learning rate falls to."""
GRADIENT_CLIP = 1.0
STRUCTURE = 2400.0
"""Squared errors that 1 - MS-SSIM counts as, so that the multipliers keep their meaning: what makes
both terms alike at middle rates on KITTI."""


class Scores(NamedTuple):
    """Of each picture, (N,): bits per pixel, distortion of x_dec and of x_hat, PSNR of both. The
    last and the third are None without a side image."""

    bpp: Tensor
    d_dec: Tensor
    d_hat: Tensor | None
    psnr_dec: Tensor
    psnr_hat: Tensor | None


class EdgePhaseModule(PhaseModule):
    """One phase of one preset as Lightning sees it."""

    model: EdgeDsin
    phase: EdgePhase
    multipliers: Tensor

    def __init__(
        self, model: EdgeDsin, phase: EdgePhase, pairs: Sequence[Pair], photos: Sequence[Path],
        validation: Sequence[Pair], workers: int,
    ) -> None:  # fmt: skip
        super().__init__(model.to(memory_format=torch.channels_last), phase)  # type: ignore[call-overload]
        self.pairs = pairs
        self.photos = photos
        self.validation = validation
        self.workers = workers
        self.register_buffer("multipliers", multipliers(model.preset), persistent=False)
        trained = model.fusion if phase.freeze_codec else model
        if not phase.side_weight:
            model.fusion.requires_grad_(False)
        self.trained = [p for p in trained.parameters() if p.requires_grad]

    def train_dataloader(self) -> "DataLoader[tuple[Tensor, Tensor]]":
        # The step is in the seed so that a resumed run goes on with other crops.
        seed = (self.model.preset.seed, self.trainer.global_rank, self.global_step)
        batches = EdgeBatches(self.phase, self.pairs, self.photos, seed=seed)
        return DataLoader(
            batches, batch_size=None, num_workers=self.workers,
            persistent_workers=self.workers > 0, pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def validation_loader(self) -> "DataLoader[Any]":
        return DataLoader(CentredPairs(list(self.validation), VALIDATION_CROP))

    def data_notes(self) -> dict[str, Any]:
        return {"pairs": len(self.pairs), "photographs": len(self.photos)}

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        rate = torch.randint(len(self.multipliers), (len(x),), device=x.device)
        coded = self._code(x, rate)
        x_hat = self._fused(coded, y, rate) if len(y) else None
        scores = self.scores(x, coded, x_hat)
        loss = self.loss(scores, rate).mean()
        shown = {"loss": loss, "bpp": scores.bpp.mean(), "psnr_no_side": scores.psnr_dec.mean()}
        self.log_dict(shown, prog_bar=True)
        if scores.psnr_hat is not None:
            self.log("psnr", scores.psnr_hat.mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        x, y = batch
        count = len(self.multipliers)
        for number in range(VALIDATED_RATES):
            index = (2 * number + 1) * count // (2 * VALIDATED_RATES)
            rate = torch.full((len(x),), index, device=x.device)
            coded = self.model.reconstruct(x, rate)
            x_hat = self._fused(coded, y, rate).clamp(0, 255) if self.phase.side_weight else None
            scores = self.scores(x, coded, x_hat)
            shown = {
                "val_loss": self.loss(scores, rate).mean(),
                f"val_bpp_{index}": scores.bpp.mean(),
                f"val_psnr_no_side_{index}": scores.psnr_dec.mean(),
            }
            if scores.psnr_hat is not None:
                shown[f"val_psnr_{index}"] = scores.psnr_hat.mean()
            # Logged once for each rate, val_loss is averaged over them as well.
            self.log_dict(shown, sync_dist=True, batch_size=len(x))

    def _code(self, x: Tensor, rate: Tensor) -> EdgeCoded:
        if not self.phase.freeze_codec:
            return self.model.code(x, rate)
        with torch.no_grad():
            return self.model.reconstruct(x, rate)

    def _fused(self, coded: EdgeCoded, y: Tensor, rate: Tensor) -> Tensor:
        y_dec = self.model.reconstruct(y, rate).x_dec
        side = side_input(coded.x_dec.detach(), y_dec, y, self.model.preset.search)
        x_hat: Tensor = self.model.fusion(coded.x_dec, coded.features, *side, rate)
        return x_hat

    def scores(self, x: Tensor, coded: EdgeCoded, x_hat: Tensor | None) -> Scores:
        """What the loss is made of."""
        bpp = coded.bits / (x.shape[2] * x.shape[3])
        psnr = [
            None if picture is None else psnr_db(x, picture.detach())
            for picture in (coded.x_dec, x_hat)
        ]
        assert psnr[0] is not None
        d_hat = None if x_hat is None else self._distortion(x, x_hat)
        return Scores(bpp, self._distortion(x, coded.x_dec), d_hat, psnr[0], psnr[1])

    def loss(self, scores: Scores, rate: Tensor) -> Tensor:
        """Of each picture, (N,)."""
        share = self.phase.side_weight if scores.d_hat is not None else 0.0
        distortion = (1 - share) * scores.d_dec
        if scores.d_hat is not None:
            distortion = distortion + share * scores.d_hat
        multiplier = self.multipliers[rate]
        weight = (self.multipliers.log().mean().exp() / multiplier).sqrt()
        return weight * (scores.bpp + multiplier * distortion)

    def _distortion(self, x: Tensor, picture: Tensor) -> Tensor:
        if self.phase.distortion == "mse":
            return (x - picture).square().mean((1, 2, 3))
        with torch.autocast(x.device.type, enabled=False):
            return STRUCTURE * (1 - ms_ssim_of_each(x, picture))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.trained, lr=self.phase.learning_rate)
        schedule = {"scheduler": LambdaLR(optimiser, self._schedule), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": schedule}

    def _schedule(self, step: int) -> float:
        """A short rise, then a cosine."""
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.phase.steps)))
        return min(1.0, (step + 1) / WARM_UP) * (LEAST_RATE + (1 - LEAST_RATE) * fall)


def run_edge_phase(
    preset: EdgePreset, phase: EdgePhase, pairs: Sequence[Pair], photos: Sequence[Path],
    validation: Sequence[Pair], out: Path, start_from: Path | None, *, resume: bool, devices: int,
    nodes: int, workers: int,
) -> Path:  # fmt: skip
    """Train one phase; see `dsin.training.phase_runner.run_phase`.

    Weights of other rate points are moved to those of the preset. Raises CheckpointError for a
    phase that trains nothing, or weights of other sizes.
    """
    if phase.freeze_codec and (not phase.side_weight or phase.photo_share):
        raise CheckpointError(
            f"phase {phase.name} freezes the codec: it needs side_weight above 0, photo_share 0"
        )
    if phase.side_weight == 0 and phase.photo_share < 1:
        raise CheckpointError(f"phase {phase.name} has pairs but side_weight 0: set photo_share 1")
    if any(side % MULTIPLE for side in (*phase.crop, *phase.photo_crop)):
        raise CheckpointError(f"phase {phase.name}: crops must be multiples of {MULTIPLE} pixels")
    model, notes = _start(preset, start_from)
    module = EdgePhaseModule(model.train(), phase, pairs, photos, validation, workers)
    average = EMAWeightAveraging(decay=phase.average)
    return run_phase(
        module, out, start_notes=notes, resume=resume, devices=devices, nodes=nodes,
        callbacks=(average,), gradient_clip=GRADIENT_CLIP,
    )  # fmt: skip


def _start(preset: EdgePreset, start_from: Path | None) -> tuple[EdgeDsin, dict[str, Any]]:
    """The model to train, and the notes of its weights."""
    if start_from is None:
        return EdgeDsin(preset), {}
    model, notes = load_edge_checkpoint(start_from)
    if not fits(model, preset):
        raise CheckpointError(f"{start_from} has other sizes than preset {preset.name}")
    return with_preset(model, preset), notes
