"""An event loop in a thread of its own, for servers that the rest of a program need not await."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Ready = TypeVar("Ready")


class LoopThread(Generic[Ready]):
    """Runs `serve(started, stop)`: it calls `started` once it is ready, with what `start` is to
    return, and ends when `stop` is set."""

    def __init__(
        self,
        name: str,
        serve: Callable[[Callable[[Ready], None], asyncio.Event], Coroutine[Any, Any, None]],
    ) -> None:
        self._serve = serve
        self._ready: Future[Ready] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Ready:
        """Wait until it is ready. Raises what went wrong before that; then it has ended."""
        self._thread.start()
        try:
            return self._ready.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Have it end, and wait for that."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._serve(self._ready.set_result, self._stop)
