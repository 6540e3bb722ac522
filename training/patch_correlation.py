"""PatchCorrelation as an operator of PyTorch: `torch.ops.dsin.patch_correlation`.

The exact search of `dsin.runtime.patch_correlation` on the CPU, and a shape function, so that
`torch.export` keeps the operator; `dsin.export.patch_correlation_op` turns it into the ONNX node.
No gradients flow through it: positions have none, and what is copied comes from a picture.
"""

import numpy as np
import torch
from torch import Tensor

from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation import Measure, check_extent, match, synthesise

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
    patch = patch_height, patch_width
    _check(x_dec, y_dec, y, patch)
    kind: Measure = "pearson" if measure == "pearson" else "l2"
    made = []
    for views in zip(x_dec, y_dec, y, strict=True):
        x_one, y_dec_one, y_one = (_picture(view) for view in views)
        found = match(
            x_one, y_dec_one, patch=patch, prior=prior, measure=kind, off_centre=off_centre,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        pieces = synthesise(y_one, found, patch, stretched=stretched)
        made.append((np.ascontiguousarray(pieces.transpose(2, 0, 1)), *found))
    y_syn, row, col, score = (torch.from_numpy(np.stack(p)) for p in zip(*made, strict=True))
    return y_syn.to(y.dtype), row, col, score


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
