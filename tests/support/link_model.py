"""A bad link as a model: what becomes of each packet, and when it arrives.

    packets ─► queue (bounded) ─► token bucket ─► loss, outages ─► delay, jitter, reordering ─►

Nothing here opens a socket or reads a clock: a `Scheduler` tells the time and calls back, so that
tests run in `VirtualTime` and the proxy of `support.link_simulator` in its event loop, by the same
code. All of it is seeded; each packet takes the same number of draws whatever the conditions are.

**How TCP is modelled** (`SegmentStream`). A byte stream is cut into segments of at most 1,448
bytes, and each one takes its way through the same queue, loss and delay as a datagram. The receiver
gets bytes in order only, so a lost segment holds up all that were sent after it until it has been
sent again:

- after 1.25 round trips where later segments were sent meanwhile, which is when Linux's RACK
  (RFC 8985: a round trip and a reordering window of a quarter) finds it missing;
- after 2 round trips where it was the last one (the tail loss probe of RFC 8985);
- where that is lost too, after a retransmission timeout: a round trip and 200 ms (Linux's smallest
  allowance), twice as long each further time.

Real TCP would in addition narrow its congestion window with each loss, to about 300 kbit/s at 5 %
loss and a round trip of 200 ms (Mathis and others, 1997), and would lose what overflows the queue,
where this model lets the sender wait. Acknowledgements are never lost here. All three flatter TCP.
"""

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

SEGMENT_BYTES = 1448
"""What a TCP segment carries on Ethernet with timestamps."""
IP_TCP_BYTES, IP_UDP_BYTES = 52, 28
"""Headers (IPv4, TCP with timestamps, UDP), which take their share of the rate."""
SMALLEST_RTO_S = 0.2
DUPLICATE_S = 0.02
"""A duplicate comes so much later at most."""


class Scheduler(Protocol):
    """Tells the time in seconds and calls back; an event loop of asyncio is one."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[..., object], /) -> object: ...


class VirtualTime:
    """A scheduler whose time goes on when it is told to."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._calls: list[tuple[float, int, Callable[..., object]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        """Seconds since it was made."""
        return self._now_s

    def call_at(self, when: float, callback: Callable[..., object], /) -> None:
        """Call back at that time; calls of the same time in the order in which they were asked
        for."""
        heapq.heappush(self._calls, (max(when, self._now_s), next(self._order), callback))

    def run_until(self, when: float) -> None:
        """Let that time come, and call whatever is due until then."""
        while self._calls and self._calls[0][0] <= when:
            self._now_s, _, callback = heapq.heappop(self._calls)
            callback()
        self._now_s = when


@dataclass
class Conditions:
    """What one direction of the link does; may be changed while it runs.

    `delay_s` is the way in one direction. `jitter_s` adds between 0 and so much to it, in order.
    Of all packets the share `loss` is lost at random; in outages of `burst_s`, which begin every
    `burst_every_s` on average (0: never), all are. The share `reordered` comes up to `reorder_s`
    later than those that were sent after it, the share `duplicated` comes twice. `kbps` limits the
    rate (1000 bit/s, headers included) by a token bucket of `bucket_bytes`; in front of it
    `queue_bytes` wait, and what finds no room there is lost. `down` loses everything.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    burst_s: float = 0.0
    burst_every_s: float = 0.0
    reordered: float = 0.0
    reorder_s: float = 0.1
    duplicated: float = 0.0
    kbps: float | None = None
    bucket_bytes: int = 1500
    queue_bytes: int = 32_000
    down: bool = False


class Outage(NamedTuple):
    """A time without a link, in seconds of the scheduler."""

    start_s: float
    end_s: float


