"""The `edge` system: one codec for all rates, and the fusion with what the search finds.

x, rate ─► encoder ─► entropy model ─► ŷ ─► decoder ─► x_dec, features ─┐
                                  y ─► search ─► what it shows of x_dec ─┴─► fusion ─► x_hat

The search by blocks alone (not by flow) needs y_dec too, y encoded and decoded like x.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.edge.codec import STRIDE, EdgeDecoder, EdgeEncoder
from dsin.training.edge.entropy import HYPER_STRIDE, EntropyModel
from dsin.training.edge.fusion import EdgeFusion
from dsin.training.edge.side import SideInput, flow_input, side_input
from dsin.training.model_output import ModelOutput
from dsin.training.presets import EdgePreset

MULTIPLE = STRIDE * HYPER_STRIDE
"""Pictures are padded to multiples of this, each way."""


class EdgeCoded(NamedTuple):
    """x_dec (N, 3, H, W), unclipped; features (N, fine, H/8, W/8); bits of each picture (N,)."""

    x_dec: Tensor
    features: Tensor
    bits: Tensor


class EdgeDsin(nn.Module):
    """All trainable parts of one preset. Images are RGB float32 (N, 3, H, W) in 0..255, with sides
    that are multiples of MULTIPLE; rates int64 (N,)."""

    def __init__(self, preset: EdgePreset) -> None:
        super().__init__()
        self.preset = preset
        self.encoder = EdgeEncoder(preset.codec)
        self.entropy = EntropyModel(preset.codec)
        self.decoder = EdgeDecoder(preset.codec)
        self.fusion = EdgeFusion(preset.codec, preset.search.flow)

    def forward(self, x: Tensor, y: Tensor | None = None, rate: int = 0) -> ModelOutput:
        """The picture of x, of any size, beside the side image y, or alone, and its bits; `rate`
        counts from 0, the lowest. That y shows the scene is taken for granted, which the runtime
        does not do (see `dsin.runtime.codec.side_fusion`)."""
        height, width = x.shape[2:]
        index = torch.full((len(x),), rate, device=x.device)
        x, y = _whole(x), None if y is None else _whole(y)
        coded = self.code(x, index)
        picture = coded.x_dec
        if y is not None:
            side = self.side_input(picture.detach(), y, index)
            picture = self.fusion(picture, coded.features, *side, index)
        return ModelOutput(picture[:, :, :height, :width].clamp(0, 255), coded.bits)

    def code(self, x: Tensor, rate: Tensor) -> EdgeCoded:
        """Encode and decode x without side information."""
        entropy = self.entropy(self.encoder(x, rate), rate)
        x_dec, features = self.decoder(entropy.y_hat, rate)
        return EdgeCoded(x_dec, features, entropy.y_bits + entropy.z_bits)

    @torch.no_grad()
    def side_input(self, x_dec: Tensor, y: Tensor, rate: Tensor) -> SideInput:
        """What the fusion sees of y, found by the preset's search; arguments as `fusion`'s."""
        search = self.preset.search
        if search.flow:
            return flow_input(x_dec, y, search)
        return side_input(x_dec, self.reconstruct(y, rate).x_dec, y, search)

    @torch.no_grad()
    def reconstruct(self, image: Tensor, rate: Tensor) -> EdgeCoded:
        """As at inference, for images of any size (the features to whole blocks), also while
        training."""
        mode, (height, width) = self.training, image.shape[2:]
        self.eval()
        try:
            coded = self.code(_whole(image), rate)
        finally:
            self.train(mode)
        features = coded.features[:, :, : -(-height // 8), : -(-width // 8)]
        return EdgeCoded(coded.x_dec[:, :, :height, :width].clamp(0, 255), features, coded.bits)


def _whole(image: Tensor) -> Tensor:
    """Its last row and column repeated until both sides are multiples."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
