"""Time per stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dsin.runtime.trace import add_slice


class Stopwatch:
    """Milliseconds of each named stage, in `ms`; a stage that runs twice adds up."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs within."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end = time.perf_counter_ns()
            self.ms[name] = self.ms.get(name, 0.0) + (end - start) / 1e6
            add_slice(name, start, end)
