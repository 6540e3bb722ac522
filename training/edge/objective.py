"""What training the `edge` model minimises, and what it is validated by.

    loss of a picture at rate r = sqrt(m / multiplier(r)) · (bpp + multiplier(r) · distortion)

m is the geometric mean of the multipliers: so low rates weigh as much as high ones. Each picture of
a batch has a rate of its own, drawn at random. With a side image the distortion is that of x_hat
with weight `side_weight`, and that of x_dec with the rest.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsin.training.edge.appearance import STRUCTURE, appearance_error_of_each
from dsin.training.edge.model import EdgeCoded, EdgeDsin
from dsin.training.edge.rates import multipliers
from dsin.training.losses import ms_ssim_of_each, psnr_db
from dsin.training.presets import EdgePhase

VALIDATED_RATES = 3
"""Spread over all: each picture is validated at these."""
SHOWN = ("loss", "bpp", "psnr_no_side", "psnr")
"""What a step tells of its batch, in this order; the last one for batches with side images only."""


class Scores(NamedTuple):
    """Of each picture, (N,): bits per pixel, distortion of x_dec and of x_hat, PSNR of both. The
    last and the third are None without a side image."""

    bpp: Tensor
    d_dec: Tensor
    d_hat: Tensor | None
    psnr_dec: Tensor
    psnr_hat: Tensor | None


class EdgeObjective(nn.Module):
    """The model of one phase with its loss. Under autocast where the phase says so."""

    multipliers: Tensor

    def __init__(self, model: EdgeDsin, phase: EdgePhase) -> None:
        super().__init__()
        self.model = model
        self.phase = phase
        self.register_buffer("multipliers", multipliers(model.preset), persistent=False)

    def forward(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of one batch, and its SHOWN figures, float32, without gradients. x and y are
        (N, 3, H, W) in 0..255; the rates are drawn here."""
        rate = torch.randint(len(self.multipliers), (len(x),), device=x.device)
        with self._precision(x):
            coded = self._code(x, rate)
            x_hat = None if y is None else self._fused(coded, y, rate)
            scores = self.scores(x, coded, x_hat)
            loss = self.loss(scores, rate).mean()
        shown = [loss.detach(), scores.bpp.detach().mean(), scores.psnr_dec.mean()]
        if scores.psnr_hat is not None:
            shown.append(scores.psnr_hat.mean())
        return loss, torch.stack(shown).float()

    @torch.no_grad()
    def validate(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Scores of one batch at VALIDATED_RATES, with real rounding; `val_loss` is their mean."""
        count, shown, losses = len(self.multipliers), {}, []
        for number in range(VALIDATED_RATES):
            index = (2 * number + 1) * count // (2 * VALIDATED_RATES)
            rate = torch.full((len(x),), index, device=x.device)
            with self._precision(x):
                coded = self.model.reconstruct(x, rate)
                with_side = self.phase.side_weight > 0
                x_hat = self._fused(coded, y, rate).clamp(0, 255) if with_side else None
                scores = self.scores(x, coded, x_hat)
                losses.append(self.loss(scores, rate).mean())
            shown[f"val_bpp_{index}"] = scores.bpp.mean()
            shown[f"val_psnr_no_side_{index}"] = scores.psnr_dec.mean()
            if scores.psnr_hat is not None:
                shown[f"val_psnr_{index}"] = scores.psnr_hat.mean()
        return {"val_loss": torch.stack(losses).mean(), **shown}

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

    def _code(self, x: Tensor, rate: Tensor) -> EdgeCoded:
        if not self.phase.freeze_codec:
            return self.model.code(x, rate)
        with torch.no_grad():
            return self.model.reconstruct(x, rate)

    def _fused(self, coded: EdgeCoded, y: Tensor, rate: Tensor) -> Tensor:
        side = self.model.side_input(coded.x_dec.detach(), y, rate)
        x_hat: Tensor = self.model.fusion(coded.x_dec, coded.features, *side, rate)
        return x_hat

    def _distortion(self, x: Tensor, picture: Tensor) -> Tensor:
        if self.phase.distortion == "mse":
            return (x - picture).square().mean((1, 2, 3))
        with torch.autocast(x.device.type, enabled=False):
            if self.phase.distortion == "appearance":
                return appearance_error_of_each(x, picture.float())
            return STRUCTURE * (1 - ms_ssim_of_each(x, picture))

    def _precision(self, x: Tensor) -> torch.autocast:
        mixed = self.phase.precision == "bf16-mixed"
        return torch.autocast(x.device.type, torch.bfloat16, enabled=mixed)
