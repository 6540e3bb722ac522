"""On a fresh installation: compile what decoding needs on all cores instead of one.

numba compiles one kernel at a time in a process. So other processes compile the search's and the
flow's, leave them in numba's cache, and this process loads them from there, as later runs do: in
the process that compiled it, a kernel's float32 results may differ in the last digits, for there it
calls other copies of what it calls. Each process takes the next one of PARTS whenever it is free,
while this one compiles the entropy coder, which has integers only. Nothing depends on it: a kernel
that is missing is compiled when it is first called.
"""

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.compiled import has_kernels, quick_compilation
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

LOG = logging.getLogger(__name__)
MOST = 3
"""Other processes: the longest part takes a third of the time of all."""
_PROGRAM = "from dsin.runtime.sources.compile_ahead import compile_parts; compile_parts(0)"
_SIDE = 2 * LEAST_SIDE

CompileRest = Callable[[Callable[[], object]], None]


@contextmanager
def compile_ahead() -> Iterator[CompileRest]:
    """Around opening a decoder: other processes compile meanwhile what decoding beside a side image
    needs. What this gives takes what calls the kernels of the entropy coder; call it before the
    first side image, and all of them are compiled when it returns. Does nothing where kernels are
    kept from an earlier run, or there is one core only."""
    cores = len(os.sched_getaffinity(0))
    if has_kernels() or cores < 2:
        yield lambda _: None
        return
    with _numbers_of_parts() as parts, ExitStack() as waiting:
        others = [waiting.enter_context(_start(parts)) for _ in range(min(cores, MOST))]

        def compile_rest(entropy: Callable[[], object]) -> None:
            with quick_compilation():
                entropy()
            for other in others:
                if status := other.wait():
                    LOG.info("compiling ahead ended with status %d", status)

        try:
            yield compile_rest
        except BaseException:
            for other in others:
                other.kill()
            raise


@contextmanager
def _numbers_of_parts() -> Iterator[int]:
    """A pipe with one byte for each of PARTS, so that whoever reads one is the only one."""
    parts, target = os.pipe()
    try:
        os.write(target, bytes(range(len(PARTS))))
        os.close(target)
        yield parts
    finally:
        os.close(parts)


def _start(parts: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=parts, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


@quick_compilation()
def compile_parts(parts: int) -> None:
    """Compile those of PARTS whose numbers can still be read from that file descriptor."""
    while number := os.read(parts, 1):
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
