"""A camera's end of dsin_v1.proto: at most as many frames under way as the server grants.

Frames, answers and all that is said beside them go in datagrams where the server grants these and
one comes back (dsin.runtime.device.datagram_link); the gRPC stream is then for greeting and end.
Until one has come back frames go by gRPC, so that a firewall that swallows datagrams costs none.

gRPC takes thousands of messages into buffers of its own before it slows a sender down, so what
limits delay here are credits: a frame is made only when the answer to an earlier one has come.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import grpc

from dsin.runtime.device.datagram_link import DatagramFigures, DatagramLink, SilentError
from dsin.runtime.device.flight import Verdict
from dsin.runtime.errors import StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.link.connection_faults import likely_cause
from dsin.runtime.link.rpc import METHOD, SERVICE, Certificates, camera_channel, split_address

LOG = logging.getLogger(__name__)
WELCOME_S = 5.0
"""A server that has not greeted back by then is not one."""
STALL_S = 10.0
"""Frames that are not answered for so long mean that the server is stuck."""
SOON_S = 0.25
"""A first datagram that comes back so soon is waited for; for a later one no frame is."""
POLL_S = 0.02
"""How soon it is noticed that answers of datagrams are overdue."""
Transport = Literal["auto", "grpc", "datagram"]
"""How frames are to go; `auto` takes datagrams where they get through."""
_FINAL = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ABORTED,
}
"""Another attempt would end the same way."""
_FOR_NOW = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
"""The server is there and gives a reason that may pass."""


class ConnectionLostError(StreamError):
    """The server cannot be reached, now or any longer; another attempt may succeed."""


class _BrokenError(ConnectionLostError):
    """The connection broke, without a word of the server."""


class NoDatagramsError(StreamError):
    """The server is there, but not for datagrams."""


@dataclass(frozen=True)
class Greeting:
    """What a camera says about itself; see Hello in the .proto."""

    rig: str
    camera: str
    """x or y."""
    live: bool
    width: int
    height: int
    session: int
    codec_id: bytes = b""
    rate_points: int = 0
    recording_start_ns: int | None = None
    references: bool = False
    """Whether packets would refer to earlier ones."""

    def message(self, datagrams: bool = False) -> dsin_v1.Hello:
        """`datagrams`: whether these are wanted."""
        return dsin_v1.Hello(
            protocol=1,
            rig=self.rig,
            camera=dsin_v1.CAMERA_X if self.camera == "x" else dsin_v1.CAMERA_Y,
            clock=dsin_v1.CLOCK_LIVE if self.live else dsin_v1.CLOCK_RECORDING,
            width=self.width,
            height=self.height,
            codec_id=self.codec_id,
            rate_points=self.rate_points,
            session=self.session,
            recording_start_ns=self.recording_start_ns or 0,
            datagrams=datagrams,
            references=self.references,
        )


class CameraStream:
    """One connection, from greeting to end.

        with CameraStream("127.0.0.1:7000", None, greeting, on_ack) as stream:
            stream.wait_for_room()
            stream.send_frame(message)

    `on_ack` is called in a thread of the stream for each answer, `on_lost` with the numbers of
    frames that never came (in datagrams), `on_news` with a line that says what `way` left open.
    Entering raises ConnectionLostError if no server answers,
    StreamError if it refuses, NoDatagramsError if `transport` is datagram and none gets through;
    so do the other methods once the connection is lost. What the callbacks raise ends the stream
    and is raised by them too.
    """

    def __init__(
        self,
        address: str,
        certificates: Certificates | None,
        greeting: Greeting,
        on_ack: Callable[[dsin_v1.Ack], None],
        *,
        transport: Transport = "auto",
        on_lost: Callable[[list[int]], None] = lambda numbers: None,
        on_news: Callable[[str], None] = lambda line: None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._transport = "grpc" if greeting.camera != "x" else transport
        self._on_lost = on_lost
        self._on_news = on_news
        self._granted: dsin_v1.DatagramSession | None = None
        self._link: DatagramLink | None = None
        self._found: DatagramLink | None = None
        """Where frames will go once those under way by gRPC are answered."""
        self._probed = threading.Event()
        """No datagram is waited for any longer."""
        self._probes_on = False
        self._address = address
        self._channel = camera_channel(address, certificates)
        self._tls = certificates is not None
        self._greeting = greeting
        self._on_ack = on_ack
        self._clock = clock
        self._outgoing: queue.SimpleQueue[dsin_v1.CameraMessage | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._credits = 0
        self._takes_references = False
        self._under_way = 0
        self._fault: Exception | None = None
        self._closing = False
        self._call: Any = None
        self._listener = threading.Thread(target=self._listen, name="rig-answers", daemon=True)

    def __enter__(self) -> "CameraStream":
        hello = self._greeting.message(datagrams=self._transport != "grpc")
        self._outgoing.put(dsin_v1.CameraMessage(hello=hello))
        stream = self._channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=dsin_v1.CameraMessage.SerializeToString,
            response_deserializer=dsin_v1.ServerMessage.FromString,
        )
        self._call = stream(self._messages())
        self._listener.start()
        try:
            self._wait(lambda: self._credits > 0, WELCOME_S, "did not answer the greeting")
            if self._transport == "datagram":
                self._need_datagrams()
            elif self._transport == "auto" and self._granted is not None:
                self._try_datagrams(self._granted)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def under_way(self) -> int:
        """Frames sent and not answered."""
        return self._under_way if self._link is None else self._link.under_way

    @property
    def takes_references(self) -> bool:
        """Whether packets may refer to frames that this connection has confirmed."""
        return self._takes_references

    @property
    def way(self) -> str:
        """How the frames go at first, where there is a choice; else empty."""
        if self._link is not None:
            return "frames go in datagrams"
        if self._transport == "grpc":
            return ""
        if self._granted is None:
            return "frames go by gRPC: the server takes no datagrams"
        if self._probes_on:
            return "frames go by gRPC until a datagram has come back"
        return "frames go by gRPC: no datagram came back"

    @property
    def link(self) -> DatagramFigures | None:
        """The way of the datagrams; None where frames go by gRPC."""
        return None if self._link is None else self._link.figures

    def wait_for_room(self, timeout_s: float = STALL_S) -> None:
        """Wait until a frame may be sent. Raises ConnectionLostError after `timeout_s`."""
        self._wait(self._has_room, timeout_s, "does not answer frames")
        if self._may_change_over():
            self._change_over()
            self._on_news("a datagram came back: frames go in datagrams from now on")

    def wait_until_empty(self, timeout_s: float = STALL_S) -> None:
        """Wait until all frames are answered."""
        self._wait(lambda: self.under_way == 0, timeout_s, "does not answer frames")

    def wait_while_under_way(self, timeout_s: float) -> None:
        """Wait until all frames are answered, for `timeout_s` at most."""
        with self._changed:
            self._changed.wait_for(lambda: self.under_way == 0 or self._has_fault(), timeout_s)
            self._raise_fault()

    def send_frame(self, message: dsin_v1.CameraMessage) -> None:
        """Send an encoded frame or a side frame, which counts as under way from now on."""
        with self._changed:
            self._raise_fault()
            if self._link is None:
                self._under_way += 1
        if self._link is None:
            self._outgoing.put(message)
        else:
            self._link.send_frame(message.frame)

    def send_status(self, status: dsin_v1.DeviceStatus) -> None:
        """Tell what only the camera knows."""
        self._send_beside(dsin_v1.CameraMessage(status=status))

    def _send_beside(self, message: dsin_v1.CameraMessage) -> None:
        """Send what is no frame."""
        if self._link is None:
            self._outgoing.put(message)
        else:
            self._link.send_message(message)

    def _has_room(self) -> bool:
        if self._link is not None:
            return self._link.has_room()
        return self._under_way < (self._credits if self._found is None else 1)

    def _need_datagrams(self) -> None:
        """Take datagrams. Raises NoDatagramsError where they do not get through."""
        why = "the server takes none"
        if self._granted is not None:
            self._found = DatagramLink.found(self._address, self._granted)
            if self._found is not None:
                self._change_over()
                return
            why = "none came back; is its port open for UDP?"
        raise NoDatagramsError(
            f"the server at {self._address} cannot be reached by datagrams: {why} "
            "(--transport grpc needs none)"
        )

    def _try_datagrams(self, granted: dsin_v1.DatagramSession) -> None:
        """Take datagrams if one comes back at once, else as soon as one does."""
        threading.Thread(target=self._probe, args=(granted,), name="probe", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._probed.is_set() or self._has_fault(), SOON_S)
            self._probes_on = not self._probed.is_set()
        if self._may_change_over():
            self._change_over()

    def _probe(self, granted: dsin_v1.DatagramSession) -> None:
        link = DatagramLink.found(self._address, granted, self._probed)
        with self._changed:
            closed = self._probed.is_set()
            if not closed:
                self._found = link
                self._probed.set()
                self._changed.notify_all()
            late = self._probes_on
        if closed and link is not None:
            link.close()
        elif late and not closed and link is None:
            self._on_news("no datagram came back: frames go on by gRPC")

    def _may_change_over(self) -> bool:
        """Whether datagrams get through and all frames that went by gRPC are answered."""
        return self._link is None and self._found is not None and self._under_way == 0

    def _change_over(self) -> None:
        link = self._found
        assert link is not None
        self._link = link
        link.start(self._take_verdict, self._take)

    def _take_verdict(self, verdict: Verdict) -> None:
        with self._changed:
            self._changed.notify_all()
        for ack in verdict.acks:
            self._on_ack(ack)
        if verdict.lost:
            self._on_lost(verdict.lost)

    def _wait(self, ready: Callable[[], bool], timeout_s: float, failing: str) -> None:
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not (ready() or self._has_fault()):
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    raise ConnectionLostError(f"the server at {self._address} {failing}")
                self._changed.wait(left_s if self._link is None else min(left_s, POLL_S))
            self._raise_fault()

    def _has_fault(self) -> bool:
        return self._fault is not None or (self._link is not None and self._link.fault is not None)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault
        fault = None if self._link is None else self._link.fault
        if isinstance(fault, SilentError):
            raise ConnectionLostError(f"lost the server at {self._address}: {fault}") from fault
        if fault is not None:
            raise fault

    def _messages(self) -> Iterator[dsin_v1.CameraMessage]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _listen(self) -> None:
        try:
            for message in self._call:
                self._take(message)
            fault: Exception = ConnectionLostError(f"the server at {self._address} ended")
        except grpc.RpcError as error:
            fault = self._explained(error)
            if self._link is not None and isinstance(fault, _BrokenError) and not self._closing:
                LOG.info("%s: only datagrams go on", fault)
                self._link.alone = True
                return
        except Exception as error:  # of `on_ack`: it ends the device, not this thread alone
            fault = error
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    def _take(self, message: dsin_v1.ServerMessage) -> None:
        received_ns = self._clock()
        kind = message.WhichOneof("message")
        if kind == "probe":
            reply = dsin_v1.ClockReply(
                server_send_ns=message.probe.server_send_ns,
                camera_receive_ns=received_ns,
                camera_send_ns=self._clock(),
            )
            self._send_beside(dsin_v1.CameraMessage(clock=reply))
            return
        with self._changed:
            if kind == "welcome":
                if message.welcome.HasField("datagrams"):
                    self._granted = message.welcome.datagrams
                self._takes_references = message.welcome.references
                self._credits = message.welcome.credits
            elif kind == "ack":
                self._under_way = max(0, self._under_way - 1)
            self._changed.notify_all()
        if kind == "ack":
            self._on_ack(message.ack)

    def _explained(self, error: grpc.RpcError) -> StreamError:
        code, details = error.code(), " ".join((error.details() or "").split())
        if code in _FINAL:
            return StreamError(f"the server at {self._address} refused: {details}")
        if code in _FOR_NOW:
            return ConnectionLostError(f"the server at {self._address} refused: {details}")
        LOG.info("%s: %s: %s", self._address, code.name, details)
        if self._credits:
            return _BrokenError(f"lost the server at {self._address}: {details[:300]}")
        cause = likely_cause(details, split_address(self._address)[0], tls=self._tls)
        return ConnectionLostError(f"cannot connect to {self._address}: {cause}")

    def _close(self) -> None:
        self._closing = True
        with self._changed:
            self._probed.set()
            link = self._link or self._found
        if link is not None:
            link.close()
        self._outgoing.put(None)
        if self._call is not None:
            self._call.cancel()
            self._listener.join()
        self._channel.close()
