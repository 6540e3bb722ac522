"""Side images as the field has them: darker, blurred, misaligned, noisy, or of another place.

The fusion learns from them to take from a side image only what helps. All of a batch is altered at
once, on the device that it lies on, each picture in its own way and by numbers drawn there, so that
nothing waits for the host.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

UNALTERED = 0.5
"""Share of side images that stay as they are."""
EXPOSURE = (0.6, 1.4)
OFFSET = 10.0
"""Grey levels."""
BLUR = (0.4, 2.5)
"""Standard deviations in pixels."""
ROWS = 5.0
"""Pixels up or down."""
ZOOM, TURN = 0.04, 0.7
"""Relative size, and degrees."""
NOISE = (2.0, 8.0)
"""Standard deviations in grey levels."""
EXPOSED, BLURRED, SHIFTED, ZOOMED, NOISY, FOREIGN = range(6)
"""The ways of altering, each as likely as the others."""
_RADIUS = 8
"""Of the widest blur, in pixels: three standard deviations."""


class Alterations(NamedTuple):
    """What happens to each picture of a batch, (N,): most have one of these and leave the others
    neutral. `foreign` (bool): the picture is exchanged for one of another place."""

    gain: Tensor
    offset: Tensor
    blur: Tensor
    rows: Tensor
    zoom: Tensor
    turn: Tensor
    noise: Tensor
    foreign: Tensor


def draw_alterations(count: int, device: torch.device) -> Alterations:
    """At random, for `count` pictures."""
    chance, choice, first, second = torch.rand(4, count, device=device)
    kind = torch.where(chance < UNALTERED, -1, (choice * (FOREIGN + 1)).long())
    return alterations_of(kind, first, second)


def alterations_of(kind: Tensor, first: Tensor, second: Tensor) -> Alterations:
    """The alteration of each kind (int64 (N,), -1 for none) that two numbers in 0..1 choose."""

    def chosen(which: int, share: Tensor, low: float, high: float, neutral: float) -> Tensor:
        return torch.where(kind == which, low + (high - low) * share, neutral)

    return Alterations(
        gain=chosen(EXPOSED, first, *EXPOSURE, neutral=1.0),
        offset=chosen(EXPOSED, second, -OFFSET, OFFSET, 0.0),
        blur=chosen(BLURRED, first, *BLUR, neutral=0.0),
        rows=chosen(SHIFTED, first, -ROWS, ROWS, 0.0),
        zoom=chosen(ZOOMED, first, 1 - ZOOM, 1 + ZOOM, 1.0),
        turn=chosen(ZOOMED, second, -TURN, TURN, 0.0),
        noise=chosen(NOISY, first, *NOISE, neutral=0.0),
        foreign=kind == FOREIGN,
    )


def altered(y: Tensor, alterations: Alterations) -> Tensor:
    """y, float32 (N, 3, H, W) of whole grey levels in 0..255, as another camera or another moment
    might have it, again in whole levels. Foreign pictures are exchanged by the caller."""
    a = alterations
    moved = _each((a.rows != 0) | (a.zoom != 1) | (a.turn != 0))
    y = torch.where(moved, _moved(y, a.rows, a.zoom, a.turn), y)
    y = torch.where(_each(a.blur > 0), _blurred(y, a.blur), y)
    y = y * _each(a.gain) + _each(a.offset) + _each(a.noise) * torch.randn_like(y)
    return y.round().clamp(0, 255)


def _moved(y: Tensor, rows: Tensor, zoom: Tensor, turn: Tensor) -> Tensor:
    """Turned by degrees and zoomed about the centre, then moved down; mirrored at the edges."""
    _, _, height, width = y.shape
    angle = turn * (torch.pi / 180)
    along, across = _row(torch.cos(angle) / zoom), _row(torch.sin(angle) / zoom)
    down = torch.arange(height, device=y.device)[:, None] - _row(rows) - height / 2
    right = torch.arange(width, device=y.device) - width / 2
    source_x = along * right - across * down + (width / 2 + 0.5)
    source_y = across * right + along * down + (height / 2 + 0.5)
    # 0.5 of a pixel is the middle of the first one, and -1 its outer edge.
    grid = torch.stack([2 * source_x / width - 1, 2 * source_y / height - 1], -1)
    return F.grid_sample(y, grid, padding_mode="reflection", align_corners=False)


def _blurred(y: Tensor, blur: Tensor) -> Tensor:
    """A Gaussian of its own for each picture, cut off at three standard deviations."""
    count, colours, _, width = y.shape
    offset = torch.arange(-_RADIUS, _RADIUS + 1, device=y.device)
    reach = ((6 * blur + 1).round() / 2).floor()
    wanted = -offset.square() / (2 * blur.clamp_min(0.1)[:, None].square())
    window = torch.softmax(wanted.masked_fill(offset.abs() > reach[:, None], -torch.inf), 1)
    window = window.repeat_interleave(colours, 0)[:, None, None]
    planes = F.pad(y, 4 * (_RADIUS,), mode="reflect")
    planes = planes.reshape(1, count * colours, -1, width + 2 * _RADIUS)
    planes = F.conv2d(planes, window, groups=count * colours)
    planes = F.conv2d(planes, window.mT, groups=count * colours)
    return planes.reshape(y.shape)


def _each(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _row(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1)."""
    return values[:, None, None]
