"""The stretch between device and server, as a loopback: the real bytes, framed as in a stream.

What it costs to hand a frame to the system, get it back from it, check it, and answer; a real link
adds its own time.
"""

import contextlib
import socket
import threading
from queue import SimpleQueue
from types import TracebackType

from dsin.runtime.bitstream import PacketHeader, StreamHeader, StreamReader, pack_stream_header
from dsin.runtime.client import ACKNOWLEDGEMENT_BYTES, connect
from dsin.runtime.errors import DsinError, StreamError
from dsin.runtime.server import RECEIVE_BYTES, accept, listen

Received = tuple[PacketHeader, bytes]


class Loopback:
    """A TCP connection of this process to itself, whose other end acknowledges each frame.

    with Loopback(stream) as link:
        header, payload = link.round_trip(pack_frame(stream, header, payload))
    """

    def __init__(self, stream: StreamHeader) -> None:
        self._stream = stream
        self._received: SimpleQueue[Received] = SimpleQueue()
        self._fault: DsinError | OSError | None = None
        self._thread = threading.Thread(target=self._serve, name="loopback", daemon=True)

    def __enter__(self) -> "Loopback":
        self._listener = listen()
        self._thread.start()
        self._connection = connect(*self._listener.getsockname()[:2])
        self._connection.sendall(pack_stream_header(self._stream))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the other end may have gone first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
        self._listener.close()

    def round_trip(self, frame: bytes) -> Received:
        """Send one frame, wait for its acknowledgement, return what arrived.

        Raises StreamError if the other end did not take it for a frame.
        """
        try:
            self._connection.sendall(frame)
            missing = ACKNOWLEDGEMENT_BYTES
            while missing:
                part = self._connection.recv(missing)
                if not part:
                    raise StreamError(f"the loopback broke: {self._fault or 'it was closed'}")
                missing -= len(part)
        except OSError as error:
            raise StreamError(f"the loopback broke: {self._fault or error}") from error
        return self._received.get()

    def _serve(self) -> None:
        reader = StreamReader(self._stream.codec_id)
        try:
            with accept(self._listener) as connection:
                while data := connection.recv(RECEIVE_BYTES):
                    for header, payload in reader.feed(data):
                        self._received.put((header, payload))
                        number = header.frame_number
                        connection.sendall(number.to_bytes(ACKNOWLEDGEMENT_BYTES, "little"))
        except (DsinError, OSError) as error:  # for the end that waits
            self._fault = error
