"""The side-information finder in PyTorch: the exact search on CPU and GPU, brute force elsewhere.

Section 3.2 of the paper: every non-overlapping patch of x_dec is correlated with every position of
y_dec, weighted by a Gaussian prior around its own place, and the best match is taken from y, as
`dsin.runtime.patch_correlation.definition` defines it. `brute_force` compares all positions by
convolution on any device: the reference that the benchmarks measure against.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dsin.runtime.patch_correlation.definition import MEAN, STD, origins
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.patch_correlation import patch_correlation

PRIOR_WIDTH = 0.5
"""Full width at half maximum of the prior, as a fraction of the image."""
ROWS_AT_ONCE = 2
"""Patch rows whose correlation maps are in memory together."""


class Matches(NamedTuple):
    """Best positions, int64 (N, patch rows, patch columns), and their scores in float32."""

    row: Tensor
    col: Tensor
    score: Tensor


class SideInformationFinder(nn.Module):
    """Builds y_syn, the picture made of the pieces of y that look like the pieces of x_dec.

    `l2_prefers_far` is the original's habit of that name (see `dsin.training.presets.Quirks`).
    """

    def __init__(self, search: SearchOptions, *, l2_prefers_far: bool = False) -> None:
        super().__init__()
        self.search = search
        self.l2_prefers_far = l2_prefers_far

    @torch.no_grad()
    def forward(self, x_dec: Tensor, y_dec: Tensor, y: Tensor) -> tuple[Tensor, Matches]:
        """RGB (N, 3, H, W) in 0..255; y_syn likewise."""
        if x_dec.device.type not in ("cpu", "cuda") or self.l2_prefers_far:
            matches = self.brute_force(x_dec, y_dec)
            y_syn = gather(y, matches, self.search.patch, stretched=self.search.stretched)
            return y_syn[:, :, : y.shape[2], : y.shape[3]], matches
        y_syn, row, col, score = patch_correlation(
            x_dec.float(), y_dec.float(), y, *self.search.patch, self.search.prior,
            self.search.measure, self.search.stretched, self.search.off_centre,
        )  # fmt: skip
        return y_syn, Matches(row.long(), col.long(), score)

    @torch.no_grad()
    def brute_force(self, x_dec: Tensor, y_dec: Tensor) -> Matches:
        """The best position of every patch; ties go to the first in raster order."""
        x_dec, y_dec = (t.float().nan_to_num(0, 255, 0).clamp(0, 255) for t in (x_dec, y_dec))
        results = [self._match_one(x, y) for x, y in zip(x_dec, y_dec, strict=True)]
        return Matches(*(torch.stack(parts) for parts in zip(*results, strict=True)))

    def _match_one(self, x_dec: Tensor, y_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size, (ph, pw) = (x_dec.shape[1], x_dec.shape[2]), self.search.patch
        if self.search.measure == "pearson":
            x, y = to_h_space(x_dec[None]), to_h_space(y_dec[None])
        else:
            x, y = rgb_to_lab(x_dec[None]), rgb_to_lab(y_dec[None])
        windows = x[0].unfold(1, ph, 1).unfold(2, pw, 1)
        tops, lefts = (torch.from_numpy(o).long().to(x.device) for o in origins(size, (ph, pw)))
        columns = size[1] - pw + 1
        spread = window_spread(y, self.search.patch) if self.search.measure == "pearson" else y
        best, where = [], []
        for first in range(0, len(tops), ROWS_AT_ONCE):
            rows = tops[first : first + ROWS_AT_ONCE]
            cut = windows[:, rows[:, None], lefts].flatten(1, 2).transpose(0, 1).contiguous()
            score = self._scores(cut, y, spread)
            if self.search.prior:
                self._weigh(score, rows, lefts, size)
            # Of equal maxima this takes the first, as its documentation promises.
            top, index = score.flatten(1).max(1)
            best.append(top)
            where.append(index)
        grid = len(tops), len(lefts)
        index = torch.cat(where).view(grid)
        # From the window's corner to that of the piece: they differ for partial patches only.
        row = index // columns + (torch.arange(grid[0], device=x.device) * ph - tops)[:, None]
        col = index % columns + torch.arange(grid[1], device=x.device) * pw - lefts
        return row, col, torch.cat(best).view(grid)

    def _scores(self, patches: Tensor, y: Tensor, spread: Tensor) -> Tensor:
        if self.search.measure == "pearson":
            return pearson_map(patches, y, spread)
        return -squared_distance_map(patches, y)

    def _weigh(self, score: Tensor, tops: Tensor, lefts: Tensor, size: tuple[int, int]) -> None:
        """Correlations shrink away from the patch's place; distances grow. In place."""
        down = self._prior(tops, size[0], score.shape[1])[:, None].expand(-1, len(lefts), -1)
        across = self._prior(lefts, size[1], score.shape[2])[None].expand(len(tops), -1, -1)
        down, across = down.flatten(0, 1)[:, :, None], across.flatten(0, 1)[:, None]
        if self.search.measure == "pearson" or self.l2_prefers_far:
            score.mul_(down).mul_(across)
        else:
            score.div_(down).div_(across)

    def _prior(self, starts: Tensor, length: int, windows: int) -> Tensor:
        """The prior's factor along one axis (patches, windows), in float32 from float64."""
        own = starts.cpu().double() + (1 if self.search.off_centre else 0)
        distance = torch.arange(windows, dtype=torch.float64) - own[:, None]
        exponent = -4 * math.log(2) * (distance / (PRIOR_WIDTH * length)).square()
        return exponent.exp().float().to(starts.device)


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
        # Beyond the edge there are only pixels of partial patches that are cut off below.
        r = (r + torch.arange(ph, device=y.device)).clamp(max=height - 1)
        c = (c + torch.arange(pw, device=y.device)).clamp(max=width - 1)
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
