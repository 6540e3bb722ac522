"""A camera, a device with `--kbps auto`, a link and a server in virtual time: what a stream of
frames does on a link, in milliseconds of computing and the same each time."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device.link_rate import LinkFigures, LinkRate
from support.link_model import (
    IP_UDP_BYTES,
    SEGMENT_BYTES,
    Conditions,
    SegmentStream,
    VirtualTime,
    Wire,
)

POINTS = (0.022, 0.037, 0.056, 0.082, 0.118, 0.165, 0.21, 0.263)
"""Bits per pixel of the shipped bundle's rates, about."""
PIXELS = 320 * 1224
PIECE_BYTES = 1200
DECODE_S = 0.03
STEP_S = 0.01
CREDITS = 2


@dataclass
class Moment:
    """A frame that was decoded: when it was taken and when it was done, seconds; its size, and what
    was aimed at."""

    taken_s: float
    done_s: float
    size: int
    figures: LinkFigures

    @property
    def age_s(self) -> float:
        return self.done_s - self.taken_s


@dataclass
class SimulatedStream:
    """Streams frames over a link whose `conditions` may be changed between two calls of `run`.

    Frames travel as datagrams, any pieces of which make up for as many lost ones as there are
    pieces of parity (that share of a frame's, rounded up), or over TCP (`tcp`).
    `credits` of them may be under way. The receiver's clock is `clock_s` ahead.
    """

    conditions: Conditions
    fps: float = 10.0
    tcp: bool = False
    parity: float = 0.0
    credits: int = CREDITS
    clock_s: float = 1000.0
    seed: int = 0
    decoded: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = VirtualTime()
        self._random = random.Random(self.seed)
        self._controller = RateController(POINTS, pixels=PIXELS, target_kbps=200, fps=self.fps)
        sizes = self._controller.predicted_sizes
        self.link = LinkRate(fps=self.fps, smallest_bytes=sizes[0], largest_bytes=sizes[-1])
        self._forth = Wire(self.world, self.conditions, seed=self.seed)
        # Answers are small: the way back has the delay, and no limit.
        self._back = Wire(self.world, Conditions(delay_s=self.conditions.delay_s), seed=self.seed)
        self._stream = SegmentStream(self.world, self._forth, self._segment_came)
        self._coming: list[tuple[int, Callable[[], object]]] = []
        self._came = 0
        self._number = 0
        self._taken = -1
        self._under_way: dict[int, float] = {}

    def run(self, seconds: float) -> list[Moment]:
        """Let so much time go by; the frames that were decoded meanwhile."""
        seen, end_s = len(self.decoded), self.world.time() + seconds
        while self.world.time() < end_s - 1e-9:
            self._step()
            self.world.run_until(self.world.time() + STEP_S)
        return self.decoded[seen:]

    def _step(self) -> None:
        now_s = self.world.time()
        newest = int(now_s * self.fps + 1e-9)
        self._give_up(now_s)
        if len(self._under_way) >= self.credits or newest <= self._taken:
            return
        self.link.sizes(self._controller.predicted_sizes[0], self._controller.predicted_sizes[-1])
        plan = self.link.plan(now_s)
        if plan.wait_s > 0:
            return
        self._taken = newest
        self._controller.aim(plan.kbps)
        rate = self._controller.next_rate()
        size = round(POINTS[rate] * PIXELS / 8 * self._random.uniform(0.9, 1.1))
        self._controller.sent(rate, size)
        self._send(newest / self.fps, size)

    def _send(self, taken_s: float, size: int) -> None:
        number, self._number = self._number, self._number + 1
        sent_s = self.world.time()
        self.link.sent(number, size, sent_s)
        self._under_way[number] = sent_s
        if self.tcp:
            lengths = _cut(size, SEGMENT_BYTES)
            self._coming += [(size, lambda: self._arrived(number, taken_s, size))]
            for length in lengths:
                self._stream.send(bytes(length))
            return
        lengths = _cut(size, PIECE_BYTES)
        needed, there = len(lengths), set[int]()
        lengths += [lengths[0]] * math.ceil(self.parity * needed)

        def came(piece: int) -> None:
            if piece not in there:
                there.add(piece)
                if len(there) == needed:
                    self._arrived(number, taken_s, size)

        for piece, length in enumerate(lengths):
            self._forth.send(length + IP_UDP_BYTES, lambda p=piece: came(p))

    def _segment_came(self, segment: bytes) -> None:
        self._came += len(segment)
        while self._coming and self._came >= self._coming[0][0]:
            size, arrived = self._coming.pop(0)
            self._came -= size
            arrived()

    def _arrived(self, number: int, taken_s: float, size: int) -> None:
        arrival_s = self.world.time()
        self.world.call_at(
            arrival_s + DECODE_S, lambda: self._done(number, taken_s, size, arrival_s)
        )

    def _done(self, number: int, taken_s: float, size: int, arrival_s: float) -> None:
        self.decoded.append(Moment(taken_s, self.world.time(), size, self.link.figures))
        self._back.send(60, lambda: self._confirmed(number, arrival_s))

    def _confirmed(self, number: int, arrival_s: float) -> None:
        self.link.confirmed(number, arrival_s + self.clock_s, self.world.time())
        self._under_way.pop(number, None)
        if not self.tcp:  # what it has overtaken is lost
            for older in [n for n in self._under_way if n < number]:
                self._lost(older)

    def _give_up(self, now_s: float) -> None:
        """A datagram transport tells of losses by itself after a while."""
        if not self.tcp:
            patience_s = 2 * self.conditions.delay_s + 0.9
            for number, sent_s in list(self._under_way.items()):
                if now_s - sent_s > patience_s:
                    self._lost(number)

    def _lost(self, number: int) -> None:
        self._under_way.pop(number, None)
        self.link.lost(number)


def _cut(size: int, piece: int) -> list[int]:
    """Lengths of the pieces of so many bytes."""
    return [min(piece, size - start) for start in range(0, size, piece)]
