"""What the `edge` model's fusion sees of a side image, made as the runtime makes it.

On the CPU by the runtime's search and refinement, on a GPU by the runtime's kernels on the tensors
where they lie. Both are exact: what is found is the same.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from dsin.runtime.gpu.cuda_driver import Device
from dsin.runtime.patch_correlation.block_cuda import BlockKernels
from dsin.runtime.patch_correlation.block_refinement import BLOCK, side_planes
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda import PatchCorrelationKernel
from dsin.runtime.patch_correlation.side_flow import find_side_views, prepare_flow_side
from dsin.runtime.pictures import Image, from_planes, to_uint8
from dsin.training.patch_correlation import search_on_device


class SideInput(NamedTuple):
    """Two pictures that the search made, (N, 3, H, W), and how badly each block matched in them:
    y and y_dec put together from where each block of x_dec lies in them, with its cost
    (N, 1, H/8, W/8); or, by flow, y warped and y put together, with the doubt about both
    (N, 2, H/8, W/8)."""

    first: Tensor
    second: Tensor
    doubt: Tensor


class SideKernels(NamedTuple):
    """Search and refinement on one GPU."""

    search: PatchCorrelationKernel
    blocks: BlockKernels


@torch.no_grad()
def side_input(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: SearchOptions) -> SideInput:
    """Search and refinement on 8-bit pictures; arguments are (N, 3, H, W) in 0..255 with sides that
    are multiples of 8. Does not wait for a GPU. Raises BackendError where its kernels cannot be
    had."""
    if x_dec.is_cuda:
        kernels = open_side_kernels(x_dec.get_device(), search.patch)
        stream = torch.cuda.current_stream(x_dec.device).cuda_stream
        return side_input_on_device(kernels, stream, (x_dec, y_dec, y), search)
    found = [
        _one(*pictures, search) for pictures in zip(x_dec.cpu(), y_dec.cpu(), y.cpu(), strict=True)
    ]
    return _together(found, x_dec.device)


@torch.no_grad()
def flow_input(x_dec: Tensor, y: Tensor, search: SearchOptions) -> SideInput:
    """The search by flow, which runs on the CPU wherever the pictures lie: (N, 3, H, W) in 0..255,
    sides multiples of 8 and at least `side_flow.LEAST_SIDE`."""
    found = []
    for mine, theirs in zip(_images(x_dec), _images(y), strict=True):
        views = find_side_views(mine, prepare_flow_side(theirs, search), search).views
        found.append(SideInput(*map(torch.from_numpy, views)))
    return _together(found, x_dec.device)


@cache
def open_side_kernels(device: int, patch: tuple[int, int]) -> SideKernels:
    """Compiled and loaded, so that a CUDA graph can be captured. Raises BackendError."""
    where = Device(device)
    kernels = SideKernels(PatchCorrelationKernel(where), BlockKernels(where, patch))
    kernels.search.prepare(patch, "pearson", half=False)
    kernels.blocks.prepare()
    return kernels


def side_input_on_device(
    kernels: SideKernels,
    stream: int,
    pictures: tuple[Tensor, Tensor, Tensor],
    search: SearchOptions,
) -> SideInput:
    """`side_input` of x_dec, y_dec and y in the memory of the kernels' device, in one stream. The
    device's context is current."""
    x_dec, y_dec, y = (
        picture.float().round().clamp(0, 255).contiguous() for picture in pictures
    )  # fmt: skip
    _, row, col, _ = search_on_device(kernels.search, stream, (x_dec, y_dec, y), search)
    count, _, height, width = x_dec.shape
    blocks = height // BLOCK, width // BLOCK
    made = SideInput(
        torch.empty_like(x_dec), torch.empty_like(x_dec), x_dec.new_empty((count, 1, *blocks))
    )
    shifts = x_dec.new_empty((count, 2, *blocks), dtype=torch.int32)
    for n in range(count):
        kernels.blocks.launch(
            x=x_dec[n].data_ptr(), y_dec=y_dec[n].data_ptr(), y=y[n].data_ptr(),
            y_syn=made.first[n].data_ptr(), y_dec_syn=made.second[n].data_ptr(),
            row=row[n].data_ptr(), col=col[n].data_ptr(), down=shifts[n, 0].data_ptr(),
            right=shifts[n, 1].data_ptr(), cost=made.doubt[n].data_ptr(),
            height=height, width=width, patch_rows=row.shape[1], patch_columns=row.shape[2],
            stream=stream,
        )  # fmt: skip
    return made


def _one(x_dec: Tensor, y_dec: Tensor, y: Tensor, search: SearchOptions) -> SideInput:
    mine, theirs, side = (_images(picture[None])[0] for picture in (x_dec, y_dec, y))
    matches = search.match(mine, theirs)
    found = side_planes(mine, theirs, side, matches, search.patch)
    return SideInput(*map(torch.from_numpy, found))


def _images(pictures: Tensor) -> list[Image]:
    """(N, 3, H, W), rounded to whole levels."""
    size = (pictures.shape[2], pictures.shape[3])
    return [
        to_uint8(from_planes(picture[None].float().numpy()), size, truncate=False)
        for picture in pictures.cpu()
    ]


def _together(found: Sequence[SideInput], device: torch.device) -> SideInput:
    return SideInput(*(torch.cat(parts).to(device) for parts in zip(*found, strict=True)))
