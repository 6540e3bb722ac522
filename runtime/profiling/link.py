"""The stretch between device and server, as a loopback: the real bytes in the real protocol.

What it costs to hand a frame to gRPC, get it back from it, check it, and answer; a real link adds
its own time.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType

import grpc

from dsin.runtime.codec.packet import Packet
from dsin.runtime.device.stream_client import CameraStream, Greeting
from dsin.runtime.errors import PacketError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import METHOD, SERVER_OPTIONS, SERVICE


class Loopback:
    """A stream of this process to itself, whose other end answers each frame.

        with Loopback(bundle.codec_id, (375, 1242)) as link:
            received = link.round_trip(packet)

    `size` is height and width of the frames.
    """

    def __init__(self, codec_id: bytes, size: tuple[int, int]) -> None:
        self._codec_id = codec_id
        self._greeting = Greeting("profile", "x", True, size[1], size[0], 0, codec_id)
        self._received: SimpleQueue[Packet | PacketError] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._server = grpc.server(self._threads, options=SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=dsin_v1.CameraMessage.FromString,
            response_serializer=dsin_v1.ServerMessage.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
        )

    def __enter__(self) -> "Loopback":
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._stream = CameraStream(
            f"127.0.0.1:{port}", None, self._greeting, lambda ack: None, transport="grpc"
        )
        self._stream.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, error, traceback)
        self._server.stop(None).wait()
        self._threads.shutdown()

    def round_trip(self, packet: Packet) -> Packet:
        """Send one packet, wait for the answer, return what arrived. Raises PacketError if that
        was no packet of the codec, StreamError if the loopback broke."""
        frame = dsin_v1.EncodedFrame(packet=bytes(packet))
        self._stream.send_frame(dsin_v1.CameraMessage(frame=frame))
        self._stream.wait_until_empty()
        received = self._received.get()
        if isinstance(received, PacketError):
            raise received
        return received

    def _serve(
        self, messages: Iterator[dsin_v1.CameraMessage], _context: grpc.ServicerContext
    ) -> Iterator[dsin_v1.ServerMessage]:
        for message in messages:
            if message.WhichOneof("message") == "hello":
                yield dsin_v1.ServerMessage(welcome=dsin_v1.Welcome(credits=1))
                continue
            try:
                self._received.put(Packet.parse(message.frame.packet, self._codec_id))
            except PacketError as error:
                self._received.put(error)
            yield dsin_v1.ServerMessage(ack=dsin_v1.Ack(status=dsin_v1.DECODED))
