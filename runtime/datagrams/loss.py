"""How many datagrams are lost, from what the receiver says came."""

import time
from collections import deque

from dsin.runtime.datagrams.sealing import WINDOW, ReplayWindow

SETTLED_S = 0.15
"""A datagram that others overtook by that is lost."""
BURST = 8
"""So many datagrams lost one after the other are an outage: hardly ever an accident, even where one
in five is lost."""
REMEMBERED_S = 10.0
LEAST, MOST = 60, 400
"""Datagrams that loss is measured over: at least, so that it is no accident, and at most, so that
it is of now."""


class Settled:
    """Of the datagrams that came, those which none will overtake any more: what is missing among
    them is lost, and not late."""

    def __init__(self, seen: ReplayWindow) -> None:
        self._seen = seen
        self._marks: deque[tuple[float, int]] = deque()
        self._until = -1
        self._run = 0
        """Missing datagrams up to `_until`."""
        self.bursts = 0
        """Datagrams lost in runs of BURST and more."""

    def counts(self, now_s: float) -> tuple[int, int]:
        """How many were sent until SETTLED_S ago, but for those lost in bursts, against which
        parity is no help, and how many of these came."""
        if not self._marks or self._marks[-1][1] != self._seen.highest:
            self._marks.append((now_s, self._seen.highest))
        while self._marks and (
            now_s - self._marks[0][0] >= SETTLED_S
            or self._seen.highest - self._marks[0][1] >= WINDOW // 2
        ):
            self._settle(self._marks.popleft()[1])
        self._settle(self._seen.highest - WINDOW // 2)
        received = self._seen.received_until(self._until)
        # What was taken for a burst may have been held up, and come after all.
        return max(received, self._until + 1 - self._run - self.bursts), received

    def _settle(self, until: int) -> None:
        known = max(self._until, self._seen.highest - WINDOW)
        self._run += known - self._until if until > known else 0
        for sequence in range(known + 1, until + 1):
            if not self._seen.came(sequence):
                self._run += 1
                continue
            self.bursts += self._run if self._run >= BURST else 0
            self._run = 0
        self._until = max(self._until, until)


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
