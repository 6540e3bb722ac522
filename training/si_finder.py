"""The side-information finder in PyTorch: brute force over all positions, on CPU or GPU.

Section 3.2 of the paper: every non-overlapping patch of x_dec is correlated with every position of
y_dec, weighted by a Gaussian prior around its own place, and the best match is taken from y. This
is the differentiation-free reference for training on any device; `dsin.runtime.patch_correlation`
finds the same positions faster on a CPU.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.runtime.patch_correlation import MEAN, STD
from dsin.training.presets import Quirks, SearchConfig

PRIOR_WIDTH = 0.5
"""Full width at half maximum of the prior, as a fraction of the image."""
ROWS_AT_ONCE = 1
"""Patch rows whose correlation maps are in memory together."""


class Matches(NamedTuple):
    """Best positions, int64 (N, patch rows, patch columns), and their scores in float32."""

    row: Tensor
    col: Tensor
    score: Tensor


class SideInformationFinder(nn.Module):
    """Builds y_syn, the picture made of the pieces of y that look like the pieces of x_dec."""

    def __init__(self, config: SearchConfig, quirks: Quirks) -> None:
        super().__init__()
        self.config = config
        self.quirks = quirks

    @torch.no_grad()
    def forward(self, x_dec: Tensor, y_dec: Tensor, y: Tensor) -> tuple[Tensor, Matches]:
        """RGB (N, 3, H, W) in 0..255, H and W multiples of the patch; y_syn likewise."""
        matches = self.match(x_dec, y_dec)
        return gather(y, matches, self.config.patch, stretched=self.quirks.stretched_patches), (
            matches
        )

    @torch.no_grad()
    def match(self, x_dec: Tensor, y_dec: Tensor) -> Matches:
        """The best position of every patch; ties go to the first in raster order."""
        results = [self._match_one(x, y) for x, y in zip(x_dec.float(), y_dec.float(), strict=True)]
        return Matches(*(torch.stack(parts) for parts in zip(*results, strict=True)))

    def _match_one(self, x_dec: Tensor, y_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = x_dec.shape[1:]
        ph, pw = self.config.patch
        if self.config.measure == "pearson":
            x, y = to_h_space(x_dec[None]), to_h_space(y_dec[None])
        else:
            x, y = rgb_to_lab(x_dec[None]), rgb_to_lab(y_dec[None])
        patches = F.unfold(x, (ph, pw), stride=(ph, pw))[0].T.reshape(-1, 3, ph, pw)
        per_row = width // pw
        columns = width - pw + 1
        spread = window_spread(y, self.config.patch) if self.config.measure == "pearson" else y
        best, where = [], []
        for first in range(0, height // ph, ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, height // ph))
            some = patches[rows.start * per_row : rows.stop * per_row]
            score = self._scores(some, y, spread)
            if self.config.prior:
                prior = torch.cat([self._prior(i, height, width, y.device) for i in rows])
                score = self._weigh(score, prior)
            top, index = _first_max(score.flatten(1))
            best.append(top)
            where.append(index)
        index = torch.cat(where).view(height // ph, per_row)
        return index // columns, index % columns, torch.cat(best).view(index.shape)

    def _scores(self, patches: Tensor, y: Tensor, spread: Tensor) -> Tensor:
        if self.config.measure == "pearson":
            return pearson_map(patches, y, spread)
        return -squared_distance_map(patches, y)

    def _weigh(self, score: Tensor, prior: Tensor) -> Tensor:
        """Correlations shrink away from the patch's place; distances grow."""
        if self.config.measure == "pearson" or self.quirks.l2_prefers_far:
            return score * prior
        return score / prior

    def _prior(self, patch_row: int, height: int, width: int, device: torch.device) -> Tensor:
        """(patch columns, map rows, map columns) in float32, computed in float64."""
        ph, pw = self.config.patch
        shift = 1 if self.quirks.off_centre_prior else 0
        r = torch.arange(height - ph + 1, dtype=torch.float64) - ph * patch_row - shift
        c = torch.arange(width - pw + 1, dtype=torch.float64)
        starts = torch.arange(width // pw, dtype=torch.float64) * pw + shift
        down = (r / (PRIOR_WIDTH * height)).square()
        across = ((c[None] - starts[:, None]) / (PRIOR_WIDTH * width)).square()
        exponent = -4 * math.log(2) * (down[None, :, None] + across[:, None, :])
        return exponent.exp().float().to(device)


def to_h_space(rgb: Tensor) -> Tensor:
    """RGB 0..255 to (R+G, R-G, (R+B)/2) of the normalised channels (section 3.2, "H1H2H3")."""
    mean = rgb.new_tensor(MEAN).view(1, 3, 1, 1)
    std = rgb.new_tensor(STD).view(1, 3, 1, 1)
    r, g, b = ((rgb - mean) / std).unbind(1)
    return torch.stack([r + g, r - g, 0.5 * (r + b)], 1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB 0..255 to CIE L*a*b* under D65 (IEC 61966-2-1 and CIE 15)."""
    v = rgb / 255
    linear = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_xyz = rgb.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
         [0.019334, 0.119193, 0.950227]]
    )  # fmt: skip
    xyz = torch.einsum("ij,njhw->nihw", to_xyz, linear)
    xyz = xyz / rgb.new_tensor([0.950456, 1.0, 1.088754]).view(1, 3, 1, 1)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-9) ** (1 / 3), xyz / 0.128419 + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def pearson_map(patches: Tensor, y: Tensor, spread: Tensor) -> Tensor:
    """Pearson correlation of (P, 3, ph, pw) patches with every window of y (1, 3, H, W).

    One mean and one variance over all three channels of a window jointly; `spread` is
    `window_spread` of y. A window or a patch without variance correlates with nothing (0).
    """
    centred = patches - patches.mean((1, 2, 3), keepdim=True)
    norm = centred.square().sum((1, 2, 3), keepdim=True).sqrt()
    unit = torch.where(norm > 1e-6, centred / norm.clamp_min(1e-6), torch.zeros_like(centred))
    product = F.conv2d(y, unit)[0]
    return torch.where(spread > 1e-4, product / spread.clamp_min(1e-4), torch.zeros_like(product))


def window_spread(y: Tensor, patch: tuple[int, int]) -> Tensor:
    """Norm of every window of y (1, 3, H, W) less its mean: (H - ph + 1, W - pw + 1)."""
    # Differences of large sums: float64, or flat windows come out as noise.
    ones = torch.ones(1, 3, *patch, dtype=torch.float64, device=y.device)
    total = F.conv2d(y.double(), ones)[0, 0]
    squares = F.conv2d(y.double().square(), ones)[0, 0]
    return (squares - total.square() / ones.numel()).clamp_min(0).sqrt().float()


def squared_distance_map(patches: Tensor, y: Tensor) -> Tensor:
    """Sum of squared differences of (P, 3, ph, pw) patches and every window of y (1, 3, H, W)."""
    ones = torch.ones(1, 3, *patches.shape[2:], device=y.device)
    own = patches.square().sum((1, 2, 3)).view(-1, 1, 1)
    return (F.conv2d(y.square(), ones)[0] - 2 * F.conv2d(y, patches)[0] + own).clamp_min(0)


def _first_max(score: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of each row and the first index that reaches it (torch.max promises no order)."""
    top = score.amax(1, keepdim=True)
    return top[:, 0], (score == top).to(torch.uint8).argmax(1)


def gather(y: Tensor, matches: Matches, patch: tuple[int, int], *, stretched: bool) -> Tensor:
    """Put the matched pieces of y (N, 3, H, W) together; a plain copy unless `stretched`.

    `stretched` resamples as the original does: its boxes are (row/H, col/W, (row+20)/H,
    (col+24)/W), and TensorFlow's crop_and_resize multiplies them by H-1 and W-1.
    """
    n, channels, height, width = y.shape
    ph, pw = patch
    r, c = matches.row[..., None], matches.col[..., None]
    if stretched:
        # Box corners are float32 in the original, and so is the arithmetic on them.
        r = _box_samples(matches.row, height, ph)
        c = _box_samples(matches.col, width, pw)
        pieces = _bilinear(y, r, c)
    else:
        r = r + torch.arange(ph, device=y.device)
        c = c + torch.arange(pw, device=y.device)
        pieces = _pick(y, r, c)
    rows, cols = matches.row.shape[1:]
    pieces = pieces.view(n, channels, rows, cols, ph, pw).permute(0, 1, 2, 4, 3, 5)
    return pieces.reshape(n, channels, rows * ph, cols * pw)


def _box_samples(start: Tensor, size: int, patch: int) -> Tensor:
    low = (start.double() / size).float()
    high = ((start.double() + patch) / size).float()
    scale = (high - low) * (size - 1) / (patch - 1)
    steps = torch.arange(patch, device=start.device, dtype=torch.float32)
    return low[..., None] * (size - 1) + steps * scale[..., None]


def _pick(y: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """y at rows r (N, a, b, ph) and columns c (N, a, b, pw): (N, 3, a, b, ph, pw)."""
    n, channels, _, width = y.shape
    index = r[..., :, None] * width + c[..., None, :]
    flat = index.reshape(n, 1, -1).expand(n, channels, -1)
    return y.reshape(n, channels, -1).gather(2, flat).view(n, channels, *index.shape[1:])


def _bilinear(y: Tensor, r: Tensor, c: Tensor) -> Tensor:
    height, width = y.shape[2:]
    r0, c0 = r.floor().clamp(0, height - 1), c.floor().clamp(0, width - 1)
    fr, fc = (r - r0)[:, None, ..., :, None], (c - c0)[:, None, ..., None, :]
    r0, c0 = r0.long(), c0.long()
    r1, c1 = r.ceil().long().clamp(0, height - 1), c.ceil().long().clamp(0, width - 1)
    top = torch.lerp(_pick(y, r0, c0), _pick(y, r0, c1), fc.expand(-1, y.shape[1], -1, -1, 1, -1))
    low = torch.lerp(_pick(y, r1, c0), _pick(y, r1, c1), fc.expand(-1, y.shape[1], -1, -1, 1, -1))
    return top + (low - top) * fr
