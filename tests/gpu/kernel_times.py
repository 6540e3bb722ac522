"""Times of the search in milliseconds, in the process that has the GPU.

On a GPU they are those of its own clock, between events in the stream; in a rehearsal, of the CPU.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsin.runtime.gpu.cuda_driver import Device, Stream, chosen_device
from dsin.runtime.gpu.device_tensor import on_device
from dsin.runtime.patch_correlation import match, patch_cuda
from dsin.runtime.patch_correlation.block_cuda import BlockKernels
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.patch_cuda_plan import KERNELS, workspace_bytes
from dsin.runtime.pictures import to_planes

PATCH = (20, 24)
WARM_UP = 10
MOST_MS = 2000.0
"""About what the calls for one median may take together."""
Times = dict[str, float]
EXPECTED = {f"kernel {name}" for name in KERNELS["pearson"]}
"""What a search launches."""
BLOCK_EXPECTED = {f"kernel {name}" for name in ("level", "refine", "paste")}


class Clock:
    """Times between two marks, on the GPU where there is one."""

    def __init__(self) -> None:
        self._gpu = torch.cuda.is_available()

    def mark(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def ms(self, begin: Any, end: Any) -> float:
        """Between two marks; waits for the second."""
        if not self._gpu:
            return 1000 * float(end - begin)
        end.synchronize()
        return float(begin.elapsed_time(end))

    def _after(self, call: Callable[[], Any]) -> Any:
        call()
        return self.mark()

    def median_ms(self, call: Callable[[], Any], repeats: int) -> float:
        """Of many calls one by one, after a warm-up; of fewer where they are slow."""
        call()  # compiles what is not compiled yet
        once = self.ms(self.mark(), self._after(call))
        repeats = min(repeats, max(int(MOST_MS / max(once, 1e-3)), 3))
        for _ in range(min(WARM_UP, repeats - 1)):
            call()
        marks = []
        for _ in range(repeats):
            begin = self.mark()
            call()
            marks.append((begin, self.mark()))
        return statistics.median(self.ms(*pair) for pair in marks)


class Search:
    """The kernels on two pictures (H, W, 3) that are on the device."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any], *, half: bool = False) -> None:
        self._device = Device(0)
        self._kernel = patch_cuda.PatchCorrelationKernel(self._device)
        self._half = half
        kind = torch.float16 if half else torch.float32
        self._x, self._y = (planes(view).to(kind) for view in (x, y))
        height, width = x.shape[:2]
        grid = -(-height // PATCH[0]), -(-width // PATCH[1])
        self._made = {
            "y_syn": torch.empty_like(self._y),
            "row": self._y.new_empty(grid, dtype=torch.int32),
            "col": self._y.new_empty(grid, dtype=torch.int32),
            "score": self._y.new_empty(grid, dtype=torch.float32),
            "workspace": self._y.new_empty(
                workspace_bytes(1, height, width, PATCH), dtype=torch.uint8
            ),
        }
        self._size = height, width

    def launch(self, measure: Any = "pearson") -> None:
        """Returns before it is done."""
        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else 0
        with self._device.current():
            self._kernel.launch(
                x_dec=self._x.data_ptr(), y_dec=self._y.data_ptr(), y=self._y.data_ptr(),
                **{name: tensor.data_ptr() for name, tensor in self._made.items()},
                batch=1, height=self._size[0], width=self._size[1], half=self._half,
                search=SearchOptions(PATCH, measure), stream=stream,
            )  # fmt: skip


def planes(image: NDArray[Any]) -> Tensor:
    """(1, 3, H, W) on the GPU where there is one."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))
    return tensor.to("cuda" if torch.cuda.is_available() else "cpu")


def search_times(x: NDArray[Any], y: NDArray[Any], repeats: int) -> Times:
    """The whole search: launched each time, replayed from a CUDA graph, on float16 pictures, by
    L2; and each kernel of the search alone."""
    clock, search, half = Clock(), Search(x, y), Search(x, y, half=True)
    times = {"whole search": clock.median_ms(search.launch, repeats)}
    if torch.cuda.is_available():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            search.launch()
        times["whole search, CUDA graph"] = clock.median_ms(graph.replay, repeats)
    times["whole search, float16 pictures"] = clock.median_ms(half.launch, repeats)
    times["whole search by L2"] = clock.median_ms(lambda: search.launch("l2"), max(repeats // 5, 1))
    return times | _kernel_times(clock, search, repeats)


def block_times(x_dec: NDArray[Any], y_dec: NDArray[Any], y: NDArray[Any], repeats: int) -> Times:
    """Refinement by blocks, of uint8 pictures with sides that are multiples of 8: whole, and each
    of its kernels alone."""
    clock, device = Clock(), chosen_device()
    kernels, matches = BlockKernels(device, PATCH), match(x_dec, y_dec, patch=PATCH)
    views = [on_device(device, to_planes(view)) for view in (x_dec, y_dec, y)]
    row, col = (on_device(device, places) for places in (matches.row, matches.col))
    with device.current():
        stream = Stream(device)

        def refine() -> None:
            kernels.rounded(views[0], stream)
            kernels.side_planes(views[0], views[1], views[2], row, col, stream)

        with _current(stream):
            times = {"whole refinement": clock.median_ms(refine, repeats)}
            with _watched_block_launches(clock) as launches:
                for _ in range(repeats):
                    refine()
            return times | _medians(clock, launches)


@contextmanager
def _current(stream: Stream) -> Iterator[None]:
    """Marks within are of this stream."""
    if not torch.cuda.is_available():
        yield
        return
    own: Any = torch.cuda.ExternalStream(stream.handle)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(own):
        yield


def _kernel_times(clock: Clock, search: Search, repeats: int) -> Times:
    with _watched_launches(clock) as launches:
        for _ in range(repeats):
            search.launch()
    return _medians(clock, launches)


Launches = list[tuple[str, Any, Any]]
"""Name of each kernel that was launched, and marks around it. One that a search launches twice
counts as two."""


def _medians(clock: Clock, launches: Launches) -> Times:
    found: dict[str, list[float]] = {}
    for name, begin, end in launches:
        found.setdefault(f"kernel {name}", []).append(clock.ms(begin, end))
    return {name: statistics.median(ms) for name, ms in found.items()}


@contextmanager
def _watched_block_launches(clock: Clock) -> Iterator[Launches]:
    seen: Launches = []
    plain = BlockKernels._launch

    def launch(kernels: BlockKernels, name: str, *rest: Any) -> None:
        begin = clock.mark()
        plain(kernels, name, *rest)
        seen.append((name, begin, clock.mark()))

    with mock.patch.object(BlockKernels, "_launch", launch):
        yield seen


@contextmanager
def _watched_launches(clock: Clock) -> Iterator[Launches]:
    seen: Launches = []
    plain = patch_cuda._launch
    names: dict[int, str] = {}
    load = patch_cuda.PatchCorrelationKernel._functions

    def functions(kernel: Any, *key: Any) -> dict[str, Any]:
        found = load(kernel, *key)
        names.update({id(function): name for name, function in found.items()})
        return found

    def launch(function: Any, *rest: Any) -> None:
        begin = clock.mark()
        plain(function, *rest)
        seen.append((names[id(function)], begin, clock.mark()))

    kernel = patch_cuda.PatchCorrelationKernel
    with (
        mock.patch.object(patch_cuda, "_launch", launch),
        mock.patch.object(kernel, "_functions", functions),
    ):
        yield seen
