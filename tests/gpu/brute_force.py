"""The search by brute force: PyTorch's convolution over all positions, timed."""

from typing import Any

import torch
from kernel_times import PATCH, Clock, planes
from numpy.typing import NDArray

from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.paper.si_finder import SideInformationFinder


def brute_force_times(
    x: NDArray[Any], y: NDArray[Any], kinds: tuple[str, ...], repeats: int
) -> dict[str, tuple[float, float]]:
    """PyTorch's convolution over all positions, with its products in each kind: milliseconds, and
    how many of the positions are those of float32, in percent. TensorFloat-32 and the 16-bit kinds
    run on tensor cores."""
    clock, x_dec, y_dec = Clock(), planes(x), planes(y)
    finder = SideInformationFinder(SearchOptions(patch=PATCH))
    found: dict[str, tuple[float, float]] = {}
    exact = None
    for kind in kinds:
        torch.backends.cudnn.allow_tf32 = kind == "tf32"
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind)

        def search(dtype: torch.dtype | None = dtype) -> Any:
            with torch.autocast(x_dec.device.type, dtype=dtype, enabled=dtype is not None):
                return finder.brute_force(x_dec, y_dec)

        at = search()
        exact = at if exact is None else exact
        same = (at.row == exact.row) & (at.col == exact.col)
        found[kind] = clock.median_ms(search, repeats), 100 * float(same.float().mean())
    torch.backends.cudnn.allow_tf32 = False
    return found
