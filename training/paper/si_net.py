"""The fusion network: (x_dec, y_syn) ─► the final picture (paper, section 3.2, "siNet")."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.paper.autoencoder import Normalise
from dsin.training.presets import FusionConfig


class FusionNet(nn.Module):
    """Dilated 3×3 convolutions that start as the identity, then 1×1 to RGB.

    Takes and yields RGB (N, 3, H, W) around 0..255; the result is not clipped.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.normalise = Normalise()
        inputs = [6] + [config.features] * (len(config.dilations) - 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, config.features, 3, dilation=d, padding=d)
            for i, d in zip(inputs, config.dilations, strict=True)
        )
        self.last = nn.Conv2d(config.features, 3, 1)
        for conv in self.convs:
            _identity(conv)
        nn.init.xavier_uniform_(self.last.weight)
        nn.init.zeros_(self.last.bias) if self.last.bias is not None else None

    def forward(self, x_dec: Tensor, y_syn: Tensor) -> Tensor:
        h = torch.cat([self.normalise(x_dec), self.normalise(y_syn)], 1)
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
        return self.normalise.inverse(self.last(h))


def _identity(conv: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    with torch.no_grad():
        for i in range(min(conv.in_channels, conv.out_channels)):
            conv.weight[i, i, 1, 1] = 1.0
