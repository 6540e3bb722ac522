"""Which side image goes with a frame: pairing by capture time, and what happens without a partner.

    y of the same moment                                     ─► PAIRED
    it may still come: wait for it, wait_ms at most
    else the newest y before it, at most max_age_ms older    ─► PREVIOUS
    else                                                     ─► MISSING: decoded without

Times are of one clock: the server's, into which both cameras' are converted, or a recording's own.
A moment is tolerance_ms wide at most, and never more than half an interval of camera y: else the
neighbour of a side image that is on its way would pass for it.
"""

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from dsin.runtime.errors import StreamError
from dsin.runtime.outputs.decoded_frame import SideUse, SideView

if TYPE_CHECKING:
    from dsin.runtime.server.decode_worker import SidePreparation

MOST_WAIT_MS = 60_000.0
"""Nobody waits longer for a side image, and threads cannot be told to wait for ever."""
KEPT = 4
"""Side images kept for each rig."""
PREPARED = 2
"""Of these, the newest so many may keep what was prepared of them."""
FIRST_INTERVAL_NS = 8_000_000
"""Camera y's, until two of its pictures are there: that of a fast one (125 frames a second)."""


@dataclass(frozen=True)
class PairingPolicy:
    """Limits in milliseconds; see above. Raises StreamError for a negative one."""

    tolerance_ms: float = 50.0
    wait_ms: float = 50.0
    max_age_ms: float = 300.0

    def __post_init__(self) -> None:
        if not self.wait_ms <= MOST_WAIT_MS:
            raise StreamError(f"wait_ms of the pairing must be {MOST_WAIT_MS:.0f} at most")
        for name in ("tolerance_ms", "wait_ms", "max_age_ms"):
            if not getattr(self, name) >= 0:
                raise StreamError(f"{name} of the pairing must be 0 or more")


@dataclass
class StoredSide:
    """A side image, when it was captured (nanoseconds), and what was prepared from it."""

    view: SideView
    captured_ns: int
    clock_in_doubt: bool = False
    """Its camera's clock may just have stepped."""
    prepared: "SidePreparation | None" = None
    preparing: bool = False
    fresh: bool = field(default=True, repr=False)
    """Nobody has tried to prepare it yet."""


class SideBuffer:
    """The newest side images of one rig. Not for several threads at once.

    `interval_ns` is camera y's where it is known before; else it is found from the numbers and
    times of the images.
    """

    def __init__(self, policy: PairingPolicy, interval_ns: int | None = None) -> None:
        self.policy = policy
        self._stored: deque[StoredSide] = deque(maxlen=KEPT)
        self._interval_ns: float = interval_ns or FIRST_INTERVAL_NS
        self._measured = interval_ns is None

    def add(self, view: SideView, captured_ns: int, *, clock_in_doubt: bool = False) -> StoredSide:
        """Keep a side image; what was prepared from older ones is discarded."""
        stored = StoredSide(view, captured_ns, clock_in_doubt)
        self._stored.append(stored)
        for old in list(self._stored)[:-PREPARED]:
            old.prepared = None
        if self._measured:
            self._interval_ns = _interval_ns(self._stored) or self._interval_ns
        return stored

    def clear(self) -> None:
        """Forget all, as when the camera's clock has stepped."""
        self._stored.clear()

    @property
    def newest(self) -> StoredSide | None:
        """What came last."""
        return self._stored[-1] if self._stored else None

    @property
    def tolerance_ns(self) -> float:
        """How far apart two pictures of one moment may be."""
        return min(1e6 * self.policy.tolerance_ms, self._interval_ns / 2)

    def choose(self, captured_ns: int) -> tuple[StoredSide | None, SideUse]:
        """The side image for a frame captured then, and how it fits."""
        nearest = min(self._stored, key=lambda s: abs(s.captured_ns - captured_ns), default=None)
        if nearest is None:
            return None, SideUse.MISSING
        if abs(nearest.captured_ns - captured_ns) <= self.tolerance_ns:
            return nearest, SideUse.PAIRED
        oldest_ns = captured_ns - 1e6 * self.policy.max_age_ms
        before = [s for s in self._stored if oldest_ns <= s.captured_ns <= captured_ns]
        if not before:
            return None, SideUse.MISSING
        return max(before, key=lambda s: s.captured_ns), SideUse.PREVIOUS

    def may_come(self, captured_ns: int) -> bool:
        """Whether the side image of that moment may still be on its way: all that came are
        older."""
        newest = max((s.captured_ns for s in self._stored), default=None)
        return newest is None or newest < captured_ns - self.tolerance_ns


def _interval_ns(stored: Iterable[StoredSide]) -> float | None:
    """Nanoseconds from one picture of the camera to the next, whether or not it was sent: the
    median, since one number may follow another after a time without a camera."""
    found = [
        (after.captured_ns - before.captured_ns) / (after.view.number - before.view.number)
        for before, after in pairwise(stored)
        if after.view.number > before.view.number and after.captured_ns > before.captured_ns
    ]
    return statistics.median(found) if found else None
