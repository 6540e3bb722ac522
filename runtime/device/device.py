"""A camera of a rig on its own machine: capture, encode and send at once, the newest frame first.

    camera ─► FrameSlot (one frame, the newest) ─► encode ─► CameraStream ══► server
     thread                       when the server has room, and not earlier than it can use

A frame that a newer one replaces in the slot is dropped and counted. While the server is away
capturing goes on, and the connection is tried again with a growing, capped pause.
"""

import logging
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import MAX_PAYLOAD, Packet
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.codec.references import SentFrames
from dsin.runtime.device.just_in_time import JustInTime
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.device.stream_client import (
    CameraStream,
    ConnectionLostError,
    Greeting,
    NoDatagramsError,
    Transport,
)
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.sources.cameras import Camera, CapturedFrame
from dsin.runtime.stopwatch import Stopwatch
from dsin.runtime.trace import add_slice, traced

LOG = logging.getLogger(__name__)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
STATUS_S = 1.0
MAX_PICTURE_BYTES = MAX_PAYLOAD
POLL_S = 0.25
"""How soon a wait notices that the device is to stop."""


@dataclass(frozen=True)
class MadeFrame:
    """What is to be sent for a captured frame. `rate` is None for a picture."""

    number: int
    timestamp_ns: int
    taken_s: float
    data: bytes
    rate: int | None
    stage_ms: dict[str, float]


@dataclass(frozen=True)
class AnsweredFrame:
    """A frame and the server's answer to it. Times are in milliseconds: `round_trip_ms` from the
    capture to the answer, `age_ms` from the capture to the end of decoding, as the server reckons
    it."""

    made: MadeFrame
    status: str
    side_use: str
    decode_ms: float
    age_ms: float
    round_trip_ms: float
    reason: str


class _UnderWay(NamedTuple):
    """A frame that is not answered yet, and when its making began."""

    made: MadeFrame
    begun_s: float


@dataclass
class DeviceCounts:
    """Since the start: frames captured, never encoded (`dropped`), sent, answered, sent but never
    answered (`lost`: in datagrams, or when a connection broke); attempts to connect, and how many
    of these were to connect again. `statuses` counts answers by status.

    Each captured frame is dropped, sent, or at the end `unsent`: the newest ones, if the end came
    before they could be. Each that was sent is answered or lost."""

    captured: int = 0
    dropped: int = 0
    sent: int = 0
    answered: int = 0
    lost: int = 0
    attempts: int = 0
    reconnects: int = 0
    sent_bytes: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def unsent(self) -> int:
        """At the end: frames that were captured, and neither dropped nor sent."""
        return self.captured - self.dropped - self.sent


class PacketMaker:
    """Sends packets, as camera x does. `controller` chooses the rates; without one every frame has
    `rate`, by default the bundle's. Packets refer to frames that the server has confirmed, where
    bundle and server can do so; with `independent` each stands alone."""

    letter = "x"

    def __init__(
        self,
        encoder: Encoder,
        rate: int | None = None,
        controller: RateController | None = None,
        *,
        independent: bool = False,
    ) -> None:
        self.codec_id = encoder.bundle.codec_id
        self.rate_points = len(encoder.bundle.rate_points)
        encoder.bundle.rate_index(rate)
        self._encoder = encoder
        self._rate = rate
        self.controller = controller
        self.refers = encoder.bundle.refers and not independent
        self._sent: SentFrames | None = None
        self._held: int | None = None

    def connected(self, *, takes_references: bool) -> None:
        """A connection was made, to a server that has decoded no frame yet."""
        self._sent = SentFrames() if self.refers and takes_references else None

    def answered(self, ack: dsin_v1.Ack) -> None:
        """Note what the server made of a frame."""
        if self._sent is None:
            return
        if ack.status == dsin_v1.DECODED:
            self._sent.confirm(ack.frame_number)
        elif ack.reference_missing:
            self._sent.forget(ack.frame_number)

    def make(self, frame: CapturedFrame) -> MadeFrame:
        """Encode a frame."""
        controller = self.controller
        rate = self._rate if controller is None else controller.next_rate(self._held)
        packet = self._encoder.encode(
            frame.image, rate, frame_number=frame.number, timestamp_ns=frame.timestamp_ns,
            references=self._sent,
        )  # fmt: skip
        self._account(packet)
        stages = {"capture": frame.capture_ms, **packet.stage_ms}
        return MadeFrame(
            frame.number,
            frame.timestamp_ns,
            frame.taken_s,
            bytes(packet),
            packet.header.rate,
            stages,
        )

    def _account(self, packet: Packet) -> None:
        """Tell the controller what a packet took."""
        controller, rate = self.controller, packet.header.rate
        if controller is None:
            return
        whole = controller.predicted_sizes[rate]
        if packet.header.reference is not None and len(packet) < whole / 2:
            self._held = rate
            controller.spared(len(packet))
        else:
            self._held = None
            controller.sent(rate, len(packet))

    def message(self, made: MadeFrame, held_us: int, sent_ns: int) -> dsin_v1.CameraMessage:
        """The message that carries it."""
        return dsin_v1.CameraMessage(
            frame=dsin_v1.EncodedFrame(
                packet=made.data,
                timestamp_ns=made.timestamp_ns,
                frame_number=made.number,
                held_us=held_us,
                sent_ns=sent_ns,
            )
        )


