"""A camera's end of dsin_v1.proto: at most as many frames under way as the server grants.

gRPC takes thousands of messages into buffers of its own before it slows a sender down, so what
limits delay here are credits: a frame is made only when the answer to an earlier one has come.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

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

    def message(self) -> dsin_v1.Hello:
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
        )


class CameraStream:
    """One connection, from greeting to end.

        with CameraStream("127.0.0.1:7000", None, greeting, on_ack) as stream:
            stream.wait_for_room()
            stream.send_frame(message)

    `on_ack` is called in a thread of the stream for each answer. Entering raises
    ConnectionLostError if no server answers, StreamError if it refuses; so do the other methods
    once the connection is lost. What `on_ack` raises ends the stream and is raised by them too.
    """

    def __init__(
        self,
        address: str,
        certificates: Certificates | None,
        greeting: Greeting,
        on_ack: Callable[[dsin_v1.Ack], None],
        *,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._address = address
        self._channel = camera_channel(address, certificates)
        self._tls = certificates is not None
        self._greeting = greeting
        self._on_ack = on_ack
        self._clock = clock
        self._outgoing: queue.SimpleQueue[dsin_v1.CameraMessage | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._credits = 0
        self._under_way = 0
        self._fault: Exception | None = None
        self._closing = False
        self._call: Any = None
        self._listener = threading.Thread(target=self._listen, name="rig-answers", daemon=True)

    def __enter__(self) -> "CameraStream":
        self._outgoing.put(dsin_v1.CameraMessage(hello=self._greeting.message()))
        stream = self._channel.stream_stream(
            f"/{SERVICE}/{METHOD}",
            request_serializer=dsin_v1.CameraMessage.SerializeToString,
            response_deserializer=dsin_v1.ServerMessage.FromString,
        )
        self._call = stream(self._messages())
        self._listener.start()
        try:
            self._wait(lambda: self._credits > 0, WELCOME_S, "did not answer the greeting")
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
        return self._under_way

    def wait_for_room(self, timeout_s: float = STALL_S) -> None:
        """Wait until a frame may be sent. Raises ConnectionLostError after `timeout_s`."""
        self._wait(lambda: self._under_way < self._credits, timeout_s, "does not answer frames")

    def wait_until_empty(self, timeout_s: float = STALL_S) -> None:
        """Wait until all frames are answered."""
        self._wait(lambda: self._under_way == 0, timeout_s, "does not answer frames")

    def wait_while_under_way(self, timeout_s: float) -> None:
        """Wait until all frames are answered, for `timeout_s` at most."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._under_way == 0 or self._fault is not None, timeout_s
            )
            self._raise_fault()

    def send_frame(self, message: dsin_v1.CameraMessage) -> None:
        """Send an encoded frame or a side frame, which counts as under way from now on."""
        with self._changed:
            self._raise_fault()
            self._under_way += 1
        self._outgoing.put(message)

    def send_status(self, status: dsin_v1.DeviceStatus) -> None:
        """Tell what only the camera knows."""
        self._outgoing.put(dsin_v1.CameraMessage(status=status))

    def _wait(self, ready: Callable[[], bool], timeout_s: float, failing: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: ready() or self._fault is not None, timeout_s)
            self._raise_fault()
            if not ready():
                raise ConnectionLostError(f"the server at {self._address} {failing}")

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

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
            self._outgoing.put(dsin_v1.CameraMessage(clock=reply))
            return
        with self._changed:
            if kind == "welcome":
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
            return ConnectionLostError(f"lost the server at {self._address}: {details[:300]}")
        cause = likely_cause(details, split_address(self._address)[0], tls=self._tls)
        return ConnectionLostError(f"cannot connect to {self._address}: {cause}")

    def _close(self) -> None:
        self._outgoing.put(None)
        if self._call is not None:
            self._call.cancel()
            self._listener.join()
        self._channel.close()
