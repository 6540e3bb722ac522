"""How this package compiles its kernels with numba."""

import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numba

from dsin.runtime.caches import own_kernels

MAX_THREADS = 4
"""More threads than this spend their time waiting for each other between fronts."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Part = TypeVar("_Part")
Crew = Callable[[Callable[[_Part], object], Iterable[_Part]], None]
"""Does a piece of work for each of some parts, side by side, and waits for all of them."""
_POOL = threading.Lock()

# numba's own pool needs no further library, and its threads sleep where OpenMP's spin: with other
# work on the same cores, a decoder that meets 350 times per frame was 5 to 10 times faster.
if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "workqueue"
numba.config.CACHE_DIR = str(own_kernels())


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """`numba.njit` without the GIL that keeps the function's type; for use in other kernels."""
    decorate: Callable[[_Function], _Function] = numba.njit(
        nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options
    )
    return decorate


def entry_point(**options: Any) -> Callable[[_Function], _Function]:
    """A kernel that Python calls, cached on disk.

    Its arguments are arrays, numbers and plain tuples: a cache index that names a class of ours
    could not be read once that class changes.
    """
    return kernel(cache=True, **options)


@contextmanager
def quick_compilation() -> Iterator[None]:
    """Around what compiles many kernels, in a quarter less time.

    LLVM's first level of optimisation makes them as fast as the third one, which is numba's
    default, and 15 % sooner; without collecting garbage it takes another 9 % less. $NUMBA_OPT is
    respected.
    """
    level, collecting = numba.config.OPT, gc.isenabled()
    if "NUMBA_OPT" not in os.environ:
        numba.config.OPT = type(level)(1)
    gc.disable()
    try:
        yield
    finally:
        numba.config.OPT = level
        if collecting:
            gc.enable()


@contextmanager
def thread_pool() -> Iterator[int]:
    """Around each call of a parallel entry point: how many threads it has, at most MAX_THREADS.

    One caller at a time: numba's pool ends the process when two Python threads enter it at once.
    """
    with _POOL:
        before = numba.get_num_threads()
        threads = min(before, MAX_THREADS)
        numba.set_num_threads(threads)
        try:
            yield threads
        finally:
            numba.set_num_threads(before)


@contextmanager
def crew(threads: int | None) -> Iterator[Crew[Any]]:
    """The caller and plain threads beside it, so many together (None: one per core), for kernels,
    which release the GIL: any number of callers may have one at once."""
    count = threads or len(os.sched_getaffinity(0))
    if count == 1:
        yield _one_after_the_other
        return
    with ThreadPoolExecutor(count - 1) as pool:

        def share(work: Callable[[_Part], object], parts: Iterable[_Part]) -> None:
            left = iter(list(parts))  # whoever has time takes the next one
            _share(pool, [partial(_one_after_the_other, work, left)] * count)

        yield share


def _one_after_the_other(work: Callable[[_Part], object], parts: Iterable[_Part]) -> None:
    for part in parts:
        work(part)


class Team:
    """Plain threads (None: one per core), at most MAX_THREADS, that stay for kernels too short to
    start threads for. Any number of callers may share one."""

    def __init__(self, threads: int | None = None) -> None:
        self.count = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS)
        # It starts its threads when they are needed, and ends them with itself.
        self._pool = ThreadPoolExecutor(max(self.count - 1, 1), "team")

    def share(self, work: Callable[[int], object]) -> None:
        """Call work(0) here and work(1) to work(count - 1) beside it; wait for all of them."""
        _share(self._pool, [partial(work, task) for task in range(self.count)])


def _share(pool: ThreadPoolExecutor, works: Sequence[Callable[[], object]]) -> None:
    """Call the first here and the others beside it; wait for all of them. What has not begun by
    then, since other processes have the cores, is not waited for but done here."""
    others = [pool.submit(work) for work in works[1:]]
    try:
        works[0]()
        for work, other in zip(works[1:], others, strict=True):
            if other.cancel():
                work()
    except BaseException:
        wait(others)
        raise
    for other in others:
        if not other.cancelled():
            other.result()


def bands(rows: int, height: int) -> list[range]:
    """Rows in parts of at most `height`."""
    return [range(r, min(r + height, rows)) for r in range(0, rows, height)]
