"""What the processor can do: a large matrix product, and a large copy.

Measured in a fresh process, so that its arrays do not count into the memory of what is profiled.
Each thread has a product of its own: a library that splits one product waits for its slowest part,
and says little of a processor that others use too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dsin.runtime.errors import DsinError

PRODUCT_SIZE = 1024
"""Rows and columns of the matrices: 1.07 GMAC each."""
COPY_BYTES = 2**27
"""More than the last cache of a processor holds, in most cases."""
SECONDS = 0.6
"""For each of the two measurements, after one run to warm up."""

_LIBRARY_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
)
_PROGRAM = "from dsin.runtime.profiling.chip import main; main()"


class ChipSpeed(NamedTuple):
    """GMAC/s of a float32 matrix product; GB/s that a copy reads and writes together."""

    gmacs: float
    gbytes: float


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_chip(threads: int | None) -> ChipSpeed:
    """The speed on that many threads (None: all). Raises DsinError if it cannot be measured."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(threads or available_threads())],
        env={**os.environ, **dict.fromkeys(_LIBRARY_THREADS, "1")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DsinError(f"cannot measure the processor's speed: {last}")
    return ChipSpeed(*json.loads(done.stdout))


def main() -> None:
    """Print both figures as a JSON list; the only argument is the number of threads."""
    threads = int(sys.argv[1])
    with ThreadPoolExecutor(threads) as pool:
        print(json.dumps([_product_gmacs(pool, threads), _copy_gbytes(pool, threads)]))


def _product_gmacs(pool: Executor, threads: int) -> float:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    outs = [np.empty_like(a) for _ in range(threads)]
    gmac = threads * PRODUCT_SIZE**3 / 1e9
    return gmac / _fastest_s(lambda: list(pool.map(lambda out: np.matmul(a, b, out=out), outs)))


def _copy_gbytes(pool: Executor, threads: int) -> float:
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.empty_like(source)
    parts = [np.array_split(array, threads) for array in (target, source)]
    return 2 * COPY_BYTES / 1e9 / _fastest_s(lambda: list(pool.map(np.copyto, *parts)))


def _fastest_s(work: Callable[[], object]) -> float:
    """The fastest run: others only ever slow one down."""
    work()
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
