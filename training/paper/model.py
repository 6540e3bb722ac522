"""The whole system: autoencoder, context model, side-information finder, fusion network.

    x ─► encoder ─► quantiser ─► symbols ─► context model ─► bits
                        │
                        └─► decoder ─► x_dec ─┬─► finder(x_dec, y_dec, y) ─► y_syn ─┐
    y ─► the same autoencoder, inference mode ─► y_dec                      fusion ─► x_hat

The finder has no weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.model_output import ModelOutput
from dsin.training.paper.autoencoder import STRIDE, Decoder, Encoder, Quantiser
from dsin.training.paper.context_model import ContextModel, bit_cost
from dsin.training.paper.si_finder import Matches, SideInformationFinder
from dsin.training.paper.si_net import FusionNet
from dsin.training.presets import Preset


class Coded(NamedTuple):
    """One image through the autoencoder.

    `q`, `symbols`, `heatmap` and `bits` are (N, C, H/8, W/8), `x_dec` is (N, 3, H, W) in 0..255;
    `bits` is the cross-entropy of each symbol.
    """

    z: Tensor
    heatmap: Tensor
    q: Tensor
    symbols: Tensor
    bits: Tensor
    x_dec: Tensor


class Fused(NamedTuple):
    """What the side image adds: y_dec, y_syn and the unclipped result, (N, 3, H, W)."""

    y_dec: Tensor
    y_syn: Tensor
    matches: Matches
    x_hat: Tensor


class Dsin(nn.Module):
    """All trainable parts of one preset. Images are RGB float32 (N, 3, H, W) in 0..255."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        same = preset.quirks.tf_same_padding
        self.preset = preset
        self.encoder = Encoder(preset.autoencoder, tf_same_padding=same)
        self.quantiser = Quantiser(preset.autoencoder)
        self.decoder = Decoder(preset.autoencoder, tf_same_padding=same)
        self.context = ContextModel(
            preset.context,
            preset.autoencoder.centers,
            relu_on_logits=preset.quirks.relu_on_logits,
        )
        self.finder = SideInformationFinder(
            preset.search, l2_prefers_far=preset.quirks.l2_prefers_far
        )
        self.fusion = FusionNet(preset.fusion)

    @property
    def multiple(self) -> tuple[int, int]:
        """Pictures are padded to multiples of this, (height, width)."""
        rows, columns = self.preset.search.patch
        return math.lcm(STRIDE, rows), math.lcm(STRIDE, columns)

    def forward(self, x: Tensor, y: Tensor | None = None, rate: int = 0) -> ModelOutput:
        """The picture of x, of any size, beside the side image y, or alone, and its bits; there is
        one rate only."""
        height, width = x.shape[2:]
        rows, columns = self.multiple
        margins = 0, -width % columns, 0, -height % rows
        coded = self.code(F.pad(x, margins, mode="replicate"))
        picture = coded.x_dec
        if y is not None:
            picture = self.fuse(picture, F.pad(y, margins, mode="replicate")).x_hat
        return ModelOutput(
            picture[:, :, :height, :width].clamp(0, 255), coded.bits.sum((1, 2, 3))
        )  # fmt: skip

    def code(self, x: Tensor) -> Coded:
        """Encode and decode x without side information."""
        z, heatmap = self.encoder(x)
        z, heatmap = z.float(), heatmap.float()
        q, symbols = self.quantiser(z)
        # The context model learns the symbols as they are: it must not move them.
        logits = self.context(q.detach(), self.quantiser.centers[0])
        bits = bit_cost(logits.float(), symbols)
        return Coded(z, heatmap, q, symbols, bits, self.decoder(q).float())

    @torch.no_grad()
    def reconstruct(self, y: Tensor) -> Tensor:
        """y through the autoencoder as at inference, also while training."""
        with inference_mode_of(self.encoder, self.decoder):
            q, _ = self.quantiser(self.encoder(y).z.float())
            y_dec: Tensor = self.decoder(q).float()
        return y_dec

    def fuse(self, x_dec: Tensor, y: Tensor, y_dec: Tensor | None = None) -> Fused:
        """Search x_dec in y and merge the two. Gradients reach x_dec only through the fusion.

        `y_dec` is `reconstruct(y)`; while training it is to be made before x moves the statistics.
        """
        if y_dec is None:
            y_dec = self.reconstruct(y)
        y_syn, matches = self.finder(x_dec.detach(), y_dec, y)
        return Fused(y_dec, y_syn, matches, self.fusion(x_dec, y_syn).float())


@contextmanager
def inference_mode_of(*modules: nn.Module) -> Iterator[None]:
    """Batch norm on moving statistics within, the former mode of every part after."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode
