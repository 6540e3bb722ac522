"""How far a command is, in one line on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

_Item = TypeVar("_Item")

INTERVAL_S = 0.1
"""The line is drawn at most that often, and by no thread: commands that measure show it too."""


class ProgressLine:
    """One line: redrawn on a terminal until the block ends, elsewhere the first that is shown.

        with ProgressLine(total=20) as progress:
            progress.show("starting")
            progress.show("0.02 bpp", done=1)

    On a terminal there is a bar too where `total` tells how many steps there are.
    """

    def __init__(self, total: int | None = None) -> None:
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
