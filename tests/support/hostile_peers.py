"""Peers that mean no good: each attacks a port of loopback so many times and then leaves.

They are for the project's own server in its own tests, bounded in count, and on loopback only.
"""

import contextlib
import random
import socket
import time
from collections.abc import Iterator

import grpc

from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import METHOD, SERVICE

HUGE_BYTES = 64 * 2**20
PATH = f"/{SERVICE}/{METHOD}"


def send_huge_messages(port: int, count: int) -> set[grpc.StatusCode]:
    """Messages of 64 MB; with what the server ended each stream."""
    codes = set()
    huge = dsin_v1.CameraMessage(frame=dsin_v1.EncodedFrame(packet=bytes(HUGE_BYTES)))
    data = huge.SerializeToString()
    for _ in range(count):
        with _channel(port) as channel:
            call = channel.stream_stream(PATH)(iter([data]))
            codes.add(_code_of(call))
    return codes


def reset_streams(port: int, count: int) -> None:
    """Open streams and cancel each at once."""
    with _channel(port) as channel:
        stream = channel.stream_stream(PATH)
        hello = dsin_v1.CameraMessage(hello=dsin_v1.Hello(protocol=1)).SerializeToString()
        for number in range(count):
            stream(iter([hello])).cancel()
            if number % 100 == 99:
                time.sleep(0.01)


@contextlib.contextmanager
def idle_connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    """TCP connections that never say anything, as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(count)
        ]


def send_garbage(port: int, count: int, seed: int = 0) -> None:
    """Random bytes, some of them behind HTTP/2's preface, some as an HTTP/1 request."""
    chance = random.Random(seed)
    starts = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for number in range(count):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=2) as connection,
        ):
            connection.sendall(starts[number % 3] + chance.randbytes(chance.randrange(1, 5000)))
            connection.settimeout(0.05)
            connection.recv(4096)


def send_wrong_messages(port: int, count: int, seed: int = 0) -> set[grpc.StatusCode]:
    """Well-formed streams whose messages are none, or come in the wrong order."""
    chance = random.Random(seed)
    codes = set()
    with _channel(port) as channel:
        for _ in range(count):
            messages = [chance.randbytes(chance.randrange(1, 300)) for _ in range(3)]
            codes.add(_code_of(channel.stream_stream(PATH)(iter(messages))))
    return codes


def _channel(port: int) -> grpc.Channel:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=options)


def _code_of(call: grpc.Call) -> grpc.StatusCode:
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK
