"""How far a command is, in one line on stderr."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from dsin.runtime.caches import has_kernels

_Item = TypeVar("_Item")

INTERVAL_S = 0.1
"""The line is drawn at most that often, and by no thread: commands that measure show it too."""


DELAY_S = 1.5
"""What takes less shows nothing."""


class ProgressLine:
    """One line: redrawn on a terminal until the block ends, elsewhere the first that is shown.

        with ProgressLine(total=20) as progress:
            progress.show("starting")
            progress.show("0.02 bpp", done=1)

    On a terminal there is a bar too where `total` tells how many steps there are.
    """

    def __init__(self, total: int | None = None) -> None:
        _waits.end()
        self._told = False
        self._bar: Progress | None = None
        if not sys.stderr.isatty():
            return
        counted: list[ProgressColumn] = [BarColumn(24), MofNCompleteColumn()]
        self._bar = Progress(
            *(counted if total is not None else []),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            # What is printed meanwhile goes above the line, but not out of a file.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("", total=total)
        self._drawn_s = float("-inf")

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clear the line for what follows."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, line: str, done: int = 0) -> None:
        """Draw the line anew, with the number of steps done."""
        if self._bar is None:
            if not self._told:
                print(line, file=sys.stderr)
            self._told = True
            return
        due = time.monotonic() - self._drawn_s >= INTERVAL_S
        self._bar.update(self._task, description=line, completed=done, refresh=due)
        if due:
            self._drawn_s = time.monotonic()


def track(items: Sequence[_Item], description: str) -> Iterator[_Item]:
    """The items in turn, with a bar on a terminal that tells how many are done; elsewhere nothing
    is shown."""
    if not sys.stderr.isatty():
        yield from items
        return
    with ProgressLine(len(items)) as progress:
        for number, item in enumerate(items):
            progress.show(description, number)
            yield item


class _Wait:
    """The line of `waiting`, drawn by a thread of its own until something else is shown."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._shown: Progress | None = None

    def begin(self, line: str) -> None:
        """Show it once DELAY_S has passed."""
        with self._lock:
            self._timer = threading.Timer(DELAY_S, self._show, (line,))
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Take it away, or never show it."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._shown is not None:
                self._shown.stop()
            self._timer = self._shown = None

    def _show(self, line: str) -> None:
        if "dsin.runtime.compiled" in sys.modules and not has_kernels():
            line += "; the first run on a machine compiles, which takes up to a minute"
        with self._lock:
            if self._timer is None:
                return
            self._shown = Progress(
                SpinnerColumn(), TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(), console=Console(stderr=True), transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )  # fmt: skip
            self._shown.add_task(line, total=None)
            self._shown.start()


_waits = _Wait()


@contextmanager
def waiting(line: str) -> Iterator[None]:
    """On a terminal, a line with the seconds that go by, while the block lasts; for work whose
    length nobody knows. Elsewhere, and where it is short, nothing."""
    if not sys.stderr.isatty():
        yield
        return
    _waits.begin(line)
    try:
        yield
    finally:
        _waits.end()