class Outages:
    """Bursts of loss, which both directions share. `begun` are those that were met so far."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._next: Outage | None = None
        self.begun: list[Outage] = []

    def active(self, now_s: float, conditions: Conditions) -> bool:
        """Whether there is one at that time, which never goes back."""
        if conditions.burst_s <= 0 or conditions.burst_every_s <= 0:
            self._next = None
            return False
        while self._next is None or now_s >= self._next.end_s:
            after_s = now_s if self._next is None else self._next.end_s
            start_s = after_s + conditions.burst_every_s * self._random.uniform(0.5, 1.5)
            self._next = Outage(start_s, start_s + conditions.burst_s)
        if now_s < self._next.start_s:
            return False
        if not self.begun or self.begun[-1] != self._next:
            self.begun.append(self._next)
        return True


class _Queued(NamedTuple):
    size: int
    arrive: Callable[[], object]
    lost: Callable[[], object]


class Wire:
    """One direction of a link. `counts` says what became of packets: sent, arrived, lost,
    overflowed, reordered, duplicated."""

    def __init__(
        self,
        scheduler: Scheduler,
        conditions: Conditions,
        outages: Outages | None = None,
        seed: int = 0,
    ) -> None:
        self.conditions = conditions
        self.counts: Counter[str] = Counter()
        self.queued_bytes = 0
        self._scheduler = scheduler
        self._outages = outages or Outages(seed)
        self._random = random.Random(seed)
        self._queue: deque[_Queued] = deque()
        self._tokens = float(conditions.bucket_bytes)
        self._filled_s = scheduler.time()
        self._serving = False
        self._last_s = 0.0

    def has_room(self, size: int) -> bool:
        """Whether a packet of that size would find room in the queue."""
        return not self._queue or self.queued_bytes + size <= self.conditions.queue_bytes

    def send(
        self, size: int, arrive: Callable[[], object], lost: Callable[[], object] = lambda: None
    ) -> None:
        """Send a packet of `size` bytes, headers included. One of the two is called back: `arrive`
        when it arrives (twice for a duplicate), `lost` when it is lost."""
        self.counts["sent"] += 1
        if not self.has_room(size):
            self.counts["overflowed"] += 1
            lost()
            return
        self.queued_bytes += size
        self._queue.append(_Queued(size, arrive, lost))
        if not self._serving:
            self._serve()

    def _serve(self) -> None:
        """Let through what the bucket has tokens for, and come back for the rest."""
        self._serving = False
        while self._queue:
            wait_s = self._wait_s(self._queue[0].size)
            if wait_s > 0:
                self._serving = True
                self._scheduler.call_at(self._scheduler.time() + wait_s, self._serve)
                return
            packet = self._queue.popleft()
            self.queued_bytes -= packet.size
            self._tokens -= packet.size
            self._pass(packet)

    def _wait_s(self, size: int) -> float:
        """Seconds until the bucket holds what a packet needs: all of it for one that is larger."""
        now_s, conditions = self._scheduler.time(), self.conditions
        if conditions.kbps is None:
            self._tokens, self._filled_s = float(conditions.bucket_bytes), now_s
            return 0.0
        bytes_per_s = 125 * conditions.kbps
        gained = bytes_per_s * (now_s - self._filled_s)
        self._tokens = min(float(conditions.bucket_bytes), self._tokens + gained)
        self._filled_s = now_s
        missing = min(size, conditions.bucket_bytes) - self._tokens
        return missing / bytes_per_s if missing > 1e-6 else 0.0

    def _pass(self, packet: _Queued) -> None:
        conditions, now_s = self.conditions, self._scheduler.time()
        loss, jitter, reordering, lateness, doubling, gap = (
            self._random.random() for _ in range(6)
        )  # fmt: skip
        outage = self._outages.active(now_s, conditions)
        if conditions.down or outage or loss < conditions.loss:
            self.counts["lost"] += 1
            packet.lost()
            return
        due_s = max(self._last_s, now_s + conditions.delay_s + jitter * conditions.jitter_s)
        self._last_s = due_s
        if reordering < conditions.reordered:
            self.counts["reordered"] += 1
            due_s += lateness * conditions.reorder_s
        self._arrive_at(due_s, packet)
        if doubling < conditions.duplicated:
            self.counts["duplicated"] += 1
            self._arrive_at(due_s + gap * DUPLICATE_S, packet)

    def _arrive_at(self, due_s: float, packet: _Queued) -> None:
        def arrive() -> None:
            self.counts["arrived"] += 1
            packet.arrive()

        self._scheduler.call_at(due_s, arrive)


class SegmentStream:
    """One direction of a TCP connection over a wire; see the module's text. `deliver` is called
    with each segment's bytes, in order."""

    def __init__(
        self, scheduler: Scheduler, wire: Wire, deliver: Callable[[bytes], object]
    ) -> None:
        self.under_way = 0
        """Bytes sent and not delivered."""
        self._scheduler = scheduler
        self._wire = wire
        self._deliver = deliver
        self._next_number = self._next_delivered = 0
        self._arrived: dict[int, bytes] = {}

    def has_room(self, size: int) -> bool:
        """Whether the link's queue has room for a segment of that many bytes."""
        return self._wire.has_room(size + IP_TCP_BYTES)

    def send(self, segment: bytes) -> None:
        """Send a segment: SEGMENT_BYTES at most."""
        number, self._next_number = self._next_number, self._next_number + 1
        self.under_way += len(segment)
        self._transmit(number, segment, 0)

    def _transmit(self, number: int, segment: bytes, attempt: int) -> None:
        self._wire.send(
            len(segment) + IP_TCP_BYTES,
            lambda: self._take(number, segment),
            lambda: self._miss(number, segment, attempt),
        )

    def _take(self, number: int, segment: bytes) -> None:
        if number >= self._next_delivered:
            self._arrived[number] = segment
        while (ready := self._arrived.pop(self._next_delivered, None)) is not None:
            self._next_delivered += 1
            self.under_way -= len(ready)
            self._deliver(ready)

    def _miss(self, number: int, segment: bytes, attempt: int) -> None:
        """A transmission was lost: send it again when a sender would find out."""
        conditions, now_s = self._wire.conditions, self._scheduler.time()
        round_trip_s = 2 * conditions.delay_s + conditions.jitter_s

        def again() -> None:
            self._transmit(number, segment, attempt + 1)

        def again_if_followed() -> None:
            if self._next_number > number + 1:
                again()
            else:
                self._scheduler.call_at(now_s + 2 * round_trip_s, again)

        if attempt == 0:
            self._scheduler.call_at(now_s + 1.25 * round_trip_s, again_if_followed)
        else:
            timeout_s = (round_trip_s + SMALLEST_RTO_S) * 2 ** (attempt - 1)
            self._scheduler.call_at(now_s + timeout_s, again)
