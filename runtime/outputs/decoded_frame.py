"""A frame that the server has decoded for a rig, and the side image that it was decoded with."""

import enum
from dataclasses import dataclass, field

from dsin.runtime.codec.decoder import Decoded
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
class DecodedFrame:
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
