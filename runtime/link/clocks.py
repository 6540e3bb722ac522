"""A clock that never steps, and what the server knows of a camera's clock.

Each exchange of probe and reply bounds the camera's offset: it lies within half the round trip of
the middle, however unequal the two ways are (RFC 5905, section 8). The exchange with the shortest
round trip of the last WINDOW_S is believed; an exchange that contradicts it means that one of the
clocks has stepped, and what was known before is forgotten.
"""

import time
from collections import deque
from typing import NamedTuple

WINDOW_S = 10.0
"""Exchanges older than that are forgotten, so a drift of 100 ppm costs a millisecond at most."""
DRIFT_PPM = 200
"""Clocks of cameras and servers drift apart by less than that."""
GUARD_NS = 25_000_000
"""A frame that was under way so much longer than the quickest, or arrived so much before it was
sent, may have a timestamp of a clock that has stepped."""
_EXCHANGES, _FRAMES = 32, 512
"""Remembered at most, however many come within WINDOW_S: each is looked at for each frame."""

_ANCHOR_NS = time.time_ns() - time.monotonic_ns()


def now_ns() -> int:
    """Nanoseconds since 1970 by a clock that was set once, when the process started, and never
    steps after that."""
    return _ANCHOR_NS + time.monotonic_ns()


class Offset(NamedTuple):
    """Camera's clock minus the server's, and how wrong that can be, nanoseconds."""

    ns: int
    error_ns: int


class _Exchange(NamedTuple):
    at_ns: int
    offset_ns: int
    error_ns: int


class CameraClock:
    """Offset of one camera's clock against this process's.

    clock.reply(server_send, camera_receive, camera_send, server_receive)
    server_ns = clock.to_server(frame.timestamp_ns)
    """

    def __init__(self) -> None:
        self._exchanges: deque[_Exchange] = deque(maxlen=_EXCHANGES)
        self._quickest: deque[tuple[int, int]] = deque(maxlen=_FRAMES)
        self.steps = 0
        """How often the clock was found to have stepped."""
        self._in_doubt = False

    def reply(
        self, server_send: int, camera_receive: int, camera_send: int, server_receive: int
    ) -> None:
        """Take in an exchange, all times in nanoseconds. Impossible ones are ignored."""
        held = camera_send - camera_receive
        way = server_receive - server_send - held
        if held < 0 or way < 0:
            return
        offset = (camera_receive - server_send + camera_send - server_receive) // 2
        self._forget(server_receive)
        known = self.offset(server_receive)
        if known is not None and abs(offset - known.ns) > way // 2 + known.error_ns:
            self.steps += 1
            self._exchanges.clear()
            self._quickest.clear()
        self._exchanges.append(_Exchange(server_receive, offset, way // 2))
        self._in_doubt = False

    def offset(self, at_ns: int | None = None) -> Offset | None:
        """The best bound there is at that time of the server; None before the first exchange."""
        at = now_ns() if at_ns is None else at_ns
        bounds = [
            Offset(e.offset_ns, e.error_ns + abs(at - e.at_ns) * DRIFT_PPM // 1_000_000)
            for e in self._exchanges
        ]
        return min(bounds, key=lambda bound: bound.error_ns, default=None)

    def to_server(self, camera_ns: int, at_ns: int | None = None) -> int:
        """A moment of the camera's clock in the server's; unchanged before the first exchange."""
        known = self.offset(at_ns)
        return camera_ns - (known.ns if known else 0)

    @property
    def in_doubt(self) -> bool:
        """Whether a frame looked as if the clock had stepped, and no exchange came since."""
        return self._in_doubt

    def watch(self, sent_ns: int, received_ns: int) -> bool:
        """Judge a frame by when it was sent (camera's clock) and received; true if it looks as
        if the clock had stepped since the last exchange. An exchange should be made then."""
        known = self.offset(received_ns)
        if known is None:
            self._in_doubt = True
            return True
        way = received_ns - (sent_ns - known.ns)
        while self._quickest and received_ns - self._quickest[0][0] > WINDOW_S * 1e9:
            self._quickest.popleft()
        usual = min((ns for _, ns in self._quickest), default=known.error_ns)
        if way < -known.error_ns - GUARD_NS or way > max(usual, 0) + known.error_ns + GUARD_NS:
            self._in_doubt = True
        else:
            self._quickest.append((received_ns, way))
        return self._in_doubt

    def _forget(self, at_ns: int) -> None:
        while self._exchanges and at_ns - self._exchanges[0].at_ns > WINDOW_S * 1e9:
            self._exchanges.popleft()