class PictureMaker:
    """Sends whole pictures, as camera y does: lossless, or as JPEG of a quality (1..100)."""

    letter = "y"
    codec_id, rate_points = b"", 0
    controller = None
    refers = False

    def __init__(self, quality: int | None = None) -> None:
        if quality is not None and not 1 <= quality <= 100:
            raise DsinError(f"a JPEG quality must be within 1..100, not {quality}")
        self._quality = quality

    def connected(self, *, takes_references: bool) -> None:
        """Pictures never refer to others."""

    def answered(self, ack: dsin_v1.Ack) -> None:
        """An answer changes nothing for the next picture."""

    def make(self, frame: CapturedFrame) -> MadeFrame:
        """Encode a picture. Raises DsinError for one that is too large to be sent."""
        watch = Stopwatch()
        with watch.stage("picture"):
            data = encode_picture(frame.image, self._quality)
        if len(data) > MAX_PICTURE_BYTES:
            raise DsinError(
                f"a picture of {len(data)} bytes is over the limit of {MAX_PICTURE_BYTES}: "
                "send smaller ones, or JPEG (--quality)"
            )
        stages = {"capture": frame.capture_ms, **watch.ms}
        return MadeFrame(frame.number, frame.timestamp_ns, frame.taken_s, data, None, stages)

    def message(self, made: MadeFrame, held_us: int, sent_ns: int) -> dsin_v1.CameraMessage:
        """The message that carries it."""
        return dsin_v1.CameraMessage(
            side=dsin_v1.SideFrame(
                picture=made.data,
                timestamp_ns=made.timestamp_ns,
                frame_number=made.number,
                held_us=held_us,
                sent_ns=sent_ns,
            )
        )


class FrameSlot:
    """Reads a camera in a thread of its own and holds one frame. With `every` the next one is read
    when that is taken, else a newer one takes its place. It ends with the camera, or when `most`
    frames were taken."""

    def __init__(self, camera: Camera, every: bool = False, most: int | None = None) -> None:
        self._camera = camera
        self._every = every
        self._left = most
        self._changed = threading.Condition()
        self._frame: CapturedFrame | None = None
        self._ended = False
        self._stopping = False
        self._fault: BaseException | None = None
        self._replaced = 0
        self._counts: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._capture, name="capture", daemon=True)
        self._thread.start()

    @property
    def captured(self) -> int:
        """Frames captured so far, until capturing ended."""
        return self._camera.captured if self._counts is None else self._counts[0]

    @property
    def dropped(self) -> int:
        """Frames that nobody took: replaced here, or skipped by the camera."""
        skipped = self._camera.skipped if self._counts is None else self._counts[1]
        return self._replaced + skipped

    @property
    def ended(self) -> bool:
        """Whether all frames were taken and no more will come."""
        with self._changed:
            return self._left == 0 or (self._ended and self._frame is None)

    def take(self, timeout_s: float) -> CapturedFrame | None:
        """The newest frame not yet taken; None if none came in time, or none will.

        With `every` a frame exists from now on: that it was read ahead makes it no older.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_s)
            frame, self._frame = self._frame, None
            if frame is not None and self._left is not None:
                self._left -= 1
                self._stopping = self._stopping or self._left == 0
            self._changed.notify_all()
        if frame is not None and self._every:
            return frame._replace(taken_s=time.monotonic())
        return frame

    def raise_fault(self) -> None:
        """Once it has ended: raise what ended it, such as FrameError for a recording that cannot
        be read."""
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Stop capturing."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _capture(self) -> None:
        try:
            while self._has_room() and not self._camera.ended:
                try:
                    frame = self._camera.newest(POLL_S)
                except FrameError as error:
                    if self._camera.clock == "recording":
                        raise
                    LOG.warning("%s", error)  # it may come back
                    continue
                if frame is not None:
                    end_ns = time.perf_counter_ns()
                    start_ns = end_ns - round(1e6 * frame.capture_ms)
                    add_slice("capture", start_ns, end_ns, frame=frame.number)
                    self._put(frame)
        except BaseException as error:  # told by `raise_fault`, in the device's thread
            self._fault = error
        finally:
            with self._changed:
                skipped = self._camera.skipped  # first: the camera may go on
                self._counts = self._camera.captured, skipped
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """Whether to read another frame, once that may be; false when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or not self._every or self._frame is None)
            return not self._stopping

    def _put(self, frame: CapturedFrame) -> None:
        with self._changed:
            if self._frame is not None:
                self._replaced += 1
            self._frame = frame
            self._changed.notify_all()


