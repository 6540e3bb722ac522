"""One camera's datagrams on the server: opened, put together, answered.

    datagrams ─► Opener ─► pieces ─► Assembly ─► camera: a whole frame
                       └► messages ────────────► camera: clock, status
    camera: answers ─► LinkReport, at each answer and at least every REPORT_S

All methods are called in the event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from google.protobuf.message import DecodeError

from dsin.runtime.datagrams import pieces
from dsin.runtime.datagrams.assembly import MOST_IN_A_ROW, Assembly
from dsin.runtime.datagrams.loss import LossMeter, Settled
from dsin.runtime.datagrams.sealing import Opener, RejectedError, Sealer, new_key
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.server.link_tally import LinkTally

CREDITS = 8
"""Frames under way in datagrams, at most: a long way holds more than one that is decoded."""
REPORT_S = 0.1
"""A camera hears that often at least."""
SILENT_S = 3.0
"""A camera that was not heard for so long is gone."""
REMEMBERED = 8
"""Answers in a report."""
REORDERED_S = 0.01
"""A datagram that was overtaken and is not there after so long is missed."""
LONGEST_REASON = 200
MOST_FRAMES_S = 240
"""Frames in a second that no camera makes."""

Address = tuple[str, int]


class Taker(Protocol):
    """What a session needs of its camera."""

    def take_body(self, number: int, body: bytes, received_ns: int) -> None:
        """A whole frame."""

    def take_message(self, message: dsin_v1.CameraMessage, received_ns: int) -> None:
        """A message that is no frame."""

    def take_ping(self) -> None:
        """The camera asked for a sign of life."""

    def take_fault(self, reason: str) -> None:
        """The camera broke the protocol."""


class DatagramSession:
    """`number` is its name on the wire, `send` sends a datagram to an address."""

    def __init__(
        self, number: int, tally: LinkTally, taker: Taker, send: Callable[[bytes, Address], None]
    ) -> None:
        self.number = number
        self.tally = tally
        self._taker = taker
        self._send = send
        self._keys = new_key(), new_key()
        self._opener = Opener(number, self._keys[0])
        self._sealer = Sealer(number, self._keys[1])
        self._assembly = Assembly()
        self._loss = LossMeter()
        self._settled = Settled(self._opener.seen)
        self._address: Address | None = None
        self._acks: deque[dsin_v1.Ack] = deque(maxlen=REMEMBERED)
        self._pending: list[int] = []
        self._arrivals: deque[float] = deque(maxlen=MOST_FRAMES_S)
        self._reports = 0
        self._told_s = self._heard_s = self._newest_s = float("-inf")
        self.active = False
        """Whether the camera sends its frames this way."""

    def grant(self) -> dsin_v1.DatagramSession:
        """What the camera is told, inside its stream."""
        return dsin_v1.DatagramSession(
            session=self.number, camera_key=self._keys[0], server_key=self._keys[1], credits=CREDITS
        )

    @property
    def alive(self) -> bool:
        """Whether the camera sends its frames this way and was heard lately."""
        return self.active and time.monotonic() - self._heard_s < SILENT_S

    def take(self, datagram: bytes, address: Address, received_ns: int) -> None:
        """A datagram that names this session. What is not genuine and new is counted."""
        seen = self._opener.seen
        newest = seen.highest
        try:
            content = self._opener.open(datagram)
        except RejectedError as rejected:
            self.tally.rejected[rejected.reason] += 1
            return
        self._heard_s = time.monotonic()
        if seen.highest > newest:  # an older one may have come another way
            self._address, self._newest_s = address, self._heard_s
        self.tally.received += 1
        self._loss.report(*self._settled.counts(self._heard_s))
        if self.active:
            self.tally.bursts = self._settled.bursts
        if content[0] == pieces.PIECE:
            self._take_piece(content, received_ns)
            if seen.highest > newest + 1:
                self._miss()
        elif content[0] == pieces.MESSAGE:
            self._take_message(content[1:], received_ns)
        else:
            self._taker.take_fault(f"a datagram of kind {content[0]}")

    def answer(self, ack: dsin_v1.Ack) -> None:
        """Answer a frame, in this report and the next ones."""
        ack.reason = ack.reason[:LONGEST_REASON]
        self._acks.append(ack)
        if ack.frame_number in self._pending:
            self._pending.remove(ack.frame_number)
        self.report()

    def send(self, message: dsin_v1.ServerMessage) -> None:
        """Send something else than an answer, once."""
        if self._address is None:
            return
        content = bytes([pieces.MESSAGE]) + message.SerializeToString()
        self._send(self._sealer.seal(content)[1], self._address)

    def report(self) -> None:
        """Send the newest state."""
        self._told_s = time.monotonic()
        self._reports += 1
        sent, received = self._settled.counts(self._told_s)
        report = dsin_v1.LinkReport(
            acks=self._acks,
            pending=self._pending,
            newest=max(0, self._opener.seen.highest),
            sent=sent,
            received=received,
            held_us=round(1e6 * max(0.0, self._told_s - self._newest_s)),
            incomplete=self._assembly.incomplete,
            number=self._reports,
        )
        if (half := self._assembly.half_done) is not None:
            report.unfinished.frame_number, report.unfinished.pieces = half[0], bytes(half[2])
        message = dsin_v1.ServerMessage(report=report)
        while message.ByteSize() > pieces.MAX_MESSAGE:  # reasons of rejected frames are long
            del message.report.acks[0]
        self.send(message)

    def tick(self, now_s: float) -> None:
        """Called often: report if that is due."""
        if self.alive and now_s - self._told_s >= REPORT_S:
            self.report()

    def end(self) -> None:
        """The session is over: its counts are kept."""
        if self.active:
            self.active = False
            self.tally.lost += self._loss.lost + self._settled.bursts
            if self.tally.loss is self._loss:
                self.tally.begin("datagram")

    def _take_message(self, data: bytes, received_ns: int) -> None:
        try:
            message = dsin_v1.CameraMessage.FromString(data)
        except DecodeError:
            self._taker.take_fault("a datagram that holds no message")
            return
        if message.HasField("ping"):
            self.report()
            self._taker.take_ping()
            return
        self._begin()
        self._taker.take_message(message, received_ns)

    def _begin(self) -> None:
        if not self.active:
            self.active = True
            self.tally.begin("datagram", self._loss)

    def _take_piece(self, content: bytes, received_ns: int) -> None:
        self._begin()
        assembly = self._assembly
        before = assembly.incomplete, assembly.repaired, assembly.late
        try:
            piece = pieces.parsed(content)
            body = assembly.add(piece)
        except pieces.PieceError as error:
            self._taker.take_fault(str(error))
            return
        self.tally.incomplete += assembly.incomplete - before[0]
        self.tally.repaired += assembly.repaired - before[1]
        self.tally.late += assembly.late - before[2]
        if assembly.in_a_row > MOST_IN_A_ROW and self._loss.loss < 0.5:
            self._taker.take_fault(
                f"{assembly.in_a_row} frames in a row of which only parts were sent"
            )
        if body is not None:
            self._take_body(piece, body, received_ns)

    def _take_body(self, piece: pieces.Piece, body: bytes, received_ns: int) -> None:
        now_s = time.monotonic()
        if len(self._arrivals) == MOST_FRAMES_S and now_s - self._arrivals[0] < 1.0:
            self._taker.take_fault(f"more than {MOST_FRAMES_S} frames in a second")
            return
        self._arrivals.append(now_s)
        self.tally.frame(piece.shape)
        self._pending.append(piece.number)
        self._taker.take_body(piece.number, body, received_ns)

    def _miss(self) -> None:
        """Something was overtaken: unless it comes soon, a camera on a short way may send again
        what its frame needs."""
        if (half := self._assembly.half_done) is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(REORDERED_S, self._tell_unfinished, half[0])

    def _tell_unfinished(self, number: int) -> None:
        half = self._assembly.half_done
        if self.alive and half is not None and half[0] == number:
            self.report()
