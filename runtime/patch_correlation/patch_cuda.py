"""PatchCorrelation on NVIDIA GPUs: the kernels of `patch_*.cu`, compiled where they run.

`PatchCorrelationKernel` launches them on device addresses and a stream, for TensorRT, PyTorch and
onnxruntime's I/O binding; `CudaPatchCorrelation` takes NumPy images. Both find the positions of the
definition (`dsin.runtime.patch_correlation.definition`).
"""

import ctypes
import threading
from typing import Any

import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.gpu import cuda_compiler
from dsin.runtime.gpu.cuda_driver import Device, Memory, checked, cuda_driver
from dsin.runtime.patch_correlation.definition import (
    Image,
    Matches,
    Measure,
    check_extent,
    check_image,
    check_pair,
    check_sizes,
)
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda_plan import (
    KERNELS,
    THREADS,
    Job,
    plan,
    source,
    workspace_bytes,
)

LARGEST = 1536
"""Pixels of a patch that shared memory has room for."""

__all__ = ["CudaPatchCorrelation", "PatchCorrelationKernel", "open_kernel", "workspace_bytes"]


def open_kernel(device: int = 0) -> "PatchCorrelationKernel":
    """The kernel on one GPU; code is compiled when a kind of search is first prepared or launched.

    Raises BackendError where there is no driver, no such GPU or no NVRTC.
    """
    return PatchCorrelationKernel(Device(device))


class PatchCorrelationKernel:
    """Launches the search on device memory. May be used from several threads."""

    def __init__(self, device: Device) -> None:
        cuda_compiler.version()
        self._device = device
        self._loaded: dict[tuple[tuple[int, int], Measure, bool], dict[str, Any]] = {}
        self._loading = threading.Lock()

    def workspace_bytes(self, batch: int, height: int, width: int, patch: tuple[int, int]) -> int:
        """See the function of this name."""
        return workspace_bytes(batch, height, width, patch)

    def prepare(self, patch: tuple[int, int], measure: Measure, *, half: bool) -> None:
        """Compile and load what `launch` needs: while a CUDA graph is captured it could not.

        Raises FrameError for a patch that is too large, BackendError where compiling fails.
        """
        self._functions(patch, measure, half)

    def launch(
        self,
        *,
        x_dec: int,
        y_dec: int,
        y: int,
        y_syn: int,
        row: int,
        col: int,
        score: int,
        workspace: int,
        batch: int,
        height: int,
        width: int,
        half: bool,
        search: SearchOptions,
        stream: int,
    ) -> None:
        """Search; returns before it is done.

        All of `x_dec` to `workspace` are device addresses: contiguous images (batch, 3, height,
        width) in 0..255, float16 if `half` and else float32; row, col (int32) and score (float32)
        of (batch, patch rows, patch columns); and `workspace_bytes` of workspace, aligned to 16.
        `stream` is a CUstream, 0 for the default one; the device's primary context is current.
        Nothing is allocated, and nothing waited for.

        Raises FrameError for sizes that do not fit, BackendError where a launch fails.
        """
        patch = search.patch
        check_extent("x_dec", (height, width), patch)
        if search.stretched and (height % patch[0] or width % patch[1]):
            raise FrameError(
                f"y is {width}x{height}: stretched patches of {patch[1]}x{patch[0]} must divide it"
            )
        functions = self._functions(patch, search.measure, half)
        steps = plan(height, width, patch, search.measure)
        picture, grid = (2 if half else 4) * 3 * height * width, 4 * steps.down * steps.across
        for n in range(batch):
            job = Job(
                x=x_dec + n * picture, y_dec=y_dec + n * picture, y=y + n * picture,
                y_syn=y_syn + n * picture, row=row + n * grid, col=col + n * grid,
                score=score + n * grid, crowded=workspace, patches=workspace + 16,
                features=workspace + steps.features, inverse=workspace + steps.inverse,
                lab=workspace + steps.features, height=height, width=width, down=steps.down,
                across=steps.across, pitch=steps.pitch, prior=search.prior,
                off_centre=search.off_centre, stretched=search.stretched,
            )  # fmt: skip
            for step in steps.launches():
                job.first, job.last, job.again = step.band.start, step.band.stop, step.again
                _launch(functions[step.kernel], step.blocks, job, stream)

    def _functions(self, patch: tuple[int, int], measure: Measure, half: bool) -> dict[str, Any]:
        if patch[0] * patch[1] > LARGEST:
            raise FrameError(
                f"a patch of {patch[1]}x{patch[0]} is too large for a GPU: it may have {LARGEST}"
                " pixels"
            )
        key = patch, measure, half
        with self._loading:
            if key not in self._loaded:
                code = cuda_compiler.cubin(source(*key), self._device.architecture)
                self._loaded[key] = self._load(code, KERNELS[measure])
            return self._loaded[key]

    def _load(self, code: bytes, names: tuple[str, ...]) -> dict[str, Any]:
        driver = cuda_driver()
        with self._device.current():
            module = checked(driver.cuModuleLoadData(code))[0]
            return {
                name: checked(driver.cuModuleGetFunction(module, name.encode()))[0]
                for name in names
            }


