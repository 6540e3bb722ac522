"""What a process that compiles ahead (dsin.runtime.sources.compile_ahead) does: kernels by parts.

Each process takes the number of the next part whenever it is free.
"""

import gc
import os

import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.compiled import quick_compilation
from dsin.runtime.patch_correlation.block_refinement import paste
from dsin.runtime.patch_correlation.definition import Matches
from dsin.runtime.patch_correlation.flow_kernels import (
    STRIDE,
    WINDOW,
    doubts,
    gradients,
    local_systems,
    search_all,
    solve,
)
from dsin.runtime.patch_correlation.patch_search import compile_search_row
from dsin.runtime.patch_correlation.side_flow import (
    LEAST_SIDE,
    Field,
    Floats,
    at_half_size,
    refine_with_flow,
    warped,
)

_SIDE = 2 * LEAST_SIDE


@quick_compilation()
def compile_parts(parts: int) -> None:
    """Compile those of PARTS whose numbers can still be read from that file descriptor."""
    while (number := os.read(parts, 1)) and number[0] < len(PARTS):
        PARTS[number[0]]()
    # Going through all that compilation left behind takes 0.4 s, and hardly any memory goes back.
    gc.freeze()


def compile_search() -> None:
    """The search of a row of patches, at half size."""
    compile_search_row(at_half_size(open_bundle().search).patch)


def compile_windows() -> None:
    """What the search prepares of a side image."""
    y = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    at_half_size(open_bundle().search).prepare(y, None)


def compile_blocks() -> None:
    """The choice of each block's displacement, and the picture that they make."""
    y = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    patch = open_bundle().search.patch
    grid = tuple(-(-_SIDE // n) for n in patch)
    row, col = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    matches = Matches(row, col, np.zeros(grid, np.float32))
    paste(y, refine_with_flow(y, y, matches, patch, _field()))


def compile_smoothing() -> None:
    """Successive over-relaxation."""
    field = _field()
    solve(field, _systems(field), 1.0)


def compile_inverse_search() -> None:
    """Of windows, and the gradients that it takes."""
    x, field = _grey(), _field()
    slopes = np.empty_like(x), np.empty_like(x)
    gradients(x, *slopes)
    search_all(x, slopes, x, field, _field(), 0, 1)


def compile_warp() -> None:
    """The picture that the flow makes, and how badly it matches."""
    x, field = _grey(), _field()
    doubt, variance = np.empty((2, 1, 1), np.float32)
    doubts(x, x, field, doubt, variance, 0, 1)
    warped(np.zeros((_SIDE, _SIDE, 3), np.uint8), field)


def compile_systems() -> None:
    """What is smoothed."""
    x, field = _grey(), _field()
    local_systems(x, (x, x), x, field, _systems(field), 0, 1)


def _grey() -> Floats:
    """Of half size."""
    return np.zeros((_SIDE // 2, _SIDE // 2), np.float32)


def _field() -> Field:
    """For windows of that, moved nowhere."""
    count = -(-(_SIDE // 2 - WINDOW) // STRIDE) + 1
    return np.zeros((count, count), np.float32), np.zeros((count, count), np.float32)


def _systems(field: Field) -> Floats:
    return np.ones((6, *field[0].shape), np.float32)


PARTS = (
    compile_search, compile_windows, compile_blocks, compile_smoothing, compile_inverse_search,
    compile_warp, compile_systems,
)  # fmt: skip
"""Long ones first, so that the last ones end at nearly the same time."""
