"""Refinement by blocks on NVIDIA GPUs: the kernels of `block_refinement.cu`.

They choose as `dsin.runtime.patch_correlation.block_refinement` defines: sums are of integers, and
what follows is rounded step by step, so that displacements and costs are equal to the bit.
"""

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsin.runtime.gpu import cuda_compiler
from dsin.runtime.gpu.cuda_driver import Device, Stream, checked, cuda_driver
from dsin.runtime.gpu.device_tensor import DeviceTensor
from dsin.runtime.patch_correlation.block_refinement import (
    BLOCK,
    FOREIGN,
    FORGIVEN,
    MARGIN,
    MOVED,
    NEIGHBOURS,
    REACH,
)

THREADS = 128
_KERNELS = ("level", "refine", "paste")


class Planes(NamedTuple):
    """As `block_refinement.SidePlanes`, on the GPU."""

    y_syn: DeviceTensor
    y_dec_syn: DeviceTensor
    cost: DeviceTensor


class _Job(ctypes.Structure):
    """The kernels' argument."""

    _fields_ = (
        *[
            (name, ctypes.c_void_p)
            for name in (
                "x", "y_dec", "y", "y_dec_syn", "y_syn", "row", "col", "down", "right", "cost",
            )
        ],
        *[(name, ctypes.c_int) for name in ("height", "width", "patch_rows", "patch_columns")],
    )  # fmt: skip


class BlockKernels:
    """Launches them on device memory. The device's context is current for calls, and what is
    returned is being written in the stream. Raises BackendError where one cannot be compiled."""

    def __init__(self, device: Device, patch: tuple[int, int]) -> None:
        cuda_compiler.version()
        self._device, self._patch = device, patch
        # Kept: the stream uses it after the call.
        self._shifts: DeviceTensor | None = None

    def rounded(self, planes: DeviceTensor, stream: Stream) -> DeviceTensor:
        """(1, 3, H, W) as whole numbers in 0..255, still float32; halves go to the even one."""
        _, _, height, width = planes.shape
        made = self._tensor(planes.shape, np.float32)
        job = _Job(x=planes.address, y_syn=made.address, height=height, width=width)
        self._launch("level", (-(-width // THREADS), height), job, stream.handle)
        return made

    def side_planes(
        self, x_dec: DeviceTensor, y_dec: DeviceTensor, y: DeviceTensor, row: DeviceTensor,
        col: DeviceTensor, stream: Stream,
    ) -> Planes:  # fmt: skip
        """As `block_refinement.side_planes`: whole levels, H and W multiples of BLOCK, and the
        patches' positions."""
        _, _, height, width = x_dec.shape
        grid = height // BLOCK, width // BLOCK
        if self._shifts is None or self._shifts.shape[1:] != grid:
            self._shifts = self._tensor((2, *grid), np.int32)
        down, right = self._shifts.address, self._shifts.address + self._shifts.nbytes // 2
        made = Planes(
            self._tensor(x_dec.shape, np.float32), self._tensor(x_dec.shape, np.float32),
            self._tensor((1, 1, *grid), np.float32),
        )  # fmt: skip
        self.launch(
            x=x_dec.address, y_dec=y_dec.address, y=y.address, y_dec_syn=made.y_dec_syn.address,
            y_syn=made.y_syn.address, row=row.address, col=col.address, down=down, right=right,
            cost=made.cost.address, height=height, width=width,
            patch_rows=row.shape[0], patch_columns=row.shape[1], stream=stream.handle,
        )  # fmt: skip
        return made

    def prepare(self) -> None:
        """Compile and load what calls need: while a CUDA graph is captured they could not."""
        _ = self._functions

    def launch(
        self, *, x: int, y_dec: int, y: int, y_syn: int, y_dec_syn: int, row: int, col: int,
        down: int, right: int, cost: int, height: int, width: int, patch_rows: int,
        patch_columns: int, stream: Any,
    ) -> None:  # fmt: skip
        """Refine and paste; returns before it is done.

        All of `x` to `cost` are device addresses: x, y_dec and y, whole levels as float32, and
        y_syn and y_dec_syn, of (3, height, width), multiples of BLOCK; the patches' row and col,
        int32 (patch rows, patch columns); down and right (int32) and cost (float32) of (height / 8,
        width / 8). `stream` is a CUstream.
        """
        job = _Job(
            x=x, y_dec=y_dec, y=y, y_dec_syn=y_dec_syn, y_syn=y_syn, row=row, col=col, down=down,
            right=right, cost=cost, height=height, width=width, patch_rows=patch_rows,
            patch_columns=patch_columns,
        )  # fmt: skip
        self._launch("refine", (width // BLOCK, height // BLOCK), job, stream)
        self._launch("paste", (-(-width // THREADS), height), job, stream)

    def _tensor(self, shape: tuple[int, ...], kind: Any) -> DeviceTensor:
        return DeviceTensor(self._device, shape, kind)

    def _launch(self, kernel: str, blocks: tuple[int, int], job: _Job, stream: Any) -> None:
        # The driver copies the argument before it returns.
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(job))
        call = self._functions[kernel], *blocks, 1, THREADS, 1, 1, 0, stream
        checked(cuda_driver().cuLaunchKernel(*call, ctypes.addressof(arguments), 0))

    @cached_property
    def _functions(self) -> dict[str, Any]:
        driver = cuda_driver()
        code = cuda_compiler.cubin(source(self._patch), self._device.architecture)
        module = checked(driver.cuModuleLoadData(code))[0]
        return {
            name: checked(driver.cuModuleGetFunction(module, name.encode()))[0] for name in _KERNELS
        }


def source(patch: tuple[int, int]) -> str:
    """CUDA source for one size of patch."""
    numbers: dict[str, Any] = {
        "PH": patch[0], "PW": patch[1], "BLOCK": BLOCK, "MARGIN": MARGIN, "REACH": REACH,
        "THREADS": THREADS, "FORGIVEN": FORGIVEN, "MOVED": MOVED, "FOREIGN": FOREIGN,
        "NEIGHBOURS": len(NEIGHBOURS),
    }  # fmt: skip
    defines = [f"#define {name} {value!r}" for name, value in numbers.items()]
    tables = [
        f"__constant__ int {name}[NEIGHBOURS] = {{{', '.join(str(n[axis]) for n in NEIGHBOURS)}}};"
        for axis, name in enumerate(("ABOVE_OR_BELOW", "BESIDE"))
    ]
    code = (Path(__file__).parent / "block_refinement.cu").read_text()
    return "\n".join([*defines, *tables, code])
