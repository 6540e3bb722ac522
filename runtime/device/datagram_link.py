"""A camera's datagrams: frames out, reports in, with parity for the loss that the reports tell.

A thread listens: it hands on reports and the server's other messages, and notices a silent server.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from dsin.runtime.datagrams import pieces
from dsin.runtime.datagrams.loss import LossMeter
from dsin.runtime.datagrams.parity import parity_needed
from dsin.runtime.datagrams.sealing import MAX_BYTES, Opener, RejectedError, Sealer
from dsin.runtime.device.flight import Flight, Verdict
from dsin.runtime.errors import StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import split_address

LOG = logging.getLogger(__name__)
PROBE_S, PROBE_EVERY_S = 2.0, 0.1
"""A server that answers no datagram within that is out of reach for them."""
MOST_REFUSALS = 3
"""A machine that says so often that nothing listens there is believed."""
PING_S = 0.5
"""The server hears that often at least."""
FIRST_S = 1.0
"""For so long the server is asked often, and asks for the time as often: first exchanges get lost
too."""
SILENT_S, SILENT_ALONE_S = 3.0, 1.0
"""A server that was not heard for so long is gone; sooner where the stream's connection is lost."""
POLL_S = 0.05
REMEMBERED = 1024
"""Datagrams whose time of sending is remembered."""
MOST_ADDRESSES = 4
BYES = 3
_PING = dsin_v1.CameraMessage(ping=dsin_v1.Ping())


class SilentError(StreamError):
    """No datagram of the server came for too long."""


@dataclass(frozen=True)
class DatagramFigures:
    """The way as the device knows it: the share of datagrams lost lately, the round trip, and the
    parity of the newest frame for each of its pieces."""

    loss: float
    round_trip_ms: float
    parity: float


@dataclass
class _LastFrame:
    """The newest frame, for as long as sending a piece of it again may help."""

    cut: Sequence[pieces.Piece]
    sent_s: float
    sequences: list[int] = field(default_factory=list)
    """Of its pieces' datagrams, as far as they are sent."""
    resent: bool = False


