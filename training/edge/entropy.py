"""The entropy model of the `edge` codecs: a hyperprior and two or four parallel context steps.

    y ─► hyper-encoder ─► z ─► round ──► priors by channel and rate ──► bits of z
                                 └─► hyper-decoder ─► h
    step k:  (h, what is decoded so far) ─► mean, scale ─► bits of round(y - mean)

Of four steps each codes a quarter of the channels at every position, so that all see all places
(quadtree partition, Li et al., "Neural Video Compression with Diverse Contexts", CVPR 2023); of
two, half of them in a chequered pattern. The hyperprior is after Ballé et al., ICLR 2018. The
networks are pointwise and depthwise with plain ReLU, small enough to be replaced by exact integers.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.training.edge.codec import Block, RateGain, precise
from dsin.training.presets import EdgeConfig

HYPER_STRIDE = 4
"""Latent positions per position of z, each way."""
SMALLEST, LARGEST = 0.11, 32.0
"""Range of the scales, in quantiser steps."""
LEAST_PROBABILITY = 1e-9


class Entropy(NamedTuple):
    """`y_hat` (N, latent, h, w) in quantiser steps, and bits per image (N,) of y and of z."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class HyperEncoder(nn.Module):
    """y (N, latent, h, w), h and w multiples of 4, to z (N, hyper, h/4, w/4)."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        width = config.hyper_width
        self.stem = nn.Conv2d(config.latent, width, 1)
        self.block0 = Block(width)
        self.down0 = nn.Conv2d(4 * width, width, 1)
        self.block1 = Block(width)
        self.down1 = nn.Conv2d(4 * width, width, 1)
        self.out = nn.Conv2d(width, config.hyper, 1)

    def forward(self, y: Tensor) -> Tensor:
        x = self.block0(self.stem(y))
        x = self.block1(self.down0(F.pixel_unshuffle(x, 2)))
        return precise(self.out, F.relu(self.down1(F.pixel_unshuffle(x, 2))))


class HyperDecoder(nn.Module):
    """Rounded z to features (N, context, 4h, 4w)."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        width = config.context
        self.stem = nn.Conv2d(config.hyper, width, 3, padding=1)
        self.up0 = nn.Conv2d(width, 4 * width, 1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.up1 = nn.Conv2d(width, 4 * width, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.stem(z))
        x = F.relu(F.pixel_shuffle(self.up0(x), 2))
        x = F.relu(self.middle(x))
        return F.relu(F.pixel_shuffle(self.up1(x), 2))


class ContextStep(nn.Module):
    """Hyper features and ŷ so far (0 where not decoded) to mean and raw scale of every symbol."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        width = config.step_width
        self.stem = nn.Conv2d(config.context + config.latent, width, 1)
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, 2 * config.latent, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, hyper: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(torch.cat([hyper, decoded], 1)))
        x = F.relu(self.mix(F.relu(self.depthwise(x))))
        mean, scale = precise(self.out, x).chunk(2, 1)
        return mean, scale


class EntropyModel(nn.Module):
    """Bits of y, and ŷ as the decoder has it."""

    def __init__(self, config: EdgeConfig) -> None:
        super().__init__()
        self.encoder = HyperEncoder(config)
        self.decoder = HyperDecoder(config)
        self.steps = nn.ModuleList(ContextStep(config) for _ in range(config.entropy_steps))
        self.log_z_scale = nn.Parameter(torch.zeros(config.rates, config.hyper))
        self.hyper_gain = RateGain(config.rates, config.context)

    def forward(self, y: Tensor, rate: Tensor) -> Entropy:
        """y (N, latent, h, w), h and w multiples of 4; rate int64 (N,).

        While training, bits are those of uniform noise in place of rounding; ŷ is always rounded,
        with gradients straight through.
        """
        z = self.encoder(y)
        scale = self.log_z_scale[rate].exp().clamp(0.05, 64)[:, :, None, None]
        z_bits = gaussian_bits(self._sample(z), scale).sum((1, 2, 3))
        hyper = self.hyper_gain(self.decoder(straight_through(z)), rate)
        y_hat, y_bits = torch.zeros_like(y), torch.zeros_like(z_bits)
        for step, turn in zip(self.steps, turns(y, len(self.steps)), strict=True):
            mean, raw = step(hyper, y_hat)
            residual = y - mean
            bits = gaussian_bits(self._sample(residual), scale_of(raw))
            y_bits = y_bits + (bits * turn).sum((1, 2, 3))
            y_hat = y_hat + torch.where(turn, straight_through(residual) + mean, 0.0)
        return Entropy(y_hat, y_bits, z_bits)

    def _sample(self, values: Tensor) -> Tensor:
        return values + torch.rand_like(values) - 0.5 if self.training else values.round()


def scale_of(raw: Tensor) -> Tensor:
    """Scale of the Gaussian from a step's output; gradients never vanish at the lower end."""
    log = math.log(SMALLEST) + F.softplus(raw + 2.2)
    return log.clamp(max=math.log(LARGEST)).exp()


def straight_through(values: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    return values + (values.round() - values).detach()


def gaussian_bits(values: Tensor, scale: Tensor) -> Tensor:
    """Bits of integers (or of values with uniform noise) under a rounded Gaussian of mean 0."""
    size = values.abs()
    upper = torch.special.ndtr((0.5 - size) / scale)
    lower = torch.special.ndtr((-0.5 - size) / scale)
    return -torch.log2((upper - lower).clamp_min(LEAST_PROBABILITY))


def turns(y: Tensor, steps: int) -> list[Tensor]:
    """For each of two or four steps, which symbols of y (N, channels, h, w) it codes: bool
    (1, channels, h, w).

    At the places of a 2×2 square the turns of the first half of the channels are 0 1 and, below,
    1 0; of the first quarter they are 0 2 and 3 1. Computed, since a table would have to come from
    the host.
    """
    _, channels, height, width = y.shape
    rows, cols = (torch.arange(length, device=y.device) % 2 for length in (height, width))
    place = rows[:, None] ^ cols
    if steps == 4:
        place = 2 * place + rows[:, None]
    group = torch.arange(channels, device=y.device) * steps // channels
    turn = place[None] ^ group[:, None, None]
    return [(turn == step)[None] for step in range(steps)]
