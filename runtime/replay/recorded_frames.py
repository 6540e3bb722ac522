"""Frames, side images and statuses of a recording, as `dsin replay` needs them.

    messages ─► events: packet, side, status, in the order of the file
    events ─► RigTimeline ─► which side image each frame gets

A frame's number may come again when a camera was restarted, so frames and side images are known by
their place in the recording.
"""

import json
import statistics
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from google.protobuf.message import DecodeError

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.outputs import foxglove_messages
from dsin.runtime.outputs.decoded_frame import SideUse
from dsin.runtime.outputs.recording_messages import (
    IMAGE_SCHEMA,
    PACKET_SCHEMA,
    PACKET_TOPIC,
    SIDE_TOPIC,
    STATUS_SCHEMA,
    STATUS_TOPIC,
)
from dsin.runtime.sources.mcap_reader import RecordedMessage

TOLERANCE_NS = 50_000_000
"""A side image that is further from its frame is not of the same moment: half of 10 per second."""
_NEIGHBOURS = 9
"""So many frames around a moment tell how the two cameras' clocks differ there."""


class RecordedPacket(NamedTuple):
    """A packet of camera x, and when it was captured and decoded by the server's clock."""

    rig: str
    number: int
    timestamp_ns: int
    captured_ns: int
    decoded_ns: int
    packet: bytes


class RecordedSide(NamedTuple):
    """A picture of camera y, PNG or JPEG, with the time of that camera's clock."""

    rig: str
    number: int
    timestamp_ns: int
    picture: bytes


class RecordedStatus(NamedTuple):
    """How the packet before it was decoded when it was recorded."""

    rig: str
    number: int
    received_ns: int
    side_use: SideUse
    side_number: int | None


Event = RecordedPacket | RecordedSide | RecordedStatus


def recorded_events(messages: Iterable[RecordedMessage]) -> Iterator[Event]:
    """What a recording says of rigs; messages of other kinds, and malformed ones, are left out."""
    for message in messages:
        _, _, rest = message.topic.partition("/")
        rig, _, name = rest.partition("/")
        if (reader := _READERS.get((name, message.schema))) is None:
            continue
        try:
            event = reader(unquote(rig), message)
        except (DecodeError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        yield event


def _read_packet(rig: str, message: RecordedMessage) -> RecordedPacket:
    frame = dsin_v1.EncodedFrame.FromString(message.data)
    return RecordedPacket(
        rig, frame.frame_number, frame.timestamp_ns, message.publish_ns, message.log_ns,
        frame.packet,
    )  # fmt: skip


def _read_side(rig: str, message: RecordedMessage) -> RecordedSide:
    picture, timestamp_ns = foxglove_messages.unpack_image(message.data)
    return RecordedSide(rig, message.sequence, _checked_ns(timestamp_ns), picture)


def _read_status(rig: str, message: RecordedMessage) -> RecordedStatus:
    content = json.loads(message.data)
    side = content["side_number"]
    return RecordedStatus(
        rig, int(content["frame_number"]), _checked_ns(int(content["received_ns"])),
        SideUse(content["side_use"]), None if side is None else int(side),
    )  # fmt: skip


def _checked_ns(nanoseconds: int) -> int:
    if not 0 <= nanoseconds < 2**64:
        raise ValueError(f"{nanoseconds} is not a time")
    return nanoseconds


_READERS: dict[tuple[str, str], Callable[[str, RecordedMessage], Event]] = {
    (PACKET_TOPIC, PACKET_SCHEMA): _read_packet,
    (SIDE_TOPIC, IMAGE_SCHEMA): _read_side,
    (STATUS_TOPIC, STATUS_SCHEMA): _read_status,
}


@dataclass
class TimelineFrame:
    """A frame, and the place of the side image that it was decoded with, None without.

    `side_use` is None where the recording does not say.
    """

    captured_ns: int
    side: int | None = None
    side_use: SideUse | None = None
    received_ns: int | None = None


@dataclass
class RigTimeline:
    """All frames and side images of a rig, without what is in them."""

    frames: list[TimelineFrame] = field(default_factory=list)
    sides_ns: list[int] = field(default_factory=list)
    _latest: dict[int, int] = field(default_factory=dict)
    _number: int = -1

    def add(self, event: Event) -> None:
        """The next event of this rig."""
        if isinstance(event, RecordedPacket):
            self.frames.append(TimelineFrame(event.captured_ns))
            self._number = event.number
        elif isinstance(event, RecordedSide):
            self._latest[event.number] = len(self.sides_ns)
            self.sides_ns.append(event.timestamp_ns)
        elif self.frames and event.number == self._number:
            frame = self.frames[-1]
            frame.side_use, frame.received_ns = event.side_use, event.received_ns
            if event.side_number is not None:
                frame.side = self._latest.get(event.side_number)

    def repaired_sides(self) -> list[int | None]:
        """For each frame the place of its side image, found by time.

        A frame that was decoded with the side image of its moment keeps it. Any other gets the one
        that is nearest to it, within TOLERANCE_NS, or else what it had. The two cameras' clocks may
        differ: what their difference was is taken from the paired frames around; without any,
        nothing is repaired.
        """
        offsets = sorted(
            (frame.captured_ns, frame.captured_ns - self.sides_ns[frame.side])
            for frame in self.frames
            if frame.side_use is SideUse.PAIRED and frame.side is not None
        )
        order = sorted(range(len(self.sides_ns)), key=self.sides_ns.__getitem__)
        times = [self.sides_ns[place] for place in order]
        sides = []
        for frame in self.frames:
            side = frame.side
            if offsets and frame.side_use is not SideUse.PAIRED:
                moment = frame.captured_ns - _local_offset(offsets, frame.captured_ns)
                nearest = _nearest(times, moment)
                if nearest is not None and abs(times[nearest] - moment) <= TOLERANCE_NS:
                    side = order[nearest]
            sides.append(side)
        return sides


def _local_offset(offsets: list[tuple[int, int]], captured_ns: int) -> int:
    """The median of those nearest in time."""
    middle = bisect_left(offsets, (captured_ns,))
    start = max(0, min(middle - _NEIGHBOURS // 2, len(offsets) - _NEIGHBOURS))
    return int(statistics.median_low(o for _, o in offsets[start : start + _NEIGHBOURS]))


def _nearest(times: list[int], moment: int) -> int | None:
    """Place of the value nearest to a moment in a sorted list."""
    after = bisect_left(times, moment)
    around = [place for place in (after - 1, after) if 0 <= place < len(times)]
    return min(around, key=lambda place: abs(times[place] - moment), default=None)
