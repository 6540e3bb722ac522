"""Loss terms of the paper's section 3.3, as the original computes them.

    loss = (1 - si_weight)·d(x, x_dec) + si_weight·d(x, x_hat) + β·max(H - H_target, 0) + L2

H is the mean of the cross-entropy per symbol and the same weighted by the heatmap; only the second
reaches the encoder. H_target is the rate target in bits per pixel times pixels per symbol.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dsin.runtime.errors import FrameError
from dsin.training.paper.autoencoder import STRIDE
from dsin.training.paper.model import Coded, Dsin
from dsin.training.presets import LossConfig, Preset

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
MIN_MS_SSIM_SIDE = 161
"""Shortest side in pixels that still has a whole window at the fifth scale."""


class Loss(NamedTuple):
    """Scalars; `total` is what is minimised."""

    total: Tensor
    x_dec: Tensor
    x_hat: Tensor
    rate: Tensor
    regularisation: Tensor
    entropy_real: Tensor
    entropy_masked: Tensor
    bpp: Tensor


def distortion(kind: str, x: Tensor, reconstruction: Tensor) -> Tensor:
    """How far a reconstruction (N, 3, H, W), 0..255, is from x; smaller is better.

    PSNR and MS-SSIM are turned round: 100 - dB, and 100·(1 - MS-SSIM).
    """
    if kind == "mae":
        return (x - reconstruction).abs().mean()
    if kind == "mse":
        return (x - reconstruction).square().mean()
    if kind == "psnr":
        return 100 - psnr_db(x, reconstruction).mean()
    return 100 * (1 - ms_ssim(x, reconstruction))


def psnr_db(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, (N,), peak 255."""
    mse = (x - reconstruction).square().mean((1, 2, 3)).clamp_min(1e-10)
    return 10 * torch.log10(255**2 / mse)


def ms_ssim(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean MS-SSIM over the batch, (N, 3, H, W) in 0..255; see `ms_ssim_of_each`."""
    return ms_ssim_of_each(x, reconstruction).mean()


def ms_ssim_of_each(x: Tensor, reconstruction: Tensor) -> Tensor:
    """MS-SSIM of each picture, (N,), of (N, 3, H, W) in 0..255.

    Wang, Simoncelli and Bovik, "Multi-scale structural similarity" (2003): five scales, Gaussian
    window of 11 pixels and sigma 1.5 without padding, each channel by itself. Raises FrameError
    where a side is under 161 pixels.
    """
    if min(x.shape[2:]) < MIN_MS_SSIM_SIDE:
        size = "x".join(map(str, x.shape[2:]))
        raise FrameError(f"MS-SSIM needs pictures of {MIN_MS_SSIM_SIDE} pixels a side, not {size}")
    product = x.new_ones(())
    for scale, weight in enumerate(SCALE_WEIGHTS):
        contrast, whole = _ssim(x, reconstruction)
        last = scale == len(SCALE_WEIGHTS) - 1
        product = product * (whole if last else contrast).relu() ** weight
        x, reconstruction = _halved(x), _halved(reconstruction)
    return product.expand(x.shape[:2]).mean(1)


def _ssim(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast times structure, and that times luminance: means over positions, (N, 3)."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    contrast = (2 * (_blurred(x * y) - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return contrast.mean((2, 3)), (contrast * luminance).mean((2, 3))


def _blurred(image: Tensor) -> Tensor:
    channels = image.shape[1]
    offset = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.softmax(-offset.square() / (2 * 1.5**2), 0).expand(channels, 1, 1, WINDOW)
    down = F.conv2d(image, window.mT, groups=channels)
    return F.conv2d(down, window, groups=channels)


def _halved(image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    return F.avg_pool2d(image, 2, padding=(height % 2, width % 2))


def bits_per_pixel(coded: Coded) -> Tensor:
    """Estimated rate: cross-entropy over pixels."""
    pixels = coded.x_dec.shape[0] * coded.x_dec.shape[2] * coded.x_dec.shape[3]
    return coded.bits.sum() / pixels


def regularisation(model: Dsin, config: LossConfig) -> Tensor:
    """L2 of the autoencoder's kernels and of the centres, each times its factor over two."""
    kernels = [p for m in (model.encoder, model.decoder) for p in m.parameters() if p.dim() == 4]
    autoencoder = torch.stack([k.square().sum() for k in kernels]).sum()
    centers = model.quantiser.centers.square().sum()
    return 0.5 * (config.regularise_autoencoder * autoencoder + config.regularise_centers * centers)


def loss_of(model: Dsin, preset: Preset, x: Tensor, coded: Coded, x_hat: Tensor | None) -> Loss:
    """The loss of one batch; without `x_hat` (AE only) x_dec carries the whole distortion."""
    config = preset.loss
    zero = x.new_zeros(())
    si_weight = 0.0 if x_hat is None else config.si_weight
    d_dec = distortion(config.distortion, x, coded.x_dec)
    d_hat = zero if x_hat is None else distortion(config.distortion, x, x_hat)
    real = coded.bits.mean()
    masked = (coded.bits * coded.heatmap).mean()
    pixels_per_symbol = STRIDE**2 / preset.autoencoder.channels
    target = config.rate_target * pixels_per_symbol
    rate = config.beta * (0.5 * (real + masked) - target).clamp_min(0)
    dropped = preset.quirks.regularisers_dropped
    l2 = zero if dropped else regularisation(model, config)
    total = (1 - si_weight) * d_dec + si_weight * d_hat + rate + l2
    return Loss(total, d_dec, d_hat, rate, l2, real, masked, bits_per_pixel(coded))
