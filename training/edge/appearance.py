"""What the look `sharp` is trained by: right where it can be, and nowhere smoother than the scene.

Squared error alone makes the mean of all pictures that fit, and the mean of textures is flat. So
the strength of the detail counts as well, wherever it lies exactly: the standard deviation, over
8×8 pixels, of what a small blur takes away, at three scales.

    SQUARES · squared error + STRUCTURES · STRUCTURE · (1 - MS-SSIM) + TEXTURES · texture error
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dsin.training.losses import ms_ssim_of_each

STRUCTURE = 2400.0
"""Squared errors that 1 - MS-SSIM counts as, so that multipliers keep their meaning: what makes
both terms alike at middle rates on KITTI."""
SQUARES, STRUCTURES, TEXTURES = 0.5, 0.5, 1.5
SCALES = 3
WINDOW, HOP = 8, 4
"""Pixels over which detail is measured, and from one measure to the next."""
FAINT = 1.0
"""Variance added to all, so that flat places have a gradient."""


def appearance_error_of_each(x: Tensor, picture: Tensor) -> Tensor:
    """Of each picture, (N,), in squared grey levels. Pictures are (N, 3, H, W) in 0..255; raises
    FrameError where a side is under 161 pixels, which MS-SSIM needs."""
    squares = (x - picture).square().mean((1, 2, 3))
    structure = STRUCTURE * (1 - ms_ssim_of_each(x, picture))
    return SQUARES * squares + STRUCTURES * structure + TEXTURES * texture_error_of_each(x, picture)


def texture_error_of_each(x: Tensor, picture: Tensor) -> Tensor:
    """Mean squared difference between the strengths of detail, (N,), in squared grey levels, of
    pictures (N, 3, H, W)."""
    total = x.new_zeros(len(x))
    for _ in range(SCALES):
        total = total + (_strength(x) - _strength(picture)).square().mean((1, 2, 3))
        x, picture = F.avg_pool2d(x, 2), F.avg_pool2d(picture, 2)
    return total / SCALES


def _strength(image: Tensor) -> Tensor:
    """Standard deviations of the detail, (N, 3, h, w)."""
    blurred = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    energy = F.avg_pool2d((image - blurred).square(), WINDOW, HOP)
    return torch.sqrt(energy + FAINT)
