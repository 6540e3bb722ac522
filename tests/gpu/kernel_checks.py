"""The kernels on one pair of pictures, in the process that has the GPU, against the definitions.

Each function gives what differs, in words; nothing where all is equal.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.gpu.cuda_driver import Stream, chosen_device
from dsin.runtime.gpu.device_tensor import on_device, on_host
from dsin.runtime.patch_correlation import definition as pc
from dsin.runtime.patch_correlation.block_cuda import BlockKernels
from dsin.runtime.patch_correlation.block_refinement import paste, refine_reference
from dsin.runtime.patch_correlation.patch_cuda import CudaPatchCorrelation
from dsin.runtime.pictures import to_planes

Picture = NDArray[Any]
PATCH = (20, 24)
TOLERANCE = 1e-5
"""What a score at another position may be below the definition's best."""


def search(x: Picture, y_dec: Picture, y: Picture, **options: Any) -> list[str]:
    """Search, finish and y_syn; against the definition itself, window by window."""
    y_syn, found = CudaPatchCorrelation()(x, y_dec, y, patch=PATCH, **options)
    expected = pc.patch_correlation(x, y_dec, y, patch=PATCH, **options)
    return _differences(y_syn, found, expected, expected.y_syn)


def fast_search(x: Picture, y_dec: Picture, y: Picture) -> list[str]:
    """A whole frame against the CPU's search, which is tested against the definition."""
    y_syn, found = CudaPatchCorrelation()(x, y_dec, y, patch=PATCH)
    expected = pc.match(x, y_dec, patch=PATCH)
    return _differences(y_syn, found, expected, pc.synthesise(y, expected, PATCH))


def _differences(y_syn: Picture, found: Any, expected: Any, expected_y_syn: Picture) -> list[str]:
    moved = (found.row != expected.row) | (found.col != expected.col)
    # Distances, unlike correlations, can be large.
    scale = np.maximum(np.abs(expected.score), 1)
    worse = float(np.max(np.abs(found.score - expected.score) / scale, initial=0))
    told = []
    if moved.any():
        told.append(f"{int(moved.sum())} of {moved.size} positions differ")
    if worse > TOLERANCE:
        told.append(f"scores differ by {worse:.2g}")
    if not moved.any() and not np.array_equal(y_syn, expected_y_syn):
        told.append("y_syn differs")
    return told


def blocks(x: Picture, y_dec: Picture, y: Picture) -> list[str]:
    """Refinement by blocks, to the bit."""
    matches = pc.match(x, y_dec, patch=PATCH)
    device = chosen_device()
    kernels = BlockKernels(device, PATCH)
    planes = [to_planes(image) for image in (x, y_dec, y)]
    there = [on_device(device, array) for array in (*planes, matches.row, matches.col)]
    x_there, y_dec_there, y_there, row, col = there
    with device.current():
        stream = Stream(device)
        made = kernels.side_planes(x_there, y_dec_there, y_there, row, col, stream)
        stream.synchronise()
    y_syn, y_dec_syn, cost = (on_host(tensor) for tensor in made)
    expected = refine_reference(x, y_dec, matches, PATCH)
    equal = {
        "cost": np.array_equal(cost[0, 0], expected.cost),
        "y_syn": np.array_equal(y_syn, to_planes(paste(y, expected))),
        "y_dec_syn": np.array_equal(y_dec_syn, to_planes(paste(y_dec, expected))),
    }
    return [f"{name} differs" for name, same in equal.items() if not same]


def small_case(height: int, width: int) -> list[str]:
    """Every kernel once on a small made-up pair, for the sanitizer."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (height, width + 6, 3)).astype(np.uint8)
    x, y = (np.ascontiguousarray(view) for view in (scene[:, 6:], scene[:, :-6]))
    found = search(x, y, y)
    found += search(x, y, y, measure="l2")
    return found + blocks(x, y, y)
