"""What the server holds for one rig: the frames that wait, the side images, the counts.

Nothing here takes a lock: a rig is touched only under that of its pool
(dsin.runtime.server.decode_pool).
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from dsin.runtime.codec.packet import Packet
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.link.clocks import Offset, now_ns
from dsin.runtime.link.rpc import CREDITS
from dsin.runtime.outputs.decoded_frame import SideUse, SideView
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.server.link_tally import LinkTally
from dsin.runtime.server.side_buffer import PairingPolicy, SideBuffer

LOG = logging.getLogger(__name__)
RECENT_S = 5.0
"""Rates in a status are means over that time."""
BYTES_PER_PIXEL = 350
"""What a rig needs at most: two prepared side images (135 each), the latents of the frames that may
be referred to (16), pictures kept and on their way."""


class FrameStatus(Enum):
    """What became of a frame."""

    DECODED = "decoded"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


class Outcome(NamedTuple):
    """The answer to one frame; `reason` says why it was rejected, `reference_missing` that it
    refers to a frame that is not there."""

    number: int
    status: FrameStatus
    side_use: SideUse | None = None
    decode_ms: float = 0.0
    age_ms: float = 0.0
    reason: str = ""
    waited_ms: float = 0.0
    reference_missing: bool = False


@dataclass(frozen=True)
class ArrivedFrame:
    """A packet that waits to be decoded.

    `paired_ns` is the moment to find a side image for, in the clock of the rig's pairing;
    `captured_ns` and `received_ns` are of the server's clock. `clock_in_doubt` says that the
    camera's clock may have stepped. `answer` is called once, from any thread.
    """

    packet: Packet
    paired_ns: int
    captured_ns: int
    received_ns: int
    clock_in_doubt: bool
    answer: Callable[[Outcome], None]
    queued_s: float = field(default_factory=time.monotonic)

    @property
    def number(self) -> int:
        """Its frame number."""
        return self.packet.header.frame_number

    @property
    def rate(self) -> int:
        """Its rate index."""
        return self.packet.header.rate


class LocalSide(Protocol):
    """A side camera that the server can ask for any moment: a recording."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def interval_ns(self) -> int:
        """Nanoseconds between its pictures."""

    def near(self, paired_ns: int) -> SideView | None:
        """The view nearest to that moment, if there is one within half an interval."""


class Rig:
    """One rig of cameras. `size` is height and width of its pictures."""

    def __init__(
        self, name: str, size: tuple[int, int], policy: PairingPolicy, local: LocalSide | None
    ) -> None:
        self.name = name
        self.size = size
        self.sides = SideBuffer(policy, None if local is None else local.interval_ns)
        self.local = local
        self.waiting: deque[ArrivedFrame] = deque()
        self.decoding = False
        self.references: DecodedFrames | None = None
        """What packets may refer to; None where they may not."""
        self.rate: int | None = None
        self.camera_connected = False
        self.side_connected = False
        self.clock: Callable[[], Offset | None] = lambda: None
        self.device: dict[str, float] = {}
        self.link = LinkTally()
        self.last_frame: tuple[int, int] | None = None
        """Session and number of the newest frame that came."""
        self._told_s = float("-inf")
        self._counts: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._recent: deque[tuple[float, int]] = deque()
        self._newest_captured_ns: int | None = None

    @property
    def connected(self) -> bool:
        """Whether one of its cameras is there."""
        return self.camera_connected or self.side_connected

    @property
    def budget_bytes(self) -> int:
        """Memory that the rig may need while it is connected."""
        return self.size[0] * self.size[1] * BYTES_PER_PIXEL

    def offer(self, frame: ArrivedFrame) -> None:
        """Let a frame wait for decoding. More than the camera's credits wait only where frames of
        an older connection are left; the oldest gives way then."""
        while len(self.waiting) >= CREDITS:
            self.finish(self.waiting.popleft(), FrameStatus.SUPERSEDED)
        self.waiting.append(frame)

    def finish(
        self,
        frame: ArrivedFrame,
        status: FrameStatus,
        use: SideUse | None = None,
        decode_ms: float = 0.0,
        reason: str = "",
        waited_ms: float = 0.0,
        *,
        reference_missing: bool = False,
    ) -> None:
        """Count a frame and answer it."""
        self.count(status)
        if status is FrameStatus.DECODED:
            assert use is not None
            self._uses[use.value] += 1
            self._counts["referring"] += frame.packet.header.reference is not None
            self._recent.append((time.monotonic(), len(frame.packet)))
            self._forget_old(time.monotonic())
            self._newest_captured_ns = frame.captured_ns
        age_ms = (now_ns() - frame.captured_ns) / 1e6
        frame.answer(
            Outcome(
                frame.number, status, use, decode_ms, age_ms, reason, waited_ms, reference_missing
            )
        )

    def complain(self, what: str) -> None:
        """Log what is wrong with it; at most once a second, so that no rig fills the log."""
        now_s = time.monotonic()
        if now_s - self._told_s >= 1.0:
            self._told_s = now_s
            LOG.warning("rig %s, %s", self.name, what)

    def count(self, status: FrameStatus) -> None:
        """Count a frame that never came to wait."""
        self._counts[status.value] += 1

    def due(self, now_s: float) -> float:
        """Seconds until the next waiting frame should be decoded: 0 if its side image is there or
        cannot come any more."""
        frame = self.waiting[0]
        _, use = self.sides.choose(frame.paired_ns)
        expected = self.side_connected and self.sides.may_come(frame.paired_ns)
        if use is SideUse.PAIRED or self.local is not None or not expected:
            return 0.0
        deadline_s = frame.queued_s + self.sides.policy.wait_ms / 1000
        return max(0.0, deadline_s - now_s)

    def status(self) -> RigStatus:
        """Figures of this moment."""
        self._forget_old(time.monotonic())
        offset = self.clock()
        newest = self._newest_captured_ns
        return RigStatus(
            rig=self.name,
            camera_connected=self.camera_connected,
            side_connected=self.side_connected or self.local is not None,
            width=self.size[1],
            height=self.size[0],
            decoded=self._counts["decoded"],
            superseded=self._counts["superseded"],
            rejected=self._counts["rejected"],
            referring=self._counts["referring"],
            side_uses=dict(self._uses),
            kbps=8 * sum(size for _, size in self._recent) / 1000 / RECENT_S,
            fps=len(self._recent) / RECENT_S,
            newest_age_ms=None if newest is None else (now_ns() - newest) / 1e6,
            clock_offset_ms=None if offset is None else offset.ns / 1e6,
            clock_error_ms=None if offset is None else offset.error_ns / 1e6,
            device=dict(self.device),
            link=self.link.status(),
        )

    def _forget_old(self, now_s: float) -> None:
        """Not only when somebody asks: maybe nobody ever does."""
        while self._recent and now_s - self._recent[0][0] > RECENT_S:
            self._recent.popleft()
