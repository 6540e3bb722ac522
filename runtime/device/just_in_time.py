"""When a device takes its next frame: as late as it can and still reach the server in time.

Of two frames under way one is decoded while the other waits, and grows old. The server's answers
tell how long frames were decoded and waited, so the rest of the way is known too, from the moment
a frame was taken from the camera to the answer:

    server        ├──── A ────┤├──── B ────┤├──── C ────┤
    C, at once                 ├─way─┤waits─┤
    C, in time                 ├─hold─┤├─way─┤
"""

import math
import time
from collections import deque

REMEMBERED = 8
"""Answers that are gone by: the quickest decoding and the longest way of these."""
RESERVE_MS, RESERVE_SHARE = 10.0, 0.15
"""Frames are to arrive so much before the server is done, or that share of the decoding. The server
should rather keep a frame waiting than wait for one."""
MOST_MS = 5000.0
"""Nothing is held for longer, whatever a server says: one that is stuck has to be noticed."""


class JustInTime:
    """Holds frames back while another one is decoded. One thread may tell it of answers while
    another one asks."""

    def __init__(self) -> None:
        self._decode_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._way_ms: deque[float] = deque(maxlen=REMEMBERED)
        self.due_s = float("-inf")
        """When the next frame should be taken, as time.monotonic tells it, if one is decoded now.
        In the past, where a server is quicker than the way to it."""

    def answered(
        self, round_trip_ms: float, decode_ms: float, waited_ms: float, now_s: float | None = None
    ) -> None:
        """Note an answer that came now, `round_trip_ms` after the frame was taken."""
        if not math.isfinite(decode_ms + waited_ms):
            return
        self._decode_ms.append(decode_ms)
        self._way_ms.append(round_trip_ms - decode_ms - waited_ms)
        decoding_ms = min(self._decode_ms)
        reserve_ms = max(RESERVE_MS, RESERVE_SHARE * decoding_ms)
        hold_ms = min(MOST_MS, max(0.0, decoding_ms - max(self._way_ms) - reserve_ms))
        self.due_s = (time.monotonic() if now_s is None else now_s) + hold_ms / 1000
