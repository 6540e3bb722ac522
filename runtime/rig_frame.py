"""A frame that the server has decoded for a rig, and what becomes of it: sinks take it.

    pool ─► RigFrame ─► SinkRunner ─► a folder of pictures, a recording, a page, …

A sink works in a thread of its own behind a short queue. One that is too slow misses frames, one
that fails is tried again with the next frame; both are counted, and the stream goes on.
"""

import enum
from dataclasses import dataclass, field
from typing import Protocol

from dsin.runtime.decoder import Decoded
from dsin.runtime.pictures import Image


class SideUse(enum.Enum):
    """Which side image a frame was decoded with."""

    PAIRED = "paired"
    """The one of the same moment."""
    PREVIOUS = "previous"
    """An older one, within the limit that the server was given."""
    MISSING = "missing"
    """None was recent enough: decoded without."""
    UNRELATED = "unrelated"
    """There was one, but the search found nothing of the scene in it: decoded without."""
    CLOCK_UNCERTAIN = "clock-uncertain"
    """The camera's clock may just have stepped: chosen by timestamps that may be wrong."""


@dataclass(frozen=True)
class SideView:
    """A picture of the rig's second camera: RGB H×W×3 uint8, its number and its capture time in
    nanoseconds of that camera's clock."""

    image: Image
    number: int
    timestamp_ns: int


@dataclass(frozen=True)
class RigFrame:
    """A decoded frame of one rig.

    `timestamp_ns` is the capture time in the camera's clock, `captured_ns` the same moment in the
    server's (nanoseconds since 1970; for a recording the time at which it was sent),
    `decoded_ns` when decoding ended. `packet` is what came over the link, with its header.
    `stage_ms` names stages side.* and server.*, `waited_ms` is how long the frame waited for its
    turn before them, milliseconds.
    """

    rig: str
    number: int
    timestamp_ns: int
    captured_ns: int
    received_ns: int
    decoded_ns: int
    packet: bytes
    decoded: Decoded
    side: SideView | None
    side_use: SideUse
    stage_ms: dict[str, float] = field(default_factory=dict)
    waited_ms: float = 0.0

    @property
    def age_ms(self) -> float:
        """From capture to the end of decoding, milliseconds."""
        return (self.decoded_ns - self.captured_ns) / 1e6


@dataclass(frozen=True)
class RigStatus:
    """One rig at a moment, for pages and metrics.

    Counts are since the server's start. `kbps` (packets of x, 1000 bit/s) and `fps` are of the
    last five seconds; `newest_age_ms` is how old the newest decoded picture is by now, None before
    the first. `device` is what the camera told of itself (captured, dropped, lost, reconnects,
    capture_ms, encode_ms, target_kbps), empty before it did.
    """

    rig: str
    camera_connected: bool
    side_connected: bool
    width: int
    height: int
    decoded: int
    superseded: int
    rejected: int
    side_uses: dict[str, int]
    kbps: float
    fps: float
    newest_age_ms: float | None
    clock_offset_ms: float | None
    clock_error_ms: float | None
    device: dict[str, float]


class Sink(Protocol):
    """Takes decoded frames, in order for each rig, always from one thread."""

    @property
    def name(self) -> str:
        """For metrics and messages: one word."""

    def take(self, frame: RigFrame) -> None:
        """Raises DsinError for what a person can mend, such as a full disk."""

    def close(self) -> None:
        """Write out what is pending. Called once."""
