"""One connection of a camera: what ends it, and in which words."""

from collections.abc import Callable
from typing import Any

import pytest
from support.rig_fakes import CODEC, SIZE, FakeCamera, FakeEncoder, fake_server

from dsin.runtime.device.device import MadeFrame
from dsin.runtime.device.stream_client import CameraStream, ConnectionLostError, Greeting
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.rpc import CREDITS

GREETING = Greeting(
    "front", "x", live=True, width=SIZE[1], height=SIZE[0], session=1, codec_id=CODEC,
    rate_points=3,
)  # fmt: skip


def send_frame(stream: CameraStream, camera: FakeCamera) -> MadeFrame:
    captured = camera.newest(1.0)
    assert captured is not None
    maker: Any = FakeEncoder()
    made: MadeFrame = maker.make(captured)
    stream.send_frame(maker.message(made, 0, 1))
    return made


def test_a_server_that_answers_no_frame_is_given_up() -> None:
    camera = FakeCamera(1000.0)
    with (
        fake_server(decode_s=0.5) as server,
        CameraStream(server.address, None, GREETING, lambda ack: None, transport="grpc") as stream,
    ):
        stream.wait_for_room(0)  # there is some
        for _ in range(CREDITS):
            send_frame(stream, camera)
        assert stream.under_way == CREDITS
        with pytest.raises(ConnectionLostError) as lost:
            stream.wait_for_room(0.01)
        assert str(lost.value) == f"the server at {server.address} does not answer frames"
        with pytest.raises(ConnectionLostError, match="does not answer frames"):
            stream.wait_until_empty(0.01)
        stream.wait_while_under_way(0.01)  # whoever only looks in between is not told


@pytest.mark.parametrize("transport", ["grpc", "datagram"])
def test_what_takes_answers_and_fails_ends_the_stream_with_it(transport: Any) -> None:
    def fail(ack: dsin_v1.Ack) -> None:
        raise ZeroDivisionError("a fault")

    waits: list[Callable[[CameraStream], None]] = [
        CameraStream.wait_until_empty, lambda stream: stream.wait_while_under_way(10.0),
    ]  # fmt: skip
    for wait in waits:
        with (
            fake_server() as server,
            CameraStream(server.address, None, GREETING, fail, transport=transport) as stream,
        ):
            send_frame(stream, FakeCamera(1000.0))
            with pytest.raises(ZeroDivisionError, match="a fault"):
                wait(stream)