def _launch(function: Any, blocks: tuple[int, int], job: Job, stream: int) -> None:
    # The driver copies the argument before it returns.
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(job))
    checked(
        cuda_driver().cuLaunchKernel(
            function, *blocks, 1, THREADS, 1, 1, 0, stream, ctypes.addressof(arguments), 0
        )
    )


class CudaPatchCorrelation:
    """The search on one GPU, from NumPy images and back. Keeps its memory from call to call."""

    def __init__(self, device: int = 0) -> None:
        self._device = Device(device)
        self._kernel = PatchCorrelationKernel(self._device)
        self._memory: dict[str, Memory] = {}
        self._using = threading.Lock()

    def __call__(
        self,
        x_dec: Image,
        y_dec: Image,
        y: Image,
        *,
        patch: tuple[int, int] = (20, 24),
        prior: bool = True,
        measure: Measure = "pearson",
        off_centre: bool = False,
        stretched: bool = False,
    ) -> tuple[Image, Matches]:
        """y_syn and the positions. Arguments and errors as for `patch_correlation`, without batch.

        Raises BackendError as well where the GPU fails.
        """
        check_pair(x_dec, y_dec, patch)
        check_image("y", y, patch)
        check_sizes(x_dec, y, "y")
        height, width = x_dec.shape[:2]
        grid = -(-height // patch[0]), -(-width // patch[1])
        with self._using, self._device.current():
            images = {
                name: self._uploaded(name, image)
                for name, image in {"x_dec": x_dec, "y_dec": y_dec, "y": y}.items()
            }
            sizes = {
                "y_syn": 4 * y.size,
                **dict.fromkeys(("row", "col", "score"), 4 * grid[0] * grid[1]),
                "workspace": workspace_bytes(1, height, width, patch),
            }
            outputs = {name: self._room(name, size) for name, size in sizes.items()}
            self._kernel.launch(
                **{name: memory.address for name, memory in (images | outputs).items()},
                batch=1, height=height, width=width, half=False, stream=0,
                search=SearchOptions(patch, measure, prior, stretched, off_centre),
            )  # fmt: skip
            y_syn = outputs["y_syn"].download((3, height, width), np.float32).transpose(1, 2, 0)
            found = Matches(
                outputs["row"].download(grid, np.int32),
                outputs["col"].download(grid, np.int32),
                outputs["score"].download(grid, np.float32),
            )
        return (y_syn if stretched else y_syn.astype(y.dtype)), found

    def _uploaded(self, name: str, image: Image) -> Memory:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
        memory = self._room(name, planes.nbytes)
        memory.upload(planes)
        return memory

    def _room(self, name: str, size: int) -> Memory:
        """Memory of at least this size, of this name."""
        if name not in self._memory or self._memory[name].size < size:
            self._memory.pop(name, None)
            self._memory[name] = Memory(self._device, size)
        return self._memory[name]
