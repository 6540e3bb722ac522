"""The analysis and synthesis transforms of the `edge` codecs: everything at 1/8 and 1/16 size.

    x ─ space to depth 8 ─► stages at 1/8 ─► space to depth 2 ─► stages at 1/16 ─► y
    x_dec ◄─ depth to space 8 ─ stages at 1/8 ◄─ depth to space 2 ─ stages at 1/16 ◄─ ŷ

Low resolution and few, plain operators (pointwise and depthwise convolutions, ReLU) are what makes
a codec fast on small chips (after DCVC-RT, Jia et al., CVPR 2025). One set of weights serves all
rates: each rate index has its own gains on features and its own quantisation steps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.presets import EdgeConfig

PIXELS = 8
"""Side in pixels of what one position of the first stage sees."""
STRIDE = 16
"""Pixels per latent position, each way."""
CENTRE, SPREAD = 127.5, 64.0
"""Grey levels that the networks see as 0, and as 1 above it."""


class Block(nn.Module):
    """Two residual branches: pointwise-depthwise-pointwise, and a pointwise pair."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(features, features, 1)
        self.depthwise = nn.Conv2d(features, features, 3, padding=1, groups=features)
        self.outer = nn.Conv2d(features, features, 1)
        self.expand = nn.Conv2d(features, 2 * features, 1)
        self.shrink = nn.Conv2d(2 * features, features, 1)
        for last in (self.outer, self.shrink):
            nn.init.normal_(last.weight, std=0.3 / math.sqrt(last.in_channels))
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.outer(self.depthwise(F.relu(self.inner(x))))
        out: Tensor = x + self.shrink(F.relu(self.expand(x)))
        return out


def blocks(count: int, features: int) -> nn.Sequential:
    return nn.Sequential(*(Block(features) for _ in range(count)))


class RateGain(nn.Module):
    """One learned factor per rate and feature."""

    def __init__(self, rates: int, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(rates, features))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x (N, features, h, w), rate int64 (N,)."""
        return x * self.factor[rate][:, :, None, None]


def precise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A layer in float32, also under autocast: latents are large, and their rounding matters."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = conv(x.float())
    return out


class EdgeEncoder(nn.Module):
    """RGB (N, 3, H, W) in 0..255 and rate (N,) to y (N, latent, H/16, W/16), in quantiser steps."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        fine, coarse = config.fine, config.coarse
        self.stem = nn.Conv2d(3 * PIXELS**2, fine, 1)
        self.fine = blocks(config.encoder_blocks[0], fine)
        self.fine_gain = RateGain(config.rates, fine)
        self.down = nn.Conv2d(4 * fine, coarse, 1)
        self.coarse_gain = RateGain(config.rates, coarse)
        self.coarse = blocks(config.encoder_blocks[1], coarse)
        self.out = nn.Conv2d(coarse, config.latent, 1)
        self.log_steps = nn.Parameter(_spread(config, 1))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle((x - CENTRE) / SPREAD, PIXELS))
        x = self.fine_gain(self.fine(x), rate)
        x = self.coarse_gain(self.down(F.pixel_unshuffle(x, 2)), rate)
        y = precise(self.out, self.coarse(x))
        return y * self.log_steps[rate].exp()[:, :, None, None]


class EdgeDecoder(nn.Module):
    """ŷ and rate to x_dec (N, 3, H, W), unclipped, and features (N, fine, H/8, W/8) before it."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        fine, coarse = config.fine, config.coarse
        self.log_steps = nn.Parameter(_spread(config, -1))
        self.stem = nn.Conv2d(config.latent, coarse, 1)
        self.coarse_gain = RateGain(config.rates, coarse)
        self.coarse = blocks(config.decoder_blocks[1], coarse)
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.fine_gain = RateGain(config.rates, fine)
        self.fine = blocks(config.decoder_blocks[0], fine)
        kernel = config.out_kernel
        self.out = nn.Conv2d(fine, 3 * PIXELS**2, kernel, padding=kernel // 2)

    def forward(self, y_hat: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        x = precise(self.stem, y_hat * self.log_steps[rate].exp()[:, :, None, None])
        x = self.coarse(self.coarse_gain(x, rate))
        x = self.fine_gain(F.pixel_shuffle(self.up(x), 2), rate)
        features = self.fine(x)
        return F.pixel_shuffle(self.out(features).float(), PIXELS) * SPREAD + CENTRE, features


def _spread(config: EdgeConfig, sign: int) -> Tensor:
    """Initial logarithms of the steps: coarse at the lowest rate, fine at the highest."""
    ladder = torch.linspace(math.log(0.7), math.log(4.0), config.rates)
    return sign * ladder[:, None].repeat(1, config.latent)