class Device:
    """Streams one camera of a rig to a server.

        device = Device(camera, PacketMaker(encoder), "server:7000", "front", certificates)
        counts = device.run()

    `every` sends all frames of a recording, however long that takes. `frames` ends the stream when
    so many were taken from the camera for sending. `transport` is how frames go:
    by `grpc`, in a `datagram` each or some (without delay where frames get lost), or `auto`, which
    takes datagrams as soon as one has come back, but not with `every`, which may lose none; camera
    y takes gRPC. `follower` has the rate of `maker` follow the link. `give_up_s` limits the
    attempts to reach a server (None: for ever). `on_frame` is called with each answer, by a
    thread of the stream. `on_news` is called with a line when a connection is made, is lost, or
    cannot be made for a new reason; without it these lines are logged. `run` returns at the end of
    the source or after `stop`. It raises StreamError if the server refuses the device or was out of
    reach for too long, and DsinError for a camera that fails.
    """

    def __init__(
        self,
        camera: Camera,
        maker: PacketMaker | PictureMaker,
        address: str,
        rig: str,
        certificates: Certificates | None = None,
        *,
        every: bool = False,
        frames: int | None = None,
        transport: Transport = "auto",
        follower: LinkFollower | None = None,
        give_up_s: float | None = None,
        on_frame: Callable[[AnsweredFrame], None] = lambda frame: None,
        on_news: Callable[[str], None] | None = None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        height, width = camera.size
        self._greeting = Greeting(
            rig=rig, camera=maker.letter, live=camera.clock == "live", width=width, height=height,
            session=random.getrandbits(64), codec_id=maker.codec_id, rate_points=maker.rate_points,
            recording_start_ns=camera.start_ns, references=maker.refers,
        )  # fmt: skip
        self._camera = camera
        self._maker = maker
        self._address = address
        self._certificates = certificates
        self._every = every
        self._frames = frames
        self._transport: Transport = "grpc" if every and transport == "auto" else transport
        self._had_datagrams = False
        self._follower = follower
        self._give_up_s = give_up_s
        self._on_frame = on_frame
        self._on_news = on_news
        self._clock = clock
        self._stop = threading.Event()
        self._under_way: dict[int, _UnderWay] = {}
        self._timing = JustInTime()
        self._recent: deque[MadeFrame] = deque(maxlen=30)
        self._sent_at: deque[float] = deque(maxlen=10)
        self._paused_s = 0.0
        """For how long frames were held back since even the lowest rate is too much."""
        self._told_of_rate = False
        self.counts = DeviceCounts()

    @property
    def under_way(self) -> list[int]:
        """Numbers of the frames that are not answered yet."""
        return list(self._under_way)

    def stop(self) -> None:
        """Make `run` return soon. For signal handlers and other threads."""
        self._stop.set()

    def run(self) -> DeviceCounts:
        """Stream until the source ends or `stop` is called; see above."""
        slot = FrameSlot(self._camera, self._every, self._frames)
        pause_s, since_s, told = FIRST_PAUSE_S, time.monotonic(), ""
        was_connected = False
        try:
            while not self._stop.is_set():
                connected_s = time.monotonic()
                self.counts.attempts += 1
                try:
                    with CameraStream(
                        self._address, self._certificates, self._greeting, self._answered,
                        transport=self._transport, on_lost=self._lost,
                        on_news=lambda line: self._say(logging.INFO, line), clock=self._clock,
                    ) as stream:  # fmt: skip
                        self._had_datagrams = self._had_datagrams or stream.link is not None
                        way = f", {stream.way}" if stream.way else ""
                        self._say(logging.INFO, f"connected to {self._address}{way}")
                        pause_s, told, was_connected = FIRST_PAUSE_S, "", True
                        self._maker.connected(takes_references=stream.takes_references)
                        self._pump(stream, slot)
                        return self._final(slot)
                except (ConnectionLostError, NoDatagramsError) as error:
                    self._note_loss()
                    if isinstance(error, NoDatagramsError) and not self._had_datagrams:
                        raise
                    if time.monotonic() - connected_s > LONGEST_PAUSE_S:
                        since_s = time.monotonic()
                    if self._gave_up(since_s):
                        raise
                    if str(error) != told:
                        self._say(logging.WARNING, f"{error}; trying again")
                        told = str(error)
                self.counts.reconnects += was_connected  # a server that starts late is no loss
                self._stop.wait(pause_s * random.uniform(0.8, 1.0))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            return self._final(slot)
        finally:
            slot.close()

    def _say(self, level: int, line: str) -> None:
        if self._on_news is None:
            LOG.log(level, "rig %s: %s", self._greeting.rig, line)
        else:
            self._on_news(line)

    def _gave_up(self, since_s: float) -> bool:
        return self._give_up_s is not None and time.monotonic() - since_s > self._give_up_s

    def _pump(self, stream: CameraStream, slot: FrameSlot) -> None:
        """Send frames as long as the connection lasts, to the end of the source."""
        told_s = 0.0
        while not self._stop.is_set():
            with traced("wait for room"):
                stream.wait_for_room()
                self._hold(stream)
                self._wait_for_link(stream)
                held = self._keep_to_rate(stream)
            if slot.ended:
                break
            frame = None if held else slot.take(POLL_S)
            if frame is not None:
                with traced("frame", frame=frame.number) as known:
                    made = self._send(stream, frame)
                    known.update(rate=made.rate, bytes=len(made.data))
            if time.monotonic() - told_s >= STATUS_S:
                told_s = time.monotonic()
                self._tell(stream, slot)
        stream.wait_until_empty()
        self._tell(stream, slot)
        slot.raise_fault()

    def _hold(self, stream: CameraStream) -> None:
        """Wait as long as a frame that was taken now would wait at the server."""
        while not self._stop.is_set() and stream.under_way:
            pause_s = self._timing.due_s - time.monotonic()
            if pause_s <= 0:
                return
            stream.wait_while_under_way(min(pause_s, POLL_S))

    def _wait_for_link(self, stream: CameraStream) -> None:
        """Wait as long as the link is too full for another frame."""
        while self._follower is not None and not self._stop.is_set():
            pause_s = self._follower.pause_s()
            if pause_s <= 0:
                return
            stream.wait_while_under_way(0)  # raises what ended the stream
            self._follower.wait(min(pause_s, POLL_S))

    def _keep_to_rate(self, stream: CameraStream) -> bool:
        """Whether the next frame has to wait still, for the stream to take no more than it may."""
        controller = self._maker.controller
        if controller is None or self._follower is not None or controller.pause_s == 0:
            return False
        self._tell_of_rate(controller)
        if self._every:  # all frames are wanted
            return False
        stream.wait_while_under_way(0)  # raises what ended the stream
        begun_s = time.monotonic()
        self._stop.wait(min(controller.pause_s, POLL_S))
        paused_s = time.monotonic() - begun_s
        controller.paused(paused_s)
        self._paused_s += paused_s
        return controller.pause_s > 0

    def _tell_of_rate(self, controller: RateController) -> None:
        """Once: that even the lowest rate is too much."""
        if self._told_of_rate or controller.least_kbps <= controller.target_kbps:
            return
        self._told_of_rate = True
        what = "the stream takes more" if self._every else "frames are left out to keep to it"
        self._say(
            logging.WARNING,
            f"{controller.target_kbps:g} kbit/s is less than the {controller.least_kbps:.0f} "
            f"kbit/s that the lowest rate takes: {what}",
        )

    def _tell(self, stream: CameraStream, slot: FrameSlot) -> None:
        self._update(slot)
        stream.send_status(self._status())

    def _send(self, stream: CameraStream, frame: CapturedFrame) -> MadeFrame:
        self._steer()
        begun_s = time.monotonic()
        made = self._maker.make(frame)
        self._under_way[made.number] = _UnderWay(made, begun_s)
        self._recent.append(made)
        held_us = min(2**32 - 1, max(0, round(1e6 * (time.monotonic() - made.taken_s))))
        sent_ns = 0 if self._greeting.live else self._clock()
        if self._follower is not None:
            self._follower.sent(made.number, len(made.data))
        self.counts.sent += 1  # if the connection is broken, it is lost by that
        self.counts.sent_bytes += len(made.data)
        stream.send_frame(self._maker.message(made, held_us, sent_ns))
        return made

    def _steer(self) -> None:
        """Tell the rate control what the link takes, or how many frames a second are really sent;
        with `every` it goes by the pace of the recording."""
        if self._follower is not None:
            self._follower.aim()
            return
        if self._every:
            return
        # A pace that went down with the pauses would ask for larger frames, and rarer ones.
        self._sent_at.append(time.monotonic() - self._paused_s)
        if self._maker.controller is not None and len(self._sent_at) == self._sent_at.maxlen:
            span_s = self._sent_at[-1] - self._sent_at[0]
            self._maker.controller.pace((len(self._sent_at) - 1) / max(span_s, 1e-3))

    def _answered(self, ack: dsin_v1.Ack) -> None:
        now_s = time.monotonic()
        self._maker.answered(ack)
        sent = self._under_way.pop(ack.frame_number, None)
        if sent is None:
            return
        made = sent.made
        if self._follower is not None:
            self._follower.answered(ack, now_s)
        self._timing.answered(1000 * (now_s - sent.begun_s), ack.decode_ms, ack.waited_ms, now_s)
        self.counts.answered += 1
        status = dsin_v1.FrameStatus.Name(ack.status).lower()
        self.counts.statuses[status] = self.counts.statuses.get(status, 0) + 1
        side_use = dsin_v1.SideUse.Name(ack.side_use).lower().replace("_", "-")
        round_trip_ms = 1000 * (now_s - made.taken_s)
        self._on_frame(
            AnsweredFrame(
                made, status, side_use, ack.decode_ms, ack.age_ms, round_trip_ms, ack.reason
            )
        )

    def _lost(self, numbers: list[int]) -> None:
        """Frames that never came to the server, or whose answers never came back."""
        self.counts.lost += sum(self._under_way.pop(n, None) is not None for n in numbers)
        if self._follower is not None:
            for number in numbers:
                self._follower.lost(number)

    def _note_loss(self) -> None:
        """What was under way will never be answered, and is not sent again."""
        self.counts.lost += len(self._under_way)
        self._under_way.clear()
        if self._follower is not None:
            self._follower.restart()

    def _update(self, slot: FrameSlot) -> None:
        self.counts.captured, self.counts.dropped = slot.captured, slot.dropped

    def _final(self, slot: FrameSlot) -> DeviceCounts:
        self._note_loss()
        slot.close()  # what is counted must not change any more
        self._update(slot)
        return self.counts

    def _status(self) -> dsin_v1.DeviceStatus:
        recent = list(self._recent)
        controller = self._maker.controller
        status = dsin_v1.DeviceStatus(
            captured=self.counts.captured,
            dropped=self.counts.dropped,
            lost=self.counts.lost,
            reconnects=self.counts.reconnects,
            capture_ms=_median([made.stage_ms["capture"] for made in recent]),
            encode_ms=_median([sum(m.stage_ms.values()) - m.stage_ms["capture"] for m in recent]),
            target_kbps=0.0 if controller is None else controller.target_kbps,
        )
        if self._follower is not None:
            figures = self._follower.figures
            status.target_kbps, status.loss = figures.target_kbps, figures.loss
            status.delivered_kbps = figures.delivered_kbps
            status.queueing_ms = figures.queueing_ms
        return status


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
