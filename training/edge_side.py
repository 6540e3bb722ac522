"""What the `edge` model's fusion sees of a side image, made as the runtime makes it."""

from typing import NamedTuple

import torch
from torch import Tensor

from dsin.runtime.block_refinement import side_planes
from dsin.runtime.patch_correlation import match
from dsin.runtime.pictures import from_planes, to_uint8
from dsin.training.presets import SearchConfig


class SideInput(NamedTuple):
    """y and y_dec put together from where each block of x_dec lies in them, (N, 3, H, W), and how
    badly each block matched, (N, 1, H/8, W/8)."""

    y_syn: Tensor
    y_dec_syn: Tensor
    cost: Tensor


@torch.no_grad()
def side_input(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: SearchConfig) -> SideInput:
    """Search and refinement on 8-bit pictures; arguments are (N, 3, H, W) in 0..255 with sides that
    are multiples of 8. The search is the runtime's, on the CPU."""
    found = [
        _one(*pictures, search) for pictures in zip(x_dec.cpu(), y_dec.cpu(), y.cpu(), strict=True)
    ]
    y_syn, y_dec_syn, cost = (
        torch.cat(parts).to(x_dec.device) for parts in zip(*found, strict=True)
    )
    return SideInput(y_syn, y_dec_syn, cost)


def _one(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: SearchConfig) -> SideInput:
    size = (x_dec.shape[1], x_dec.shape[2])
    mine, theirs, side = (
        to_uint8(from_planes(picture[None].float().numpy()), size, truncate=False)
        for picture in (x_dec, y_dec, y)
    )
    matches = match(mine, theirs, patch=search.patch, prior=search.prior)
    found = side_planes(mine, theirs, side, matches, search.patch)
    return SideInput(*map(torch.from_numpy, found))
