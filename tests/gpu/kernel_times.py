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

from dsin.runtime import patch_cuda
from dsin.runtime.cuda_driver import Device
from dsin.runtime.patch_cuda_plan import KERNELS, workspace_bytes
from dsin.training.presets import Quirks, SearchConfig
from dsin.training.si_finder import SideInformationFinder

PATCH = (20, 24)
WARM_UP = 10
MOST_MS = 2000.0
"""About what the calls for one median may take together."""
Times = dict[str, float]


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
                batch=1, height=self._size[0], width=self._size[1], half=self._half, patch=PATCH,
                prior=True, measure=measure, off_centre=False, stretched=False, stream=stream,
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
    return times | {f"kernel {n}": ms for n, ms in _kernel_times(clock, search, repeats).items()}


def _kernel_times(clock: Clock, search: Search, repeats: int) -> Times:
    with _watched_launches(clock) as launches:
        for _ in range(repeats):
            search.launch()
    found: dict[str, list[float]] = {}
    for name, begin, end in launches:
        found.setdefault(name, []).append(clock.ms(begin, end))
    return {name: statistics.median(ms) for name, ms in found.items()}


@contextmanager
def _watched_launches(clock: Clock) -> Iterator[list[tuple[str, Any, Any]]]:
    """Name of each kernel that is launched within, and marks around it. A kernel that is launched
    twice in a search counts as two."""
    seen: list[tuple[str, Any, Any]] = []
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


def kernel_names() -> tuple[str, ...]:
    """Of the search by correlation."""
    return KERNELS["pearson"]


def brute_force_times(
    x: NDArray[Any], y: NDArray[Any], kinds: tuple[str, ...], repeats: int
) -> dict[str, tuple[float, float]]:
    """PyTorch's convolution over all positions, with its products in each kind: milliseconds, and
    how many of the positions are those of float32, in percent. TensorFloat-32 and the 16-bit kinds
    run on tensor cores."""
    clock, x_dec, y_dec = Clock(), planes(x), planes(y)
    finder = SideInformationFinder(SearchConfig(patch=PATCH), Quirks())
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
