"""Which side image goes with a frame: pairing by capture time, and what happens without a partner.

    y of the same moment (within tolerance_ms)               ─► PAIRED
    it may still come: wait for it, wait_ms at most
    else the newest y before it, at most max_age_ms older    ─► PREVIOUS
    else                                                     ─► MISSING: decoded without

Times are of one clock: the server's, into which both cameras' are converted, or a recording's own.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dsin.runtime.errors import StreamError
from dsin.runtime.rig_frame import SideUse, SideView

if TYPE_CHECKING:
    from dsin.runtime.decode_worker import Prepared

MOST_WAIT_MS = 60_000.0
"""Nobody waits longer for a side image, and threads cannot be told to wait for ever."""
KEPT = 4
"""Side images kept for each rig."""
PREPARED = 2
"""Of these, the newest so many may keep what was prepared of them."""


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
    """A side image, when it was captured (nanoseconds), and what was prepared of it."""

    view: SideView
    captured_ns: int
    in_doubt: bool = False
    """Its camera's clock may have stepped: `captured_ns` may be wrong."""
    prepared: "Prepared | None" = None
    preparing: bool = False
    fresh: bool = field(default=True, repr=False)
    """Nobody has tried to prepare it yet."""


class SideBuffer:
    """The newest side images of one rig. Not for several threads at once."""

    def __init__(self, policy: PairingPolicy) -> None:
        self.policy = policy
        self._stored: deque[StoredSide] = deque(maxlen=KEPT)

    def add(self, view: SideView, captured_ns: int, in_doubt: bool = False) -> StoredSide:
        """Keep a side image; what was prepared of older ones is let go of."""
        stored = StoredSide(view, captured_ns, in_doubt)
        self._stored.append(stored)
        for old in list(self._stored)[:-PREPARED]:
            old.prepared = None
        return stored

    def clear(self) -> None:
        """Forget all, as when the camera's clock has stepped."""
        self._stored.clear()

    @property
    def newest(self) -> StoredSide | None:
        """What came last."""
        return self._stored[-1] if self._stored else None

    def choose(self, captured_ns: int) -> tuple[StoredSide | None, SideUse]:
        """The side image for a frame captured then, and how it fits."""
        nearest = min(self._stored, key=lambda s: abs(s.captured_ns - captured_ns), default=None)
        if nearest is None:
            return None, SideUse.MISSING
        if abs(nearest.captured_ns - captured_ns) <= 1e6 * self.policy.tolerance_ms:
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
        return newest is None or newest < captured_ns - 1e6 * self.policy.tolerance_ms
