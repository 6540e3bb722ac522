"""The causal 3-D context model: P(symbol | symbols before it), channel by channel in raster order.

The latent's channels are the depth of a volume. Four layers of (2, 3, 3) filters see the whole
neighbourhood one channel up, and of the own channel what comes before in raster order:

    depth d-1    depth d, first layer    depth d, other layers
    1 1 1        1 1 1                   1 1 1
    1 1 1        1 . .                   1 1 .
    1 1 1        . . .                   . . .

Four layers see four channels back and four positions around, so a symbol depends only on symbols
with a smaller w + 2h + 4c: whole wavefronts can be decoded at once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.presets import ContextConfig

PADDING = 4
"""Positions that the four layers consume in front (depth) and on each side (height, width)."""


class MaskedConv3d(nn.Conv3d):
    """A (2, 3, 3) convolution without padding whose filter is causal."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__(inputs, outputs, (2, 3, 3))
        mask = torch.ones(1, 1, 2, 3, 3)
        mask[:, :, 1, 1, 1 if first else 2 :] = 0
        mask[:, :, 1, 2] = 0
        self.register_buffer("mask", mask, persistent=False)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias) if self.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight * self.mask, self.bias)


class ContextModel(nn.Module):
    """Logits of every symbol of a latent, given the centre values of those before it."""

    def __init__(
        self, config: ContextConfig, centers: int, *, relu_on_logits: bool = False
    ) -> None:
        super().__init__()
        k = config.features
        self.conv0 = MaskedConv3d(1, k, first=True)
        self.conv1 = MaskedConv3d(k, k, first=False)
        self.conv2 = MaskedConv3d(k, k, first=False)
        self.logits = MaskedConv3d(k, centers, first=False)
        self.relu_on_logits = relu_on_logits

    def forward(self, q: Tensor, pad_value: Tensor) -> Tensor:
        """q (N, C, h, w) of centre values, `pad_value` the first centre: (N, C, h, w, L)."""
        value = pad_value.detach()
        # F.pad takes no tensor as value, so pad the difference with zeros.
        x = F.pad((q - value).unsqueeze(1), (PADDING,) * 4 + (PADDING, 0)) + value
        h = F.relu(self.conv0(x))
        r = self.conv2(F.relu(self.conv1(h)))
        out: Tensor = self.logits(r + h[:, :, 2:, 2:-2, 2:-2])
        if self.relu_on_logits:
            out = F.relu(out)
        return out.permute(0, 2, 3, 4, 1)


def bit_cost(logits: Tensor, symbols: Tensor) -> Tensor:
    """Cross-entropy in bits of each symbol; logits (..., L), symbols (...) int64."""
    nats = F.cross_entropy(logits.flatten(0, -2), symbols.flatten(), reduction="none")
    return nats.view(symbols.shape) / torch.log(torch.tensor(2.0))
