"""Frames under way in datagrams: how many there may be, and which never came.

A frame counts until its answer comes or a report shows that it never came. Where nothing at all
gets through for a while, as in a burst of losses, frames whose answers are overdue do not count, so
that the first frame after it is not kept waiting; where all only takes longer, they do, since more
would make a full link fuller.
"""

import math
import time
from collections import deque
from typing import NamedTuple

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import CREDITS

REMEMBERED = 32
"""Round trips that the shortest one is of, and frames that decoding took so long for."""
LEAST_DECODE_MS = 5.0
RESERVE_S = 0.1
"""An answer that the server repeats may come so much after the one that was lost."""
GAPS = 8
"""Of the last times without news, the longest is usual."""
LEAST_GAP_S, STALLED = 0.1, 2.0
"""A way is stalled that brings nothing for so many usual gaps; the least is between two reports."""
LOST_S = 1.0
"""A frame whose answer is overdue by that is lost."""


class Verdict(NamedTuple):
    """What a report says of frames under way."""

    acks: list[dsin_v1.Ack]
    lost: list[int]


class RoundTrip:
    """Smoothed as TCP does it (RFC 6298), and the shortest of the last ones."""

    def __init__(self) -> None:
        self.smooth_s = self.variation_s = 0.0
        self._recent: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, seconds: float) -> None:
        """A round trip that was measured."""
        first = not self._recent
        self._recent.append(seconds)
        if first:
            self.smooth_s, self.variation_s = seconds, seconds / 2
            return
        self.variation_s += (abs(seconds - self.smooth_s) - self.variation_s) / 4
        self.smooth_s += (seconds - self.smooth_s) / 8

    @property
    def shortest_s(self) -> float:
        return min(self._recent, default=0.0)

    @property
    def overdue_s(self) -> float:
        """What is not back after so long is not on its usual way."""
        return self.smooth_s + 4 * self.variation_s + RESERVE_S


class Flight:
    """Not for several threads at once."""

    def __init__(self, granted: int) -> None:
        self.round_trip = RoundTrip()
        self._granted = granted
        self._sent: dict[int, float] = {}
        self._pending: set[int] = set()
        self._decode_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._newest_report = 0
        self._newest_datagram = -1
        self._progress_s = float("-inf")
        self._gaps: deque[float] = deque(maxlen=GAPS)

    def __len__(self) -> int:
        """Frames that are neither answered nor lost."""
        return len(self._sent)

    def sent(self, number: int, now_s: float | None = None) -> None:
        """A frame is under way from now on."""
        self._sent[number] = time.monotonic() if now_s is None else now_s

    def report(self, report: dsin_v1.LinkReport, now_s: float | None = None) -> Verdict:
        """Take in a report; one that another has overtaken says nothing new."""
        if report.number <= self._newest_report:
            return Verdict([], [])
        self._newest_report = report.number
        self._note_progress(report.newest, time.monotonic() if now_s is None else now_s)
        self._pending = set(report.pending)
        acks = [ack for ack in report.acks if self._sent.pop(ack.frame_number, None) is not None]
        self._decode_ms.extend(
            ack.decode_ms for ack in acks if ack.status == dsin_v1.DECODED
        )  # fmt: skip
        told = [*self._pending, *(ack.frame_number for ack in report.acks)]
        newest = max(told, default=-1)
        lost = [n for n in self._sent if n < newest and n not in self._pending]
        for number in lost:
            del self._sent[number]
        return Verdict(acks, lost)

    def overdue(self, now_s: float | None = None) -> list[int]:
        """Frames that are lost for nothing was heard of them; they are under way no longer."""
        now_s = time.monotonic() if now_s is None else now_s
        limit_s = max(LOST_S, 2 * self._answer_s)
        lost = [
            n for n, at_s in self._sent.items() if now_s - at_s > limit_s and n not in self._pending
        ]
        for number in lost:
            del self._sent[number]
        return lost

    def has_room(self, now_s: float | None = None) -> bool:
        """Whether another frame may be sent."""
        now_s = time.monotonic() if now_s is None else now_s
        limit_s = self._answer_s if self._is_stalled(now_s) else math.inf
        counted = sum(
            n in self._pending or now_s - at_s <= limit_s for n, at_s in self._sent.items()
        )
        return counted < self.window

    def _note_progress(self, newest: int, now_s: float) -> None:
        """The server has that datagram."""
        if newest > self._newest_datagram:
            self._gaps.append(min(LOST_S, now_s - self._progress_s))
            self._newest_datagram, self._progress_s = newest, now_s

    def _is_stalled(self, now_s: float) -> bool:
        usual_s = max(LEAST_GAP_S, *self._gaps) if len(self._gaps) == GAPS else LEAST_GAP_S
        return now_s - self._progress_s > STALLED * usual_s

    @property
    def window(self) -> int:
        """Frames that may be under way: as over a short way, one that is decoded and one that
        waits, and those that a long way holds while these are decoded."""
        on_the_way = 1000 * self.round_trip.shortest_s / max(LEAST_DECODE_MS, self._decoding_ms)
        return min(self._granted, CREDITS + math.ceil(on_the_way - 0.5))

    @property
    def _decoding_ms(self) -> float:
        return sorted(self._decode_ms)[len(self._decode_ms) // 2] if self._decode_ms else 0.0

    @property
    def _answer_s(self) -> float:
        """The longest that an answer should take."""
        return self.round_trip.overdue_s + CREDITS * self._decoding_ms / 1000
