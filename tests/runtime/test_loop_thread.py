"""An event loop beside the program: it is waited for, and what goes wrong at its start is told."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from dsin.runtime.loop_thread import LoopThread


def test_it_is_ready_after_start_and_over_after_stop() -> None:
    seen: list[str] = []

    async def serve(started: Callable[[int], None], stop: asyncio.Event) -> None:
        seen.append(threading.current_thread().name)
        started(8080)
        await stop.wait()
        seen.append("over")

    thread = LoopThread("server", serve)
    assert thread.start() == 8080
    assert seen == ["server"]
    thread.stop()
    assert seen == ["server", "over"]
    thread.stop()


def test_what_goes_wrong_before_it_is_ready_is_raised_once_it_has_ended() -> None:
    ended: list[bool] = []

    async def serve(started: Callable[[int], None], stop: asyncio.Event) -> None:
        try:
            raise OSError("the port is taken")
        finally:
            await asyncio.sleep(0.05)
            ended.append(True)

    thread = LoopThread("server", serve)
    with pytest.raises(OSError, match="the port is taken"):
        thread.start()
    assert ended == [True]
    assert "server" not in {each.name for each in threading.enumerate()}
    thread.stop()
