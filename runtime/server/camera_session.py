"""One camera's stream on the server: its clock, its frames under way, its messages.

All methods are called in the event loop; answers of the pool come from other threads.
"""

import asyncio
from dataclasses import replace
from typing import NamedTuple

import grpc

from dsin.runtime.codec.packet import Packet
from dsin.runtime.datagrams.pieces import PieceError, unpacked_body
from dsin.runtime.errors import FrameError, PacketError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.clocks import CameraClock, now_ns
from dsin.runtime.link.rpc import CREDITS
from dsin.runtime.link.side_pictures import decode_picture
from dsin.runtime.outputs.decoded_frame import SideView
from dsin.runtime.pictures import Image
from dsin.runtime.server.datagram_session import DatagramSession
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.rig import ArrivedFrame, FrameStatus, Outcome, Rig
from dsin.runtime.server.side_cameras import SideCameras
from dsin.runtime.sources.resized import resized

MOST_PROBES = 16
"""Questions for a camera's time that it may leave unanswered; then no more are asked, and in
datagrams, which get lost, the oldest is forgotten."""
LOOK_S = 0.02
"""How soon it is noticed that a camera shows life."""


class RefusedError(Exception):
    """A stream is ended with this status; `reason` is for the camera's user."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Arrival(NamedTuple):
    """A packet as it came; without `timestamp_ns` only the packet tells it."""

    number: int
    packet: bytes
    timestamp_ns: int | None
    held_us: int
    sent_ns: int


class CameraSession:
    """A camera that was admitted. `outgoing` holds what is to be sent to it over its stream;
    `datagrams` is where it may send its frames instead."""

    def __init__(
        self,
        pool: DecodePool,
        sides: SideCameras,
        rig: Rig,
        hello: dsin_v1.Hello,
        loop: asyncio.AbstractEventLoop,
        peer: str = "",
    ) -> None:
        self.rig = rig
        self.peer = peer
        self.kind = int(hello.camera)
        self.letter = "x" if hello.camera == dsin_v1.CAMERA_X else "y"
        self.live = hello.clock == dsin_v1.CLOCK_LIVE
        self.outgoing: asyncio.Queue[dsin_v1.ServerMessage] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.doubted = asyncio.Event()
        self.end_status: tuple[grpc.StatusCode, str] | None = None
        self.datagrams: DatagramSession | None = None
        self._pool = pool
        self._sides = sides
        self._loop = loop
        self.session = hello.session
        self._heard = 0
        self._wants_references = hello.references
        self._size = hello.height, hello.width
        self._clock = CameraClock()
        self._asked: dict[int, None] = {}
        self._under_way = 0
        self._last_side: int | None = None

    def join(self) -> None:
        """Tell the pool that the camera is there; with camera x comes the server's own live y."""
        if self.letter == "x":
            self._pool.camera_joined(self.rig, self._clock.offset, references=self.takes_references)
        if self.letter == "y" or self._has_own_side:
            self._pool.side_joined(self.rig)
        if self._has_own_side:
            self._sides.feed(self.rig.name, self._take_own_side)

    def leave(self) -> None:
        """Tell the pool that the camera is gone."""
        if self.letter == "x":
            self._pool.camera_left(self.rig)
        if self.letter == "y" or self._has_own_side:
            self._pool.side_left(self.rig)
        if self._has_own_side:
            self._sides.feed(self.rig.name, None)

    @property
    def takes_references(self) -> bool:
        """Whether its packets may refer to those before them."""
        return self._wants_references and self._pool.bundle.refers

    @property
    def _has_own_side(self) -> bool:
        """Whether this is x, and its y a live camera of the server."""
        return self.letter == "x" and self._sides.live_size(self.rig.name) is not None

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        """End the stream with this status."""
        if self.end_status is None:
            self.end_status = code, reason
        self.ended.set()

    async def shows_life(self, within_s: float) -> bool:
        """Whether the camera says anything within that time, if it is only the time it is asked
        for now. One that crashed, or whose way is cut, may seem to be connected for seconds."""
        heard, end_s = self._heard, self._loop.time() + within_s
        self.doubted.set()
        while self._loop.time() < end_s and not self.ended.is_set():
            if self._heard != heard:
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def next_message(self) -> dsin_v1.ServerMessage:
        """What is to be sent next. A frame counts as under way until its answer is, so that
        whoever does not read answers cannot let them pile up."""
        message = await self.outgoing.get()
        if message.HasField("ack"):
            self._under_way -= 1
        return message

    def send_probe(self) -> None:
        """Ask for the camera's time."""
        if self._active_datagrams is not None:
            self.take_ping()
        elif len(self._asked) < MOST_PROBES:  # else it has many to answer already
            self.outgoing.put_nowait(self._new_probe())

    def take_ping(self) -> None:
        """Ask for the camera's time in a datagram, which nothing holds up."""
        assert self.datagrams is not None
        if len(self._asked) >= MOST_PROBES:
            del self._asked[next(iter(self._asked))]
        self.datagrams.send(self._new_probe())

    def _new_probe(self) -> dsin_v1.ServerMessage:
        probe = dsin_v1.ClockProbe(server_send_ns=now_ns())
        self._asked[probe.server_send_ns] = None
        return dsin_v1.ServerMessage(probe=probe)

    @property
    def _active_datagrams(self) -> DatagramSession | None:
        """Where to send to the camera, if that is in datagrams."""
        return self.datagrams if self.datagrams is not None and self.datagrams.active else None

    async def take(self, message: dsin_v1.CameraMessage) -> None:
        """A message of the camera. Raises RefusedError for one that breaks the protocol."""
        received_ns = now_ns()
        self._heard += 1
        kind = message.WhichOneof("message")
        if kind == "frame" and self.letter == "x":
            self._count_under_way()
            frame = message.frame
            arrival = _Arrival(
                frame.frame_number, frame.packet, frame.timestamp_ns, frame.held_us, frame.sent_ns
            )
            self._take_frame(arrival, received_ns)
        elif kind == "side" and self.letter == "y":
            self._count_under_way()
            await self._take_side(message.side, received_ns)
        else:
            self._take_other(message, received_ns)

    def take_body(self, number: int, body: bytes, received_ns: int) -> None:
        """A frame that came in datagrams."""
        self._heard += 1
        try:
            held_us, sent_ns, packet = unpacked_body(body)
        except PieceError as error:
            self.take_fault(str(error))
            return
        self._take_frame(_Arrival(number, packet, None, held_us, sent_ns), received_ns)

    def take_message(self, message: dsin_v1.CameraMessage, received_ns: int) -> None:
        """A message that came in a datagram."""
        self._heard += 1
        if message.HasField("bye"):
            self.ended.set()
            return
        try:
            self._take_other(message, received_ns)
        except RefusedError as refused:
            self.end(refused.code, refused.reason)

    def take_fault(self, reason: str) -> None:
        """Datagrams of the camera that no camera sends: its stream ends."""
        self.end(grpc.StatusCode.INVALID_ARGUMENT, reason)

    def _take_other(self, message: dsin_v1.CameraMessage, received_ns: int) -> None:
        kind = message.WhichOneof("message")
        if kind == "clock":
            self._take_clock(message.clock, received_ns)
        elif kind == "status":
            device = {field.name: float(value) for field, value in message.status.ListFields()}
            self._pool.device_reported(self.rig, device)
        else:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"camera {self.letter} must not send {kind or 'empty messages'} now",
            )

    def _take_own_side(self, view: SideView, captured_ns: int) -> None:
        """A picture of the server's live side camera, in that camera's thread."""
        image = resized(view.image, self.rig.size)
        self._pool.offer_side(self.rig, replace(view, image=image), captured_ns)

    def _take_clock(self, reply: dsin_v1.ClockReply, received_ns: int) -> None:
        if reply.server_send_ns not in self._asked:
            raise RefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, "a clock reply that was not asked for"
            )
        del self._asked[reply.server_send_ns]
        steps, first = self._clock.steps, self._clock.offset() is None
        self._clock.reply(
            reply.server_send_ns, reply.camera_receive_ns, reply.camera_send_ns, received_ns
        )
        if self.letter == "y" and self.live and (first or self._clock.steps != steps):
            self._pool.forget_sides(self.rig)

    def _count_under_way(self) -> None:
        self._under_way += 1
        if self._under_way > CREDITS:
            raise RefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"more frames under way than the {CREDITS} that were granted",
            )

    def _take_frame(self, frame: _Arrival, received_ns: int) -> None:
        number = frame.number
        try:
            packet = Packet.parse(frame.packet, self._pool.bundle.codec_id)
            header = packet.header
            if (header.height, header.width) != self.rig.size:
                raise PacketError(
                    f"packet is {header.width}x{header.height}, not of the size in the greeting"
                )
            told_ns = header.timestamp_ns if frame.timestamp_ns is None else frame.timestamp_ns
            if (header.frame_number, header.timestamp_ns) != (number, told_ns):
                raise PacketError("packet and message differ in frame number or time")
            last = self.rig.last_frame
            if last is not None and last[0] == self.session and number <= last[1]:
                raise PacketError(f"frame {number} comes after frame {last[1]}")
        except PacketError as error:
            self._pool.reject(self.rig)
            self._answer(Outcome(number, FrameStatus.REJECTED, reason=str(error)))
            return
        self.rig.last_frame = self.session, number
        sent_ns = header.timestamp_ns + 1000 * frame.held_us if self.live else frame.sent_ns
        doubt = self._watch(sent_ns, received_ns)
        captured_ns = self._clock.to_server(sent_ns - 1000 * frame.held_us, received_ns)
        arrived = ArrivedFrame(
            packet=packet,
            paired_ns=captured_ns if self.live else header.timestamp_ns,
            captured_ns=min(captured_ns, received_ns),
            received_ns=received_ns,
            clock_in_doubt=doubt and self.live,
            answer=self._answer_from_pool,
        )
        self._pool.offer(self.rig, arrived)

    async def _take_side(self, side: dsin_v1.SideFrame, received_ns: int) -> None:
        number = side.frame_number
        try:
            if self._last_side is not None and number <= self._last_side:
                raise FrameError(f"side frame {number} comes after side frame {self._last_side}")
            image = await self._loop.run_in_executor(None, self._side_image, side.picture)
        except FrameError as error:
            self._answer(Outcome(number, FrameStatus.REJECTED, reason=str(error)))
            return
        self._last_side = number
        sent_ns = side.timestamp_ns + 1000 * side.held_us if self.live else side.sent_ns
        doubt = self._watch(sent_ns, received_ns)
        captured_ns = self._clock.to_server(sent_ns - 1000 * side.held_us, received_ns)
        view = SideView(image, number, side.timestamp_ns)
        self._pool.offer_side(
            self.rig,
            view,
            captured_ns if self.live else side.timestamp_ns,
            clock_in_doubt=doubt and self.live,
        )
        self._send_ack(dsin_v1.Ack(frame_number=number, status=dsin_v1.STORED))

    def _side_image(self, picture: bytes) -> Image:
        """A picture as it came, in the size of the rig's. Raises FrameError."""
        return resized(decode_picture(picture, self._size), self.rig.size)

    def _watch(self, sent_ns: int, received_ns: int) -> bool:
        """Whether the clock is in doubt; then it is asked at once."""
        was = self._clock.in_doubt
        doubt = self._clock.watch(sent_ns, received_ns)
        if doubt and not was:
            self.doubted.set()
        return doubt

    def _answer_from_pool(self, outcome: Outcome) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, outcome)
        except RuntimeError:  # the loop has ended, and with it the stream
            return

    def _answer(self, outcome: Outcome) -> None:
        use = outcome.side_use
        self._send_ack(
            dsin_v1.Ack(
                frame_number=outcome.number,
                status=outcome.status.name,
                side_use=use.name if use else "SIDE_USE_UNSPECIFIED",
                server_time_ns=now_ns(),
                decode_ms=outcome.decode_ms,
                age_ms=outcome.age_ms,
                reason=outcome.reason,
                waited_ms=outcome.waited_ms,
                reference_missing=outcome.reference_missing,
            )
        )

    def _send_ack(self, ack: dsin_v1.Ack) -> None:
        if (datagrams := self._active_datagrams) is not None:
            datagrams.answer(ack)
            return
        self.outgoing.put_nowait(dsin_v1.ServerMessage(ack=ack))
