"""What becomes of decoded frames: sinks take them, each in a thread of its own.

    pool ─► DecodedFrame ─► SinkRunner ─► a folder of pictures, a recording, a page, …

A sink works behind a short queue, so that it can neither delay nor stop the stream. One that is too
slow misses frames, one that fails is tried again with the next frame; both are counted.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from dsin.runtime.errors import DsinError
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.trace import traced

_LOG = logging.getLogger("dsin.runtime.outputs.sinks")
_REMEMBERED_MESSAGES = 64
"""Distinct messages kept to log each once; a sink that makes more of them starts over."""


class Sink(Protocol):
    """Takes decoded frames, in order for each rig, always from one thread."""

    @property
    def name(self) -> str:
        """One word, for metrics and messages."""

    def take(self, frame: DecodedFrame) -> None:
        """Take a frame. Raises DsinError for what a person can put right, such as a full disk."""

    def close(self) -> None:
        """Write what is pending. This is called once, at the end."""


class SinkRunner:
    """Feeds one sink.

        runner = SinkRunner(PictureSink(folder))
        runner.offer(frame)   # returns at once
        runner.close()

    At most `depth` frames wait; the oldest gives way to a new one. Counts, for metrics: `taken`
    frames that the sink took, `missed` ones that it never saw, `failed` ones that it raised for;
    `last_error` is the newest of its messages, None before the first. What a sink raises is logged
    once for each distinct message, with its traceback where it is not a DsinError or OSError, and
    never reaches the caller.
    """

    def __init__(self, sink: Sink, depth: int = 4) -> None:
        if depth < 1:
            raise ValueError(f"a queue of {depth} frames holds none")
        self.name = sink.name
        self.taken = self.missed = self.failed = 0
        self.last_error: str | None = None
        self._sink = sink
        self._depth = depth
        self._waiting: deque[DecodedFrame] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._drain_until_s = float("inf")
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"sink {self.name}", daemon=True)
        self._thread.start()

    def offer(self, frame: DecodedFrame) -> None:
        """Queue a frame; never waits for the sink. After `close` frames are missed."""
        with self._changed:
            if self._closing:
                self.missed += 1
                return
            if len(self._waiting) == self._depth:
                self._waiting.popleft()
                self.missed += 1
            self._waiting.append(frame)
            self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the sink take what waits, for `timeout_s` seconds at most, and close it.

        A sink that still works on a frame by then is left behind, which is logged.
        """
        with self._changed:
            if not self._closing:
                self._closing = True
                self._drain_until_s = time.monotonic() + timeout_s
                self._changed.notify()
        # Closing itself may take a moment (the index of a recording), hence the second of grace.
        self._thread.join(timeout_s + 1.0)
        if self._thread.is_alive():
            _LOG.warning("%s: gave up waiting after %g s: it is not closed", self.name, timeout_s)

    def _run(self) -> None:
        while (frame := self._next()) is not None:
            with traced(self.name, frame=frame.number):
                taken = self._guarded(partial(self._sink.take, frame))
            if taken:
                self.taken += 1
            else:
                self.failed += 1
        self._guarded(self._sink.close)

    def _next(self) -> DecodedFrame | None:
        """The oldest frame that waits; None when all is done, or the time for it is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if time.monotonic() > self._drain_until_s:
                self.missed += len(self._waiting)
                self._waiting.clear()
            return self._waiting.popleft() if self._waiting else None

    def _guarded(self, work: Callable[[], None]) -> bool:
        """Whether it went well; what went wrong is noted."""
        try:
            work()
        except (DsinError, OSError) as error:
            self._note(str(error), None)
        except Exception as error:  # a fault of the sink must not end the stream either
            self._note(f"{type(error).__name__}: {error}", error)
        else:
            return True
        return False

    def _note(self, message: str, fault: Exception | None) -> None:
        self.last_error = " ".join(message.split())
        if self.last_error in self._logged:
            return
        if len(self._logged) == _REMEMBERED_MESSAGES:
            self._logged.clear()
        self._logged.add(self.last_error)
        _LOG.error("%s: %s", self.name, self.last_error, exc_info=fault)


class SinkRunners:
    """All sinks of a server, each in a thread of its own."""

    def __init__(self) -> None:
        self._runners: list[SinkRunner] = []

    def __iter__(self) -> Iterator[SinkRunner]:
        return iter(self._runners)

    def add(self, sinks: Sequence[Sink]) -> None:
        """Give frames to these sinks too."""
        self._runners += [SinkRunner(sink) for sink in sinks]

    def offer(self, frame: DecodedFrame) -> None:
        """Queue a frame for each sink; waits for none."""
        for runner in self._runners:
            runner.offer(frame)

    def close(self) -> None:
        """Let the sinks take what waits, and close them."""
        for runner in self._runners:
            runner.close()
