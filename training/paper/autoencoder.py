"""The autoencoder: x ─► encoder ─► z ─► quantiser ─► q ─► decoder ─► x_dec, all at stride 8.

After Mentzer et al., "Conditional Probability Models for Deep Image Compression" (CVPR 2018),
sections 3.1 to 3.3, which DSIN takes over.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.presets import AutoencoderConfig

MEAN = (93.70454143384742, 98.28243432206516, 94.84678088809876)
"""Mean of KITTI's R, G and B, 0..255."""
VARIANCE = (5411.79935676, 5758.60456747, 5890.31451232)
"""Variance of KITTI's R, G and B."""
STRIDE = 8
"""Pixels per latent position, each way."""


class Normalise(nn.Module):
    """RGB in 0..255 to about zero mean and unit variance, and back with `inverse`."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        std = (torch.tensor(VARIANCE) + 1e-10).sqrt()
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


def batch_norm(features: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(features, eps=1e-5, momentum=0.1)


class Down(nn.Module):
    """5×5 convolution of stride 2 with batch norm; even sizes are halved exactly."""

    def __init__(self, inputs: int, outputs: int, *, relu: bool, tf_same_padding: bool) -> None:
        super().__init__()
        self.tf_same_padding = tf_same_padding
        self.conv = nn.Conv2d(
            inputs, outputs, 5, stride=2, padding=0 if tf_same_padding else 2, bias=False
        )
        self.norm = batch_norm(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if self.tf_same_padding:
            x = F.pad(x, (1, 2, 1, 2))
        x = self.norm(self.conv(x))
        return F.relu(x) if self.relu else x


class Up(nn.Module):
    """Transposed convolution of stride 2 with batch norm; sizes are doubled exactly."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, relu: bool, tf_same_padding: bool
    ) -> None:
        super().__init__()
        self.tf_same_padding = tf_same_padding
        half = (kernel - 1) // 2
        padding, extra = (half - 1, 0) if tf_same_padding else (half, 1)
        self.conv = nn.ConvTranspose2d(
            inputs, outputs, kernel, stride=2, padding=padding, output_padding=extra, bias=False
        )
        self.norm = batch_norm(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.tf_same_padding:
            x = x[:, :, :-1, :-1]
        x = self.norm(x)
        return F.relu(x) if self.relu else x


class ResidualBlock(nn.Module):
    """x + BN(conv(ReLU(BN(conv x)))), without a ReLU after the addition."""

    def __init__(self, features: int, *, inner_relu: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm1 = batch_norm(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.norm2 = batch_norm(features)
        self.inner_relu = inner_relu

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x))
        if self.inner_relu:
            h = F.relu(h)
        return torch.add(x, self.norm2(self.conv2(h)))


class Trunk(nn.Module):
    """Groups of three residual blocks, each group with a skip, and one skip over all of it."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.groups = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(features) for _ in range(3))) for _ in range(blocks)
        )
        self.final = ResidualBlock(features, inner_relu=False)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for group in self.groups:
            h = h + group(h)
        return torch.add(self.final(h), x)


class Latent(NamedTuple):
    """What the encoder yields: both (N, channels, H/8, W/8); the heatmap is in 0..1."""

    z: Tensor
    heatmap: Tensor


class Encoder(nn.Module):
    """RGB (N, 3, H, W) in 0..255, H and W multiples of 8, to the masked latent."""

    def __init__(self, config: AutoencoderConfig, *, tf_same_padding: bool = False) -> None:
        super().__init__()
        n = config.features
        self.channels = config.channels
        self.importance_map = config.importance_map
        self.normalise = Normalise()
        self.h1 = Down(3, n // 2, relu=True, tf_same_padding=tf_same_padding)
        self.h2 = Down(n // 2, n, relu=True, tf_same_padding=tf_same_padding)
        self.trunk = Trunk(n, config.blocks)
        outputs = config.channels + int(config.importance_map)
        self.to_bn = Down(n, outputs, relu=False, tf_same_padding=tf_same_padding)
        if config.importance_map:
            nn.init.constant_(self.to_bn.norm.bias[:1], config.importance_start)

    def forward(self, x: Tensor) -> Latent:
        h = self.to_bn(self.trunk(self.h2(self.h1(self.normalise(x)))))
        if not self.importance_map:
            return Latent(h, torch.ones_like(h))
        heatmap = self._heatmap(h[:, :1])
        return Latent(heatmap * h[:, 1:], heatmap)

    def _heatmap(self, logit: Tensor) -> Tensor:
        """How much of each channel a position keeps: channel c opens as the map passes c."""
        level = self.channels * torch.sigmoid(logit)
        index = torch.arange(self.channels, dtype=level.dtype, device=level.device)
        return (level - index.view(1, -1, 1, 1)).clamp(0, 1)


class Quantised(NamedTuple):
    """`q` carries the gradient of the soft assignment; `symbols` are indices of centres."""

    q: Tensor
    symbols: Tensor


class Quantiser(nn.Module):
    """Nearest of L learned centres; soft assignment in the backward pass (section 3.2 there)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        # Spread evenly: drawn at random, as in the original, they can all fall on one side.
        start = torch.linspace(*config.centers_range, config.centers)
        self.centers = nn.Parameter(start)

    def forward(self, z: Tensor) -> Quantised:
        """z of any shape; symbols are int64 of the same shape. A tie takes the lowest index."""
        distance = (z.unsqueeze(-1) - self.centers).square()
        symbols = distance.argmin(-1)
        soft = (torch.softmax(-distance, -1) * self.centers).sum(-1)
        return Quantised(soft + (self.centers[symbols] - soft).detach(), symbols)


class Decoder(nn.Module):
    """Quantised latent (N, channels, h, w) to RGB (N, 3, 8h, 8w), clipped to 0..255."""

    def __init__(self, config: AutoencoderConfig, *, tf_same_padding: bool = False) -> None:
        super().__init__()
        n = config.features
        same = tf_same_padding
        self.from_bn = Up(config.channels, n, 3, relu=True, tf_same_padding=same)
        self.trunk = Trunk(n, config.blocks)
        self.h12 = Up(n, n // 2, 5, relu=True, tf_same_padding=same)
        self.h13 = Up(n // 2, 3, 5, relu=False, tf_same_padding=same)
        self.normalise = Normalise()

    def forward(self, q: Tensor) -> Tensor:
        h = self.h13(self.h12(self.trunk(self.from_bn(q))))
        return self.normalise.inverse(h).clamp(0, 255)
