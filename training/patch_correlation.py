"""PatchCorrelation as an operator of PyTorch: `torch.ops.dsin.patch_correlation`.

The exact search of `dsin.runtime.patch_correlation.definition` on the CPU, that of
`dsin.runtime.patch_correlation.patch_cuda` on a GPU, and a shape function, so that `torch.export`
keeps the operator; `dsin.export.patch_correlation_op` turns it into the ONNX node. No gradients
flow through it: positions have none, and what is copied comes from a picture.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation.definition import Measure, check_extent
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda import (
    PatchCorrelationKernel,
    open_kernel,
    workspace_bytes,
)

NAME = "dsin::patch_correlation"


@torch.library.custom_op(NAME, mutates_args=(), device_types="cpu")
def patch_correlation(
    x_dec: Tensor,
    y_dec: Tensor,
    y: Tensor,
    patch_height: int,
    patch_width: int,
    prior: bool,
    measure: str,
    stretched: bool,
    off_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search every patch of x_dec in y_dec and put the pieces of y there together.

    Images are RGB (N, 3, H, W) in 0..255, float32 or float16, of one size. Returns y_syn of y's
    shape and type, row and col (int32) and score (float32), each (N, patch rows, patch columns).
    Raises FrameError for images of other shapes, types or sizes.
    """
    search = _options((patch_height, patch_width), prior, measure, stretched, off_centre)
    _check(x_dec, y_dec, y, search.patch)
    made = []
    for views in zip(x_dec, y_dec, y, strict=True):
        x_one, y_dec_one, y_one = (_picture(view) for view in views)
        found = search.match(x_one, y_dec_one, threads=torch.get_num_threads())
        pieces = search.synthesise(y_one, found)
        made.append((np.ascontiguousarray(pieces.transpose(2, 0, 1)), *found))
    y_syn, row, col, score = (torch.from_numpy(np.stack(p)) for p in zip(*made, strict=True))
    return y_syn.to(y.dtype), row, col, score


@patch_correlation.register_kernel("cuda")
def _(
    x_dec: Tensor,
    y_dec: Tensor,
    y: Tensor,
    patch_height: int,
    patch_width: int,
    prior: bool,
    measure: str,
    stretched: bool,
    off_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kernel = _kernel_of(x_dec.device.index)
    with torch.cuda.device(x_dec.device):
        stream = torch.cuda.current_stream().cuda_stream
        search = _options((patch_height, patch_width), prior, measure, stretched, off_centre)
        return search_on_device(kernel, stream, (x_dec, y_dec, y), search)


_kernel_of = cache(open_kernel)


def _options(
    patch: tuple[int, int], prior: bool, measure: str, stretched: bool, off_centre: bool
) -> SearchOptions:
    """An operator's arguments are numbers and text only."""
    kind: Measure = "pearson" if measure == "pearson" else "l2"
    return SearchOptions(patch, kind, prior, stretched, off_centre)


def search_on_device(
    kernel: PatchCorrelationKernel,
    stream: int,
    images: tuple[Tensor, Tensor, Tensor],
    search: SearchOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operator on x_dec, y_dec and y in the memory of the kernel's device, in one stream."""
    patch = search.patch
    _check(*images, patch)
    half = all(image.dtype == torch.float16 for image in images)
    x_dec, y_dec, y = (
        image.to(torch.float16 if half else torch.float32).contiguous() for image in images
    )
    n, _, height, width = y.shape
    y_syn = torch.empty_like(y)
    row, col, score = (
        y.new_empty((n, -(-height // patch[0]), -(-width // patch[1])), dtype=kind_of)
        for kind_of in (torch.int32, torch.int32, torch.float32)
    )
    room = y.new_empty(workspace_bytes(n, height, width, patch), dtype=torch.uint8)
    kernel.launch(
        x_dec=x_dec.data_ptr(), y_dec=y_dec.data_ptr(), y=y.data_ptr(), y_syn=y_syn.data_ptr(),
        row=row.data_ptr(), col=col.data_ptr(), score=score.data_ptr(), workspace=room.data_ptr(),
        batch=n, height=height, width=width, half=half, search=search, stream=stream,
    )  # fmt: skip
    return y_syn.to(images[2].dtype), row, col, score


@patch_correlation.register_fake
def _(
    x_dec: Tensor,
    y_dec: Tensor,
    y: Tensor,
    patch_height: int,
    patch_width: int,
    prior: bool,
    measure: str,
    stretched: bool,
    off_centre: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, _, height, width = x_dec.shape
    grid = n, -(-height // patch_height), -(-width // patch_width)
    row, col = (x_dec.new_empty(grid, dtype=torch.int32) for _ in range(2))
    return (
        torch.empty_like(y, memory_format=torch.contiguous_format),
        row,
        col,
        x_dec.new_empty(grid, dtype=torch.float32),
    )


def _picture(view: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(3, H, W) to H×W×3 float32."""
    return np.ascontiguousarray(view.detach().float().permute(1, 2, 0).numpy())


def _check(x_dec: Tensor, y_dec: Tensor, y: Tensor, patch: tuple[int, int]) -> None:
    for name, image in {"x_dec": x_dec, "y_dec": y_dec, "y": y}.items():
        kinds = torch.float32, torch.float16
        if image.dtype not in kinds or image.ndim != 4 or image.shape[1] != 3:
            shape = "x".join(map(str, image.shape))
            raise FrameError(
                f"{name} is {image.dtype} of shape {shape}: float32 or float16 of shape "
                "N x 3 x height x width is needed"
            )
        check_extent(name, tuple(image.shape[2:]), patch)
        if image.shape != x_dec.shape:
            sizes = [
                "x".join(map(str, (i.shape[0], i.shape[3], i.shape[2]))) for i in (x_dec, image)
            ]
            raise FrameError(
                f"x_dec is {sizes[0]} (images, width, height) but {name} is {sizes[1]}: they must "
                "be of one size"
            )
