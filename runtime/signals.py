"""Whatever signal ends a command, from a terminal or a service manager, it ends in order.

A command that writes files finishes them: a video without its index does not play.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Ctrl-C, a service manager, a terminal that is closed, and Ctrl-backslash."""


def on_ending(call: Callable[[], object]) -> None:
    """Have `call` called for each of them, in the main thread, from which this is called.

    SIGHUP stays ignored where it is, as nohup wants.
    """
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: call())


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Within, each of them is a KeyboardInterrupt, which unwinds what is open; those that came are
    in the list."""
    came: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
