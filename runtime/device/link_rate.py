"""How many bits per second a link takes just now, from when frames were sent and when they arrived.

    sent ─────────► LinkRate ─► plan: how long to wait, how many kbit/s to aim at
    confirmed, lost ──┘

What counts is the age of pictures, so the aim is a time and not the link's last bit: a frame is to
take three tenths of a frame interval on the link. The rest drains what piled up, and keeps a link
that suddenly narrows from being full of one frame for long. Delay tells most, as in delay-based
congestion control (GCC, for one): what a frame took beyond the quickest way of late is its
*queueing delay*, its own time on the link included.

- Below the limit the target grows, by four fifths a second.
- Two frames in a row over it: the frames' own time on the link, from the end of the one before,
  gives the link's rate, and three tenths of that are the new target. After the first one, frames
  are small until the next one tells.
- A frame that is not confirmed when it should be holds the next one back, which then is as small as
  can be, and rarer the longer that lasts: nothing has to be known to stop filling a link.
- Loss alone says little on a radio link. Only loss far above what is usual there lowers the target.
- Where even the lowest rate is too much, frames become rarer.

There are no clocks and no sockets here. Times of sending and of confirmation are of the sender's
clock, times of arrival of the receiver's; the two need not agree, only run equally fast.
"""

import math
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple

FRAME_SHARE = 0.3
"""Of a frame interval, so much may go by until a frame has arrived, beyond the quickest way."""
FULL_SHARE = 0.8
"""Of the time between frames that became rarer, since nothing smaller can be sent."""
LEAST_LIMIT_S, MOST_LIMIT_S = 0.025, 0.1
"""But not less (other delays would drown it) and not more (it is part of each picture's age)."""
GROWTH = 1.8
"""The target grows by that factor in a second, and only where it is used."""
DOUBT = 0.6
"""The target falls to that share after one late frame, where a smaller one was in time."""
LEAST_FPS = 1.0
"""So many smallest frames a second are sent on any link."""
FIRST_KBPS = 200.0
GRACE_S = 0.02
"""A confirmation may be so late before frames are held back."""
PATIENCE = 0.3
"""Of a frame interval: so long a frame waits for a confirmation that is about to come."""
WAY_S = 60.0
"""The quickest way is that of the last so many seconds."""
SMALL_S = 20.0
"""One frame in so many seconds is as small as can be, so that the quickest way is known without
what frames take on the link by themselves."""
SHIFTED_S = 3.0
"""A delay that stands for so long, whatever is sent, is the way's: another route."""
UNUSUAL_LOSS = 0.15
"""Loss beyond the usual that says that the link is full."""
MOST_USUAL_LOSS = 0.25
"""More loss than that and UNUSUAL_LOSS together never becomes usual."""
MOST_S = 1e11
"""A receiver's time beyond that is none: three thousand years."""
_OUTCOMES, _UNDER_WAY, _WAYS, _RECENT = 20, 64, 512, 8
"""Remembered at most: frames whose loss counts, frames not confirmed, ways, newest frames."""
_PART, _PARTS = 20, 5
"""Frames in a row by which it is told how much ways vary, and how many such parts it takes."""


class FramePlan(NamedTuple):
    """Take the next frame in `wait_s` (0: now; ask again when a confirmation comes meanwhile), and
    aim at `kbps` with it."""

    wait_s: float
    kbps: float


@dataclass(frozen=True)
class LinkFigures:
    """What is known of a link: what is aimed at and what arrived in the last second, kbit/s
    (1000 bits); the queueing delay of late, milliseconds; the share of frames that was lost."""

    target_kbps: float
    delivered_kbps: float
    queueing_ms: float
    loss: float


class _Sent(NamedTuple):
    size: int
    at_s: float


class _Way(NamedTuple):
    """How long a frame took, by clocks that need not agree."""

    at_s: float
    way_s: float


