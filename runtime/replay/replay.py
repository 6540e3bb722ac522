"""Decodes the packets of a recording again, with the side images in it.

The recording is read twice: first for times and numbers, to know which side image each frame gets,
then for packets and pictures. A frame waits until its side image was read, and a side image is held
until the last frame that needs it, so memory does not grow with the recording's length.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsin.runtime.codec.decoder import Decoder, SideFeatures
from dsin.runtime.codec.packet import Packet, check_codec
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.codec.scene_memory import SceneMemory
from dsin.runtime.errors import FrameError, PacketError, RecordingError
from dsin.runtime.link.side_pictures import decode_picture
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.pictures import Image
from dsin.runtime.replay.recorded_frames import (
    Event,
    RecordedPacket,
    RecordedSide,
    RigTimeline,
    recorded_events,
)
from dsin.runtime.sources.mcap_reader import McapReader


@dataclass
class RigReplay:
    """What came of one rig. `live` counts frames that had a side image when they were recorded,
    `now` those that had one in replay, `repaired` those whose side image is another than live."""

    frames: int = 0
    rejected: int = 0
    live: int = 0
    now: int = 0
    repaired: int = 0
    bits: int = 0
    pixels: int = 0
    fault: str | None = None

    def row(self, rig: str) -> str:
        """A line of the table."""
        bpp = f"{self.bits / self.pixels:.4f}" if self.pixels else "-"
        counts = f"{self.frames:8}{bpp:>11}{self.live:14}{self.now:10}{self.repaired:10}"
        return f"{rig:12}{counts}{self.rejected:10}"


@dataclass
class ReplayReport:
    """Figures of a replay; `lost_bytes` of the recordings could not be read, and `lost_s` seconds
    are missing within them."""

    rigs: dict[str, RigReplay]
    lost_bytes: int
    complete: bool
    lost_s: float = 0.0

    def table(self) -> str:
        """For a person, without a newline at the end."""
        head = f"{'rig':12}{'frames':>8}{'bit/pixel':>11}{'side: live':>14}{'now':>10}"
        lines = [f"{head}{'repaired':>10}{'rejected':>10}"]
        lines += [figures.row(rig) for rig, figures in self.rigs.items()]
        lines += [f"{r}: {f.fault}" for r, f in self.rigs.items() if f.fault is not None]
        if not self.complete:
            lines.append("the recording was cut off; everything before the cut was read")
        if self.lost_bytes:
            seconds = f", {self.lost_s:.1f} s within it," if self.lost_s else ""
            lines.append(f"{self.lost_bytes} bytes of it{seconds} could not be used")
        return "\n".join(lines)


def replay_recordings(
    paths: Sequence[Path],
    decoder: Decoder,
    *,
    rig: str | None = None,
    use_side: bool = True,
    repair_side: bool = True,
    on_frame: Callable[[DecodedFrame], None] = lambda frame: None,
) -> ReplayReport:
    """Decode what is in recordings (the parts of one, in order), calling `on_frame` with each.

    `rig` restricts this to one rig. Without `use_side` there is only x_dec; without
    `repair_side` each frame gets the side image that it had live, if it had one. The frames' times
    are those of the recording, their stages those of now. A packet that does not decode is counted,
    such as one that refers to a frame that is not in the recording.
    Raises RecordingError for a file that is not a recording or has no frames, PacketError where the
    packets are of another codec than the decoder's.
    """
    parts = _Parts(paths, rig)
    timelines: dict[str, RigTimeline] = defaultdict(RigTimeline)
    for event in parts.events():
        timelines[event.rig].add(event)
    if not any(timeline.frames for timeline in timelines.values()):
        of_rig = "" if rig is None else f" of rig {rig}"
        raise RecordingError(f"{paths[0]} holds no frames{of_rig} that dsin recorded")
    replays = {
        name: _Rig(timeline, decoder, use_side, repair_side, on_frame)
        for name, timeline in timelines.items()
        if timeline.frames
    }
    for event in parts.events():
        if event.rig in replays:
            replays[event.rig].add(event)
    figures = {name: replay.finish() for name, replay in replays.items()}
    return ReplayReport(figures, parts.lost_bytes, parts.complete, parts.lost_s)


class _Parts:
    """Several files, one after the other."""

    def __init__(self, paths: Sequence[Path], rig: str | None) -> None:
        self._recordings = [McapReader(path) for path in paths]
        self._rig = rig

    def events(self) -> Iterator[Event]:
        for recording in self._recordings:
            for event in recorded_events(recording):
                if self._rig in (None, event.rig):
                    yield event

    @property
    def lost_bytes(self) -> int:
        return sum(recording.lost_bytes for recording in self._recordings)

    @property
    def lost_s(self) -> float:
        return sum(recording.lost_ns for recording in self._recordings) / 1e9

    @property
    def complete(self) -> bool:
        return all(recording.complete for recording in self._recordings)


class _Rig:
    """Decodes one rig's frames in order."""

    def __init__(
        self,
        timeline: RigTimeline,
        decoder: Decoder,
        use_side: bool,
        repair_side: bool,
        on_frame: Callable[[DecodedFrame], None],
    ) -> None:
        self._frames = timeline.frames
        self._decoder = decoder
        self._references = DecodedFrames()
        self._on_frame = on_frame
        live = [frame.side for frame in timeline.frames]
        chosen = timeline.repaired_sides() if repair_side else live
        self._chosen = chosen if use_side else [None] * len(live)
        self._last_need = {side: place for place, side in enumerate(self._chosen)}
        self._waiting: deque[RecordedPacket] = deque()
        self._sides: dict[int, RecordedSide] = {}
        self._sides_read = self._frames_done = 0
        self._memory = SceneMemory()
        self._figures = RigReplay(live=sum(side is not None for side in live))

    def add(self, event: Event) -> None:
        """The next event; decodes what has become possible."""
        if isinstance(event, RecordedSide):
            if self._sides_read in self._last_need:
                self._sides[self._sides_read] = event
            self._sides_read += 1
        elif isinstance(event, RecordedPacket):
            self._waiting.append(event)
        while self._waiting and self._ready():
            self._next(self._waiting.popleft())

    def finish(self) -> RigReplay:
        """The figures, when all events were read."""
        while self._waiting:  # only if the file has changed since it was first read
            self._next(self._waiting.popleft())
        return self._figures

    def _ready(self) -> bool:
        side = self._chosen[self._frames_done]
        return side is None or side < self._sides_read

    def _next(self, packet: RecordedPacket) -> None:
        place, self._frames_done = self._frames_done, self._frames_done + 1
        chosen = self._chosen[place]
        side = None if chosen is None else self._sides.get(chosen)
        if chosen is not None and self._last_need[chosen] == place:
            self._sides.pop(chosen, None)
        try:
            parsed = Packet.parse(packet.packet)
        except PacketError as error:
            self._reject(error)
            return
        # Another bundle's packets are no fault of one frame.
        check_codec(parsed.header.codec_id, self._decoder.bundle.codec_id)
        try:
            self._decode(place, packet, parsed, side)
        except PacketError as error:
            self._reject(error)

    def _prepared(self, view: SideView, rate: int) -> SideFeatures | Image:
        """As the server had it; of a packet whose rate the bundle lacks, decoding tells."""
        if rate >= len(self._decoder.bundle.rate_points):
            return view.image
        return self._memory.remind("", self._decoder.prepare_side(view.image, rate=rate))

    def _reject(self, error: PacketError) -> None:
        self._figures.rejected += 1
        self._figures.fault = self._figures.fault or f"frame rejected: {error}"

    def _decode(
        self,
        place: int,
        packet: RecordedPacket,
        parsed: Packet,
        side: RecordedSide | None,
    ) -> None:
        header = parsed.header
        view = None if side is None else _side_view(side, (header.height, header.width))
        features = None if view is None else self._prepared(view, header.rate)
        decoded = self._decoder.decode(parsed, features, references=self._references)
        if view is not None:
            self._memory.note("", decoded)
        figures, frame = self._figures, self._frames[place]
        repaired = view is not None and self._chosen[place] != frame.side
        figures.frames += 1
        figures.now += view is not None
        figures.repaired += repaired
        figures.bits += 8 * len(packet.packet)
        figures.pixels += header.height * header.width
        if side is not None and view is None:
            figures.fault = figures.fault or f"side image {side.number} cannot be used"
        if view is None:
            use = SideUse.MISSING
        elif not decoded.used_side:
            use = SideUse.UNRELATED
        else:
            use = SideUse.PAIRED if repaired else frame.side_use or SideUse.PREVIOUS
        self._on_frame(
            DecodedFrame(
                rig=packet.rig, number=packet.number, timestamp_ns=packet.timestamp_ns,
                captured_ns=packet.captured_ns,
                received_ns=packet.captured_ns if frame.received_ns is None else frame.received_ns,
                decoded_ns=packet.decoded_ns, packet=packet.packet, decoded=decoded, side=view,
                side_use=use,
                stage_ms={f"server.{name}": ms for name, ms in decoded.stage_ms.items()},
            )
        )  # fmt: skip


def _side_view(side: RecordedSide, size: tuple[int, int]) -> SideView | None:
    """The picture, None where it is damaged or not of the frame's size."""
    try:
        image = decode_picture(side.picture, size)
    except FrameError:
        return None
    return SideView(image, side.number, side.timestamp_ns)