class DatagramLink:
    """Datagrams of one session.

        link = DatagramLink.found("server:7000", granted)
        if link is not None:
            link.start(on_report, on_message)
            link.send_frame(message.frame)

    After `start` the callbacks are called by the link's thread: `on_report` with each report, as
    the flight judges it, and again when answers are overdue; `on_message` with the server's other
    messages. What they raise is `fault` from then on, and so is a SilentError.
    """

    def __init__(
        self, connected: socket.socket, granted: dsin_v1.DatagramSession,
        sealer: Sealer, opener: Opener,
    ) -> None:  # fmt: skip
        self._socket = connected
        self._sealer, self._opener = sealer, opener
        self._flight = Flight(granted.credits)
        self._loss = LossMeter()
        self.fault: Exception | None = None
        self.alone = False
        """Whether the connection of the stream is lost."""
        self._lock = threading.Lock()
        self._sent_at: OrderedDict[int, float] = OrderedDict()
        self._parity = 0.0
        self._last: _LastFrame | None = None
        self._interval_s = 0.0
        self._heard_s = time.monotonic()
        self._begun_s = time.monotonic()
        self._told_s = self._pinged_s = float("-inf")
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def found(
        cls, address: str, granted: dsin_v1.DatagramSession, given_up: threading.Event | None = None
    ) -> "DatagramLink | None":
        """A link by the first of the server's addresses from which an answer comes; None if none
        does, or once it is `given_up`."""
        sealer = Sealer(granted.session, granted.camera_key)
        opener = Opener(granted.session, granted.server_key)
        sockets = _connected(address)
        chosen = _first_to_answer(sockets, sealer, opener, given_up or threading.Event())
        for each in sockets:
            if each is not chosen:
                each.close()
        return None if chosen is None else cls(chosen, granted, sealer, opener)

    @property
    def figures(self) -> DatagramFigures:
        """Figures of this moment."""
        with self._lock:
            round_trip_ms = 1000 * self._flight.round_trip.smooth_s
            return DatagramFigures(self._loss.loss, round_trip_ms, self._parity)

    @property
    def under_way(self) -> int:
        """Frames that are neither answered nor lost."""
        with self._lock:
            return len(self._flight)

    def has_room(self) -> bool:
        """Whether a frame may be sent."""
        with self._lock:
            return self._flight.has_room()

    def start(
        self,
        on_report: Callable[[Verdict], None],
        on_message: Callable[[dsin_v1.ServerMessage], None],
    ) -> None:
        """Listen from now on."""
        self._heard_s = self._begun_s = time.monotonic()
        self._thread = threading.Thread(
            target=self._listen, args=(on_report, on_message), name="datagrams", daemon=True
        )
        self._thread.start()

    def send_frame(self, frame: dsin_v1.EncodedFrame) -> None:
        """Send a frame in pieces, and parity as the loss demands. Raises StreamError for one that
        is too large."""
        body = pieces.packed_body(frame.held_us, frame.sent_ns, frame.packet)
        if len(body) > pieces.MAX_BODY:
            raise StreamError(
                f"a packet of {len(frame.packet)} bytes is over the limit of datagrams, "
                f"{pieces.MAX_BODY - pieces.BODY_HEAD_BYTES}: take a lower rate, or "
                "--transport grpc"
            )
        parity = parity_needed(pieces.block_sizes(len(body)), self._loss.cautious)
        cut = pieces.cut(frame.frame_number, body, parity)
        now_s = time.monotonic()
        with self._lock:
            if self._last is not None:
                self._interval_s = now_s - self._last.sent_s
            self._last = last = _LastFrame(cut, now_s)
            self._flight.sent(frame.frame_number, now_s)
            self._parity = len(cut) / cut[0].shape.data - 1
        for piece in cut:
            last.sequences.append(self._send(piece.content()))

    def send_message(self, message: dsin_v1.CameraMessage) -> None:
        """Send something else than a frame, once."""
        self._send(bytes([pieces.MESSAGE]) + message.SerializeToString())

    def close(self) -> None:
        """Say so, and end."""
        for _ in range(BYES):
            self.send_message(dsin_v1.CameraMessage(bye=dsin_v1.Bye()))
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _send(self, content: bytes) -> int:
        """Send a datagram; its sequence number."""
        sequence, datagram = self._sealer.seal(content)
        with self._lock:
            self._sent_at[sequence] = self._told_s = time.monotonic()
            while len(self._sent_at) > REMEMBERED:
                self._sent_at.popitem(last=False)
        # What a socket reports is of an earlier datagram; silence tells what it means.
        with contextlib.suppress(OSError):
            self._socket.send(datagram)
        return sequence

    def _listen(
        self,
        on_report: Callable[[Verdict], None],
        on_message: Callable[[dsin_v1.ServerMessage], None],
    ) -> None:
        try:
            while not self._closing.is_set():
                self._keep_in_touch()
                message = self._received()
                if message is not None and message.HasField("report"):
                    on_report(self._judged(message.report))
                elif message is not None:
                    on_message(message)
                with self._lock:
                    lost = self._flight.overdue()
                if lost:
                    on_report(Verdict([], lost))
        except Exception as fault:  # of the callbacks: it ends the device, not this thread alone
            self.fault = fault
            on_report(Verdict([], []))

    def _keep_in_touch(self) -> None:
        """Raises SilentError."""
        now_s = time.monotonic()
        begins = now_s - self._begun_s < FIRST_S
        if now_s - self._told_s >= PING_S or (begins and now_s - self._pinged_s >= PROBE_EVERY_S):
            self._pinged_s = now_s
            self.send_message(_PING)
        limit_s = SILENT_ALONE_S if self.alone else SILENT_S
        if now_s - self._heard_s > limit_s:
            raise SilentError(f"no datagram came from it for {limit_s:.0f} s")

    def _received(self) -> dsin_v1.ServerMessage | None:
        """A message of the server, if one comes soon."""
        if not select.select([self._socket], [], [], POLL_S)[0]:
            return None
        try:
            message = _opened(self._socket.recv(MAX_BYTES + 1), self._opener)
        except OSError:  # nothing listens there: it may come back
            self._closing.wait(POLL_S if self.alone else 0.0)
            return None
        if message is not None:
            self._heard_s = time.monotonic()
        return message

    def _judged(self, report: dsin_v1.LinkReport) -> Verdict:
        now_s = time.monotonic()
        with self._lock:
            sent_s = self._sent_at.get(report.newest)
            if sent_s is not None:
                way_s = now_s - sent_s - report.held_us / 1e6
                self._flight.round_trip.add(max(0.0, way_s))
            verdict = self._flight.report(report, now_s)
            again = self._to_send_again(report, now_s)
        self._loss.report(report.sent, report.received, now_s)
        for piece in again:
            self._send(piece.content())
        return verdict

    def _to_send_again(self, report: dsin_v1.LinkReport, now_s: float) -> list[pieces.Piece]:
        """Pieces of the newest frame that others have overtaken, and that would still come before
        the next frame."""
        last, round_trip_s = self._last, self._flight.round_trip.smooth_s
        if last is None or last.resent or not report.HasField("unfinished"):
            return []
        if report.unfinished.frame_number != last.cut[0].number:
            return []
        if round_trip_s > self._interval_s or now_s - last.sent_s > self._interval_s:
            return []
        overtaken = [
            piece
            for piece, sequence in zip(last.cut, last.sequences, strict=False)
            if sequence < report.newest
        ]
        again = pieces.most_wanted(overtaken, list(report.unfinished.pieces))
        last.resent = bool(again)
        return again


def _connected(address: str) -> list[socket.socket]:
    """A socket for each address of the server."""
    host, port = split_address(address)
    sockets = []
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM
        )[:MOST_ADDRESSES]:
            each = socket.socket(family, kind, protocol)
            try:
                each.connect(where)
            except OSError:  # no way to addresses of that family
                each.close()
                continue
            sockets.append(each)
    return sockets


def _first_to_answer(
    sockets: Sequence[socket.socket], sealer: Sealer, opener: Opener, given_up: threading.Event
) -> socket.socket | None:
    """Ask at all addresses again and again."""
    ping = bytes([pieces.MESSAGE]) + _PING.SerializeToString()
    refusals = dict.fromkeys(sockets, 0)
    end_s = time.monotonic() + PROBE_S
    while time.monotonic() < end_s and not given_up.is_set():
        if min(refusals.values(), default=MOST_REFUSALS) >= MOST_REFUSALS:
            break
        for each in sockets:
            with contextlib.suppress(OSError):
                each.send(sealer.seal(ping)[1])
        until_s = time.monotonic() + PROBE_EVERY_S
        while (left_s := until_s - time.monotonic()) > 0:
            for each in select.select(sockets, [], [], left_s)[0]:
                try:
                    answer = _opened(each.recv(MAX_BYTES + 1), opener)
                except OSError:
                    refusals[each] += 1
                    continue
                if answer is not None:
                    return each
    return None


def _opened(datagram: bytes, opener: Opener) -> dsin_v1.ServerMessage | None:
    """The message in a datagram; None for what the server of the session did not send."""
    try:
        content = opener.open(datagram)
        if content[0] != pieces.MESSAGE:
            return None
        return dsin_v1.ServerMessage.FromString(content[1:])
    except (RejectedError, DecodeError):
        return None