class LinkRate:
    """Follows one link. `fps` is the camera's; `smallest_bytes` and `largest_bytes` are what frames
    of the lowest and the highest rate take, which may change with the scene (`sizes`).

        link = LinkRate(fps=10, smallest_bytes=1000, largest_bytes=12_000)
        plan = link.plan(now_s)
        link.sent(number, len(packet), now_s)
        link.confirmed(number, arrival_s, now_s)  # or link.lost(number)
    """

    def __init__(self, *, fps: float, smallest_bytes: float, largest_bytes: float) -> None:
        self._interval_s = 1 / fps
        self.sizes(smallest_bytes, largest_bytes)
        self._target_kbps = max(FIRST_KBPS, self.floor_kbps)
        self._usual_loss, self._outcomes_seen = 0.0, 0
        self._outcomes: deque[bool] = deque(maxlen=_OUTCOMES)
        self._start()

    def _start(self) -> None:
        """Know nothing of the way."""
        self._under_way: OrderedDict[int, _Sent] = OrderedDict()
        self._awaited: _Sent | None = None
        self._sent: deque[_Sent] = deque(maxlen=_OUTCOMES)
        self._ways: deque[_Way] = deque(maxlen=_WAYS)
        self._rates: deque[float] = deque(maxlen=5)
        self._delays: deque[float] = deque(maxlen=_RECENT)
        self._rests: deque[float] = deque(maxlen=_RECENT)
        self._delivered: deque[tuple[float, int]] = deque(maxlen=_WAYS)
        self._arrival_s = -math.inf
        self._standing_since_s: float | None = None
        self._suspect_kbps: float | None = None
        self._suspect_size = 0
        self._vary_s = 0.0
        self._sent_late = 0
        self._small_s = -math.inf

    def restart(self) -> None:
        """Another connection: what was under way is lost, and the way may be another one."""
        self._target_kbps = max(self.floor_kbps, min(self._target_kbps, FIRST_KBPS))
        self._start()

    def sizes(self, smallest_bytes: float, largest_bytes: float) -> None:
        """What frames of the lowest and of the highest rate take from now on."""
        self._smallest, self._largest = max(1.0, smallest_bytes), max(1.0, largest_bytes)

    @property
    def floor_kbps(self) -> float:
        """The target is never below that."""
        return FRAME_SHARE / FULL_SHARE * 0.008 * self._smallest * LEAST_FPS

    @property
    def figures(self) -> LinkFigures:
        """What is known by now."""
        delays = list(self._delays)[-5:]
        lost = self._outcomes.count(True) / len(self._outcomes) if self._outcomes else 0.0
        return LinkFigures(
            self._target_kbps,
            self._delivered_kbps(),
            1000 * statistics.median(delays) if delays else 0.0,
            lost,
        )

    def plan(self, now_s: float) -> FramePlan:
        """When to take the next frame, and what to aim at."""
        spacing_s, kbps = self._spacing_s(), self._target_kbps
        if self._suspect_kbps is not None:
            kbps = min(kbps, self._suspect_kbps)
        last_s = self._sent[-1].at_s if self._sent else -math.inf
        wait_s = last_s + spacing_s - now_s if spacing_s > self._interval_s else 0.0
        if not self._rests:  # nothing is known yet: one frame at a time, as small as can be
            held_s = 1 / LEAST_FPS if self._awaited else 0.0
            return FramePlan(max(0.0, last_s + held_s - now_s), self.floor_kbps)
        due_s = self._due_s()
        if now_s > due_s:
            held_s = min(1 / LEAST_FPS, spacing_s * (2 + self._sent_late))
            return FramePlan(max(0.0, wait_s, last_s + held_s - now_s), self.floor_kbps)
        if due_s - now_s < PATIENCE * self._interval_s:
            wait_s = max(wait_s, due_s - now_s + 1e-3)
        if now_s - self._small_s > SMALL_S:
            kbps = self.floor_kbps
        return FramePlan(max(0.0, wait_s), max(self.floor_kbps, kbps))

    def sent(self, frame: int, size: int, at_s: float) -> None:
        """A frame of `size` bytes was sent."""
        self._sent_late = self._sent_late + 1 if at_s > self._due_s() else 0
        sent = self._under_way[frame] = _Sent(size, at_s)
        self._sent.append(sent)
        self._awaited = self._awaited or sent
        if size <= 1.3 * self._smallest:
            self._small_s = at_s
        while len(self._under_way) > _UNDER_WAY:
            self.lost(next(iter(self._under_way)))

    def lost(self, frame: int) -> None:
        """A frame will not arrive."""
        if self._under_way.pop(frame, None) is None:
            return
        self._note_outcome(lost=True)
        if self.figures.loss - self._usual_loss > UNUSUAL_LOSS:
            self._target_kbps = max(self.floor_kbps, 0.85 * self._target_kbps)

    def confirmed(self, frame: int, arrival_s: float | None, now_s: float) -> None:
        """A frame has arrived, at that time of the receiver's (None: it did not tell), as was
        learnt at `now_s`."""
        sent = self._under_way.pop(frame, None)
        if sent is None:
            return
        self._note_outcome(lost=False)
        if self._awaited is not None and sent.at_s >= self._awaited.at_s:
            # Whatever it has overtaken is late for another reason than a full link.
            newer = (one for one in self._under_way.values() if one.at_s > sent.at_s)
            self._awaited = next(newer, None)
        if arrival_s is None or not abs(arrival_s) < MOST_S:
            return
        delay_s = self._delay_s(arrival_s - sent.at_s, now_s)
        kbps = self._rate_of(sent, arrival_s)
        self._rests.append(now_s - sent.at_s - delay_s)
        self._note_delivery(arrival_s, sent.size)
        self._vary_s = self._spread_s()
        self._adapt(sent.size, delay_s, kbps, now_s)
        self._arrival_s = max(self._arrival_s, arrival_s)
        self._sent_late = 0

    def _limit_s(self) -> float:
        """The queueing delay above which the link is too full; the more it varies by itself, the
        more."""
        share_s = FRAME_SHARE * self._interval_s
        # The later is learnt what a link does, the more frames are on it by then.
        learnt_s = share_s + max(self._rests, default=0.0)
        share_s *= min(1.0, self._interval_s / learnt_s)
        limit_s = min(MOST_LIMIT_S, max(LEAST_LIMIT_S, share_s))
        return limit_s + min(2 * self._vary_s, MOST_LIMIT_S)

    def _spread_s(self) -> float:
        """What a usual frame takes beyond the quickest one when the link is at its best."""
        ways = [way.way_s for way in self._ways]
        parts = [ways[end - _PART : end] for end in range(len(ways), _PART - 1, -_PART)]
        if len(parts) < _PARTS:
            return 0.0  # the sizes of frames varied as well while the target grew
        return min(statistics.median(part) - min(part) for part in parts)

    def _spacing_s(self) -> float:
        """Between frames: more than the camera's interval where the lowest rate is too much."""
        needed_s = FRAME_SHARE / FULL_SHARE * 0.008 * self._smallest / self._target_kbps
        return min(1 / LEAST_FPS, max(self._interval_s, needed_s))

    def _due_s(self) -> float:
        """When the oldest frame that is not confirmed, and that no other one has overtaken, should
        be confirmed at the latest. One that is known to be lost still tells of a link that is
        gone."""
        sent = self._awaited
        if sent is None or not self._rests:
            return math.inf
        own_s = 0.008 * sent.size / max(self._rates)
        return sent.at_s + max(self._rests) + min(own_s, self._limit_s()) + GRACE_S

    def _quickest_s(self) -> float:
        return min(way.way_s for way in self._ways)

    def _delay_s(self, way_s: float, now_s: float) -> float:
        """What a way was longer than the quickest one."""
        self._ways.append(_Way(now_s, way_s))
        while now_s - self._ways[0].at_s > WAY_S:
            self._ways.popleft()
        delay_s = way_s - self._quickest_s()
        self._delays.append(delay_s)
        return delay_s

    def _rate_of(self, sent: _Sent, arrival_s: float) -> float:
        """The link's rate, from the time that it spent on this frame alone."""
        begun_s = max(self._arrival_s, sent.at_s + self._quickest_s())
        return 0.008 * sent.size / max(1e-3, arrival_s - begun_s)

    def _adapt(self, size: int, delay_s: float, kbps: float, now_s: float) -> None:
        limit_s = self._limit_s()
        self._rates.append(kbps)
        if delay_s <= limit_s:
            self._clear_suspicion(size)
            if max(list(self._delays)[-3:]) < 0.75 * limit_s:
                self._grow()
            return
        share_kbps, self._suspect_size = FRAME_SHARE * kbps, size
        if self._suspect_kbps is None:
            self._suspect_kbps = share_kbps
        else:
            # Of two frames that both were late, the one that the link spent less time on tells: the
            # other may have waited for something else, a segment that was sent again for one.
            link_kbps = max(share_kbps, self._suspect_kbps, FRAME_SHARE * self._delivered_kbps())
            self._target_kbps = max(self.floor_kbps, min(self._target_kbps, link_kbps))
            self._suspect_kbps = share_kbps
        self._note_standing(now_s)

    def _clear_suspicion(self, size: int) -> None:
        """A frame was in time. That says little of a link on which a larger one was late."""
        if self._suspect_kbps is not None and size < self._suspect_size:
            lower_kbps = max(self._suspect_kbps, DOUBT * self._target_kbps)
            self._target_kbps = max(self.floor_kbps, min(self._target_kbps, lower_kbps))
        self._suspect_kbps, self._standing_since_s = None, None

    def _note_standing(self, now_s: float) -> None:
        """After a delay that stood for long, whatever was sent, only what came since counts."""
        if self._standing_since_s is None:
            self._standing_since_s = now_s
        elif now_s - self._standing_since_s > SHIFTED_S:
            while self._ways[0].at_s < self._standing_since_s:
                self._ways.popleft()
            self._standing_since_s = now_s

    def _grow(self) -> None:
        """A higher target, where frames use what there is."""
        if len(self._sent) < 2:
            return
        step_s = min(0.25, self._sent[-1].at_s - self._sent[-2].at_s)
        used_kbps = 0.008 * max(sent.size for sent in self._sent) / self._interval_s
        most_kbps = min(2 * used_kbps, 0.0088 * self._largest / self._interval_s)
        grown_kbps = min(self._target_kbps * GROWTH**step_s, max(FIRST_KBPS, most_kbps))
        self._target_kbps = max(self._target_kbps, grown_kbps, self.floor_kbps)

    def _delivered_kbps(self) -> float:
        """Of the last second, or the last few frames where they are rarer."""
        if len(self._delivered) < 2:
            return 0.0
        (first_s, first), (last_s, _) = self._delivered[0], self._delivered[-1]
        size = sum(size for _, size in self._delivered) - first
        return 0.008 * size / max(1e-3, last_s - first_s)

    def _note_delivery(self, arrival_s: float, size: int) -> None:
        if arrival_s > self._arrival_s:
            self._delivered.append((arrival_s, size))
        while len(self._delivered) > 5 and arrival_s - self._delivered[0][0] > 1.0:
            self._delivered.popleft()

    def _note_outcome(self, *, lost: bool) -> None:
        self._outcomes.append(lost)
        self._outcomes_seen = min(100, self._outcomes_seen + 1)  # of so many it is a mean
        usual = self._usual_loss + (lost - self._usual_loss) / self._outcomes_seen
        self._usual_loss = min(MOST_USUAL_LOSS, usual)
