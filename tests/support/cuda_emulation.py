"""The CUDA kernels on a CPU: compiled by clang, launched through a driver of our own.

What runs is the product's source, host and device side alike: the kernels, the code that plans and
launches them, and NVIDIA's Python binding; `emulation/` has what stands in for the GPU. All
of it lives in a process of its own, since a process can have but one driver.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).parents[1] / "emulation"
TAIL = """
static void call_kernel()
{
    Job job;
    memcpy(&job, argument, sizeof job);
    kernel(job);
}
"""


@contextmanager
def worker() -> Iterator[ProcessPoolExecutor]:
    """A process in which the driver is the emulated one; skips where that cannot be built."""
    for name in ("ziglang", "cuda.bindings"):
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed: there are no wheels for this machine")
    with tempfile.TemporaryDirectory() as folder:
        before = dict(os.environ)
        os.environ["LD_LIBRARY_PATH"] = folder
        _compile([HERE / "driver.c"], Path(folder) / "libcuda.so.1", "-ldl")
        try:
            with ProcessPoolExecutor(1, get_context("spawn"), _replace_compiler, (folder,)) as pool:
                yield pool
        finally:
            os.environ.clear()
            os.environ.update(before)


class _Done:
    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


class InThisProcess:
    """Calls at once, where a worker's pool would call elsewhere."""

    def submit(self, work: Callable[..., Any], *args: Any, **options: Any) -> _Done:
        return _Done(work(*args, **options))


@contextmanager
def gpu() -> Iterator[InThisProcess]:
    """This process with its real GPU; skips where there is none."""
    from dsin.runtime.errors import BackendError
    from dsin.runtime.patch_correlation import patch_cuda

    try:
        patch_cuda.open_kernel()
    except BackendError as error:
        pytest.skip(f"no GPU: {error}")
    yield InThisProcess()


class Graphs(NamedTuple):
    """CUDA graphs since the process began, and records that were not freed."""

    instantiated: int
    launched: int
    destroyed: int
    records: int


def graphs() -> Graphs:
    """In a worker's process."""
    counts = (ctypes.c_int * 4)()
    ctypes.CDLL("libcuda.so.1").emulated_graphs(counts)
    return Graphs(*counts)


def copied_bytes() -> tuple[int, int]:
    """To the device and from it, in a worker's process."""
    counts = (ctypes.c_int64 * 2)()
    ctypes.CDLL("libcuda.so.1").emulated_copies(counts)
    return counts[0], counts[1]


def _replace_compiler(folder: str) -> None:
    from dsin.runtime.gpu import cuda_compiler

    cuda_compiler.cubin = cache(lambda source, architecture: _library(source, folder))
    cuda_compiler.version = lambda: "13.0"


def _library(source: str, folder: str) -> bytes:
    """Path of a library with the kernels of the source."""
    own = Path(tempfile.mkdtemp(dir=folder))
    code = own / "kernels.cpp"
    code.write_text(f'#include "{HERE / "device.h"}"\n{source}\n{TAIL}')
    _compile([code], own / "kernels.so", "-Wno-unused-value")
    return os.fsencode(own / "kernels.so") + b"\0"


def _compile(sources: list[Path], target: Path, *options: str) -> None:
    command: list[Any] = [
        sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O2", "-g0",
        "-fno-sanitize=undefined", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-nostdlib++",
        "-o", target, *sources, *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
