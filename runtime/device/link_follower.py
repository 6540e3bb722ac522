"""`--kbps auto`: has the rate control of a stream follow its link.

`LinkRate` knows neither clocks nor threads nor answers; that is what is here.
"""

import threading
import time
from collections.abc import Callable

from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device.link_rate import LinkFigures, LinkRate
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1


class LinkFollower:
    """Steers `controller`, which chooses the rates of a camera of `fps` frames per second. One
    thread sends, others may tell of answers and losses. `clock` tells seconds."""

    def __init__(
        self,
        controller: RateController,
        fps: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        sizes = controller.predicted_sizes
        self._controller = controller
        self._link = LinkRate(fps=fps, smallest_bytes=sizes[0], largest_bytes=sizes[-1])
        self._clock = clock
        self._news = threading.Condition()

    @property
    def figures(self) -> LinkFigures:
        """What is known of the link."""
        with self._news:
            return self._link.figures

    def pause_s(self) -> float:
        """Seconds until another frame should be taken, as far as is known now."""
        with self._news:
            return self._link.plan(self._clock()).wait_s

    def wait(self, timeout_s: float) -> None:
        """Wait for an answer or a loss, for `timeout_s` at most."""
        with self._news:
            self._news.wait(timeout_s)

    def aim(self) -> None:
        """Have the controller aim at what the link takes with its next frame."""
        sizes = self._controller.predicted_sizes
        with self._news:
            self._link.sizes(sizes[0], sizes[-1])
            self._controller.aim(self._link.plan(self._clock()).kbps)

    def sent(self, frame: int, size: int) -> None:
        """A frame of `size` bytes is sent now."""
        with self._news:
            self._link.sent(frame, size, self._clock())

    def answered(self, ack: dsin_v1.Ack, now_s: float) -> None:
        """The answer to a frame came at `now_s`."""
        arrival_s = None
        if ack.status == dsin_v1.DECODED:  # only then does it tell when the frame arrived
            arrival_s = ack.server_time_ns / 1e9 - (ack.decode_ms + ack.waited_ms) / 1000
        with self._news:
            self._link.confirmed(ack.frame_number, arrival_s, now_s)
            self._news.notify_all()

    def lost(self, frame: int) -> None:
        """The transport knows that a frame will not arrive."""
        with self._news:
            self._link.lost(frame)
            self._news.notify_all()

    def restart(self) -> None:
        """The connection broke."""
        with self._news:
            self._link.restart()
            self._news.notify_all()
