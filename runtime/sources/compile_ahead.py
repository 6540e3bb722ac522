"""On a fresh installation: compile what decoding needs on two cores instead of one.

numba compiles one kernel at a time in a process, so half of them are compiled in another process.
That leaves them in numba's cache, and this process loads them from there. Nothing depends on it: a
kernel that is missing is compiled when it is first called.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.compiled import crew, has_kernels, quick_compilation
from dsin.runtime.patch_correlation.block_refinement import paste
from dsin.runtime.patch_correlation.definition import Matches
from dsin.runtime.patch_correlation.flow_kernels import doubts
from dsin.runtime.patch_correlation.side_flow import (
    LEAST_SIDE,
    Views,
    at_half_size,
    refine_with_flow,
    smooth_flow,
    warped,
)
from dsin.runtime.patch_correlation.side_flow import centres as window_centres

LOG = logging.getLogger(__name__)
_FLOW = "from dsin.runtime.sources.compile_ahead import compile_flow; compile_flow()"
_SIDE = 2 * LEAST_SIDE


def compile_ahead(entropy: Callable[[], object]) -> None:
    """Compile the kernels of decoding beside a side image; `entropy` calls those of the entropy
    coder, while the other process is busy anyway. Does nothing where kernels are kept from an
    earlier run, or there is one core only."""
    if has_kernels() or len(os.sched_getaffinity(0)) < 2:
        return
    with subprocess.Popen(
        [sys.executable, "-c", _FLOW], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as other:  # fmt: skip
        try:
            compile_search()
            with quick_compilation():
                entropy()
        except BaseException:
            other.kill()
            raise
    if other.returncode:
        LOG.info("compiling ahead ended with status %d", other.returncode)


@quick_compilation()
def compile_search() -> None:
    """The search by patches, at half size."""
    search = open_bundle().search
    # Every patch is found at its own place: then only what every picture needs is compiled.
    x = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    halved = at_half_size(search)
    halved.match(x, x, prepared=halved.prepare(x, None))


@quick_compilation()
def compile_flow() -> None:
    """Flow and blocks."""
    x, y = np.random.default_rng(0).integers(0, 256, (2, _SIDE, _SIDE, 3), np.uint8)
    half, quarter = (np.zeros((_SIDE // n, _SIDE // n), np.float32) for n in (2, 4))
    views, count = Views(half, quarter), len(window_centres(_SIDE // 4))
    start = np.zeros((count, count), np.float32), np.zeros((count, count), np.float32)
    with crew(1) as share:
        field = smooth_flow(views, views, start, share)
    patch = open_bundle().search.patch
    grid = tuple(-(-_SIDE // n) for n in patch)
    row, col = np.zeros(grid, np.int32), np.zeros(grid, np.int32)
    matches = Matches(row, col, np.zeros(grid, np.float32))
    refined = refine_with_flow(x, y, matches, patch, field)
    doubt = np.empty((1, 2, *refined.cost.shape), np.float32)
    doubts(half, half, field, doubt[0, 0], np.empty_like(refined.cost), 0, 1)
    warped(y, field)
    paste(y, refined)
