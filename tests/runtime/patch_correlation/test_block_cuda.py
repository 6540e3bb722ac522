"""Refinement by blocks in CUDA, emulated and on a GPU: what the definition chooses, to the bit."""

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured_pair
from support.cuda_emulation import gpu, worker

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu import cuda_compiler
from dsin.runtime.gpu.cuda_driver import Stream, chosen_device
from dsin.runtime.gpu.device_tensor import on_device, on_host
from dsin.runtime.patch_correlation import Matches, block_cuda, match
from dsin.runtime.patch_correlation.block_cuda import BlockKernels
from dsin.runtime.patch_correlation.block_refinement import paste, refine_reference
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda import PatchCorrelationKernel
from dsin.runtime.pictures import to_planes
from dsin.training.edge.side import SideKernels, side_input, side_input_on_device

PATCH = (20, 24)
Image = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=["emulated", "GPU"])
def machine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Where to submit what needs a GPU."""
    with worker() if request.param == "emulated" else gpu() as pool:
        yield pool


def on_gpu(x: Image, y_dec: Image, y: Image, matches: Matches) -> list[Image]:
    device = chosen_device()
    kernels = BlockKernels(device, PATCH)
    x, y_dec, y = (to_planes(image) for image in (x, y_dec, y))
    given = [on_device(device, array) for array in (x, y_dec, y, matches.row, matches.col)]
    with device.current():
        stream = Stream(device)
        planes = kernels.side_planes(*given, stream)
        stream.synchronise()
    return [on_host(tensor) for tensor in planes]


def check(machine: Executor, x: Image, y_dec: Image, y: Image, matches: Matches) -> None:
    y_syn, y_dec_syn, cost = machine.submit(on_gpu, x, y_dec, y, matches).result()
    expected = refine_reference(x, y_dec, matches, PATCH)
    np.testing.assert_array_equal(cost[0, 0], expected.cost)
    np.testing.assert_array_equal(y_syn, to_planes(paste(y, expected)))
    np.testing.assert_array_equal(y_dec_syn, to_planes(paste(y_dec, expected)))


@pytest.mark.parametrize("size", [(64, 96), (24, 24), (40, 152)])
def test_matches_of_a_pair(machine: Executor, size: tuple[int, int]) -> None:
    x, y = textured_pair(*size, seed=5)
    y_dec = (y // 8 * 8 + 4).astype(np.uint8)
    check(machine, x, y_dec, y, match(x, y_dec, patch=PATCH))


@pytest.mark.parametrize("seed", range(3))
def test_any_matches_of_noise(machine: Executor, seed: int) -> None:
    """Windows that leave the picture, neighbours that agree, and costs that are near each other."""
    rng = np.random.default_rng(seed)
    size, grid = (48, 72), (3, 3)
    x, y = (rng.integers(0, 2 + 127 * seed, (*size, 3)).astype(np.uint8) for _ in range(2))
    row = rng.integers(0, size[0] - PATCH[0] + 1, grid).astype(np.int32)
    col = rng.integers(0, size[1] - PATCH[1] + 1, grid).astype(np.int32)
    check(machine, x, y, y[::-1].copy(), Matches(row, col, np.ones(grid, np.float32)))


def test_flat_pictures_tie_everywhere(machine: Executor) -> None:
    x = np.full((48, 72, 3), 90, np.uint8)
    x[..., 2] = 0
    row, col = np.indices((3, 3), dtype=np.int32)
    matches = Matches(row * 14, col * 24, np.ones((3, 3), np.float32))
    check(machine, x, x // 2, x, matches)


def rounded(planes: Image) -> Image:
    device = chosen_device()
    given = on_device(device, planes)
    with device.current():
        stream = Stream(device)
        made = BlockKernels(device, PATCH).rounded(given, stream)
        stream.synchronise()
    return on_host(made)


def test_levels_are_those_of_the_host(machine: Executor) -> None:
    planes = np.random.default_rng(0).uniform(-20, 280, (1, 3, 5, 300)).astype(np.float32)
    planes[0, 0, 0, :4] = 0.5, 1.5, 254.5, 255.5
    expected = np.rint(planes).clip(0, 255)
    np.testing.assert_array_equal(machine.submit(rounded, planes).result(), expected)


@pytest.mark.parametrize("architecture", [80, 87, 90, 110])
def test_the_kernels_compile(architecture: int) -> None:
    try:
        cuda_compiler.version()
    except BackendError as error:
        pytest.skip(str(error))
    code = cuda_compiler.compile_source(block_cuda.source(PATCH), architecture)
    for name in block_cuda._KERNELS:
        assert name.encode() in code


def side_input_of_tensors(x_dec: Image, y_dec: Image, y: Image) -> list[Image]:
    """What training's fusion is given, found on the GPU where the tensors lie."""
    device = chosen_device()
    kernels = SideKernels(PatchCorrelationKernel(device), BlockKernels(device, PATCH))
    where = "cuda" if torch.cuda.is_available() else "cpu"
    pictures = [torch.from_numpy(planes).to(where) for planes in (x_dec, y_dec, y)]
    pictures[0] = pictures[0].to(memory_format=torch.channels_last)
    with device.current():
        found = side_input_on_device(kernels, 0, tuple(pictures), SearchOptions())
        if where == "cuda":
            torch.cuda.synchronize()
    return [tensor.cpu().numpy() for tensor in found]


def test_training_sees_on_a_gpu_what_it_sees_on_the_host(machine: Executor) -> None:
    """A batch of pictures between whole levels and beyond their range."""
    rng = np.random.default_rng(0)
    pairs = [textured_pair(64, 128, seed) for seed in (7, 8)]
    x, y = (np.stack([pair[n] for pair in pairs]).transpose(0, 3, 1, 2) for n in (0, 1))
    x_dec = (x + rng.uniform(-30, 30, x.shape)).astype(np.float32)
    y_dec = (y + rng.uniform(-4, 4, y.shape)).astype(np.float32)
    y = np.ascontiguousarray(y, np.float32)
    found = machine.submit(side_input_of_tensors, x_dec, y_dec, y).result()
    expected = side_input(*map(torch.from_numpy, (x_dec, y_dec, y)), SearchOptions())
    for name, mine, theirs in zip(expected._fields, found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy(), err_msg=name)
