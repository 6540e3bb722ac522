"""On a fresh installation: compile what decoding needs on all cores instead of one.

numba compiles one kernel at a time in a process. So other processes compile the search's and the
flow's, leave them in numba's cache, and this process loads them from there, as later runs do: in
the process that compiled it, a kernel's float32 results may differ in the last digits, for there it
calls other copies of what it calls. This one compiles the entropy coder, which has integers only.
Nothing depends on it: a kernel that is missing is compiled when it is first called.

Without numba and the kernels, so that the others have begun before this process loads these.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from dsin.runtime.caches import has_kernels

LOG = logging.getLogger(__name__)
MOST = 3
"""Other processes: the longest part takes a third of the time of all."""
_PROGRAM = "from dsin.runtime.sources.kernel_parts import compile_parts; compile_parts(0)"

CompileRest = Callable[[Callable[[], object]], None]


@contextmanager
def compile_ahead() -> Iterator[CompileRest]:
    """Around opening a decoder: other processes compile meanwhile what decoding beside a side image
    needs. What this gives takes what calls the kernels of the entropy coder; call it before the
    first side image, and all of them are compiled when it returns. Does nothing where kernels of
    the search are kept from an earlier run, or there is one core only."""
    cores = len(os.sched_getaffinity(0))
    if has_kernels("patch_correlation") or cores < 2:
        yield lambda _: None
        return
    with _numbers_of_parts() as parts, ExitStack() as waiting:
        others = [waiting.enter_context(_start(parts)) for _ in range(min(cores, MOST))]

        def compile_rest(entropy: Callable[[], object]) -> None:
            from dsin.runtime.compiled import quick_compilation

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
    """A pipe with numbers from 0 on, each of which is read by one process only."""
    parts, target = os.pipe()
    try:
        os.write(target, bytes(range(256)))
        os.close(target)
        yield parts
    finally:
        os.close(parts)


def _start(parts: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=parts, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
