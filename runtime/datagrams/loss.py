"""How many datagrams are lost, from what the receiver says came."""

import time
from collections import deque

REMEMBERED_S = 10.0
LEAST, MOST = 60, 400
"""Datagrams that loss is measured over: at least, so that it is no accident, and at most, so that
it is of now."""


class LossMeter:
    """Takes in (how many were sent until then, how many of these came) and tells the loss.

    Both only grow, but where datagrams overtake each other what looked lost comes after all.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])

    def report(self, sent: int, came: int, now_s: float | None = None) -> None:
        """Note that of the first `sent` datagrams `came` have come. Old reports that come late, and
        impossible ones, are ignored."""
        now_s = time.monotonic() if now_s is None else now_s
        _, last_sent, last_came = self._reports[-1]
        if sent < last_sent or came < last_came or not came <= sent:
            return
        if (sent, came) != (last_sent, last_came):
            self._reports.append((now_s, sent, came))
        while len(self._reports) > 2 and self._is_old(now_s):
            self._reports.popleft()

    def _is_old(self, now_s: float) -> bool:
        """Whether the second report is as good a beginning as the first."""
        span = self._reports[-1][1] - self._reports[1][1]
        return span >= MOST or (span >= LEAST and now_s - self._reports[1][0] > REMEMBERED_S)

    @property
    def lost(self) -> int:
        """Of all datagrams so far."""
        _, sent, came = self._reports[-1]
        return sent - came

    @property
    def loss(self) -> float:
        """The share that was lost lately, 0 to 1."""
        _, sent, came = self._reports[-1]
        _, before, came_before = self._reports[0]
        span = sent - before
        return 0.0 if span <= 0 else max(0.0, 1 - (came - came_before) / span)

    @property
    def cautious(self) -> float:
        """What to be prepared for: 0 where nothing was lost, else the loss that may be behind the
        one that was seen."""
        span = self._reports[-1][1] - self._reports[0][1]
        seen = self.loss
        return 0.0 if seen <= 0 else min(0.6, (seen * span + 1) / (span + 2))
