"""How networks have pictures and features: as planes of float32, or in 8 bits with channels last.

    float networks    pictures float32 (1, 3, H, W), features float32 (1, F, h, w)
    8-bit networks    pictures uint8 (1, H, W, 3) in whole levels, features uint8 (1, h, w, F)

The dtype tells which. Those of 8 bits are on the host.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.gpu.device_tensor import DeviceTensor, Tensor, cropped, on_host
from dsin.runtime.pictures import Image, picture_of, to_planes

COLOURS = 3


def size_of(tensor: Tensor) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns = tensor.shape[1:3] if _has_channels_last(tensor) else tensor.shape[2:]
    return rows, columns


def cut(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns, dense, in the same layout."""
    if not _has_channels_last(tensor):
        return cropped(tensor, rows, columns)
    return np.ascontiguousarray(_array(tensor)[:, :rows, :columns])


def as_picture(tensor: Tensor, size: tuple[int, int], *, truncate: bool = False) -> Image:
    """uint8 H×W×3 of that (height, width), of its own memory; `truncate` instead of rounding."""
    if not _has_channels_last(tensor):
        return picture_of(on_host(tensor), size, truncate=truncate)
    return np.array(_array(tensor)[0, : size[0], : size[1]], order="C")


def as_levels(tensor: Tensor) -> Tensor:
    """A picture as 8-bit networks have it, from either layout."""
    if _has_channels_last(tensor):
        return tensor
    return as_picture(tensor, size_of(tensor))[None]


def as_planes(tensor: Tensor) -> Tensor:
    """A picture as float networks have it, from either layout."""
    if not _has_channels_last(tensor):
        return tensor
    return to_planes(_array(tensor)[0])


def for_network(found: dict[str, Tensor], *, levels: bool) -> dict[str, Tensor]:
    """Tensors by name, the pictures among them as 8-bit networks have them, or as float ones do."""
    change = as_levels if levels else as_planes
    return {name: change(each) if _is_picture(each) else each for name, each in found.items()}


def _is_picture(tensor: Tensor) -> bool:
    return tensor.shape[3 if _has_channels_last(tensor) else 1] == COLOURS


def _has_channels_last(tensor: Tensor) -> bool:
    return tensor.dtype == np.uint8


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    assert not isinstance(tensor, DeviceTensor)
    return tensor
