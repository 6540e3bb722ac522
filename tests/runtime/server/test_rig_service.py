"""How the server ends a stream: its status and its words for each thing that does not fit."""

import queue
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from support.hostile_peers import PATH
from support.rig_fakes import BUNDLE, CODEC, SIZE, fake_server, wait_until

from dsin.runtime.device.datagram_link import DatagramLink
from dsin.runtime.errors import StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.pictures import MAX_SIDE
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.rig_service import LINGER_S, RigService

UNFIT = grpc.StatusCode.FAILED_PRECONDITION
NO_NAME = "a rig has a name of at most 64 printable bytes without a slash"


def greeting(**changes: Any) -> dsin_v1.CameraMessage:
    """One that fits, but for these fields."""
    fields: dict[str, Any] = {
        "protocol": 1, "rig": "front", "camera": dsin_v1.CAMERA_X, "clock": dsin_v1.CLOCK_LIVE,
        "height": SIZE[0], "width": SIZE[1], "codec_id": CODEC,
        "rate_points": len(BUNDLE.rate_points), "session": 1,
    }  # fmt: skip
    return dsin_v1.CameraMessage(hello=dsin_v1.Hello(**(fields | changes)))


def end_of(address: str, *messages: dsin_v1.CameraMessage) -> tuple[grpc.StatusCode, str]:
    """Status and words with which a stream of these messages ends."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        list(channel.stream_stream(PATH)(iter([m.SerializeToString() for m in messages])))
    return raised.value.code(), raised.value.details()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with fake_server() as server:
        yield server.address


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": 2}, "this server speaks protocol 1, not 2"),
        ({"camera": 0}, "a camera is x or y"),
        ({"camera": 3}, "a camera is x or y"),
        ({"clock": 0}, "timestamps are of a live clock or of a recording"),
        ({"width": 0}, "pictures of 0x16 are not supported"),
        ({"width": MAX_SIDE + 1}, f"pictures of {MAX_SIDE + 1}x16 are not supported"),
        ({"height": MAX_SIDE + 1}, f"pictures of 24x{MAX_SIDE + 1} are not supported"),
        (
            {"codec_id": b"other!"},
            "the camera's bundle has codec 6f7468657221, the server's fake-bundle has "
            "010203040506: both need the same bundle",
        ),
        ({"rate_points": 2}, "the camera's bundle has 2 rates, the server's 3"),
        *(({"rig": name}, NO_NAME) for name in ("", ".", "..", "a/b", "a\n", "ä" * 33)),
    ],
)
def test_a_greeting_that_does_not_fit_is_refused_in_words(
    address: str, changes: dict[str, Any], words: str
) -> None:
    assert end_of(address, greeting(**changes)) == (UNFIT, words)


def test_a_stream_begins_with_a_greeting_and_has_one(address: str) -> None:
    other = dsin_v1.CameraMessage(status=dsin_v1.DeviceStatus())
    assert end_of(address, other) == (UNFIT, "a stream begins with Hello")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    x, y = greeting(), greeting(camera=dsin_v1.CAMERA_Y)
    frame = dsin_v1.CameraMessage(frame=dsin_v1.EncodedFrame())
    side = dsin_v1.CameraMessage(side=dsin_v1.SideFrame())
    assert end_of(address, x, x) == (invalid, "camera x must not send hello now")
    assert end_of(address, x, side) == (invalid, "camera x must not send side now")
    assert end_of(address, y, frame) == (invalid, "camera y must not send frame now")
    empty = dsin_v1.CameraMessage()
    assert end_of(address, x, empty) == (invalid, "camera x must not send empty messages now")


def test_a_rig_for_which_there_is_no_memory_is_told_so() -> None:
    with fake_server(budget_mib=0.001) as server:
        code, words = end_of(server.address, greeting())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "front" in words


def sides(live: bool) -> Any:
    """A server's own side camera."""
    recording = None if live else SimpleNamespace(start_ns=0, interval_ns=100, size=SIZE)
    return SimpleNamespace(
        size=lambda rig: SIZE,
        live_size=lambda rig: SIZE if live else None,
        recorded=lambda rig, size=None: recording,
    )


def test_the_servers_own_side_camera_and_camera_x_are_both_live_or_none_is() -> None:
    recording = dsin_v1.CLOCK_RECORDING
    with fake_server(sides=sides(live=True)) as server:
        assert end_of(server.address, greeting(clock=recording)) == (
            UNFIT, "the server's side camera is live, and this camera is a recording",
        )  # fmt: skip
        assert end_of(server.address, greeting(camera=dsin_v1.CAMERA_Y)) == (
            UNFIT, "the server has the side camera of rig front itself",
        )  # fmt: skip
    with fake_server(sides=sides(live=False)) as server:
        assert end_of(server.address, greeting()) == (
            UNFIT, "the server's side camera is a recording, and this camera is live",
        )  # fmt: skip
        assert end_of(server.address, greeting(clock=recording, recording_start_ns=51)) == (
            UNFIT,
            "the server's side camera plays a recording that begins at 0 ns, but this camera's "
            "begins at 51 ns: play the same one on both sides",
        )


@pytest.mark.parametrize(
    ("names", "owner"),
    [([], "no rig"), ([b"a", b"b"], "a, b"), ([b"\xff"], "\N{REPLACEMENT CHARACTER}")],
)
def test_a_certificate_is_for_the_rig_that_it_names(names: list[bytes], owner: str) -> None:
    """Whatever bytes are its name."""
    service = RigService(cast(DecodePool, None), authenticated=True)
    context: Any = SimpleNamespace(auth_context=lambda: {"x509_common_name": [*names, b"rear"]})
    service._check_name("rear", context)
    context = SimpleNamespace(auth_context=lambda: {"x509_common_name": names})
    with pytest.raises(Exception, match="cannot be used") as raised:
        service._check_name("front", context)
    assert raised.value.args == (
        f"this certificate belongs to {owner} and cannot be used for rig front",
    )


def test_whoever_sends_datagrams_says_goodbye_in_these(caplog: pytest.LogCaptureFixture) -> None:
    """Until then it is told once that the stream is gone."""
    lost = "rig front: the control connection is lost, datagrams go on"
    outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    outgoing.put(greeting(datagrams=True).SerializeToString())
    with fake_server() as server, grpc.insecure_channel(server.address) as channel:
        answers = channel.stream_stream(PATH)(iter(outgoing.get, None))
        granted = dsin_v1.ServerMessage.FromString(next(answers)).welcome.datagrams
        link = DatagramLink.found(server.address, granted)
        assert link is not None
        link.start(lambda verdict: None, lambda message: None)
        link.send_message(dsin_v1.CameraMessage(status=dsin_v1.DeviceStatus()))
        wait_until(lambda: server.pool.status()[0].link.transport == "datagram")
        outgoing.put(None)
        list(answers)  # the stream has ended, as one whose connection broke may seem to
        wait_until(lambda: lost in caplog.messages)
        time.sleep(2 * LINGER_S)
        assert server.pool.status()[0].camera_connected
        link.close()
        wait_until(lambda: not server.pool.status()[0].camera_connected)
    assert caplog.messages.count(lost) == 1


def test_without_its_package_there_is_no_health_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_health.v1", None)
    with pytest.raises(StreamError) as missing, fake_server(health=True):
        pass
    assert str(missing.value) == (
        "serving needs grpc_health.v1, which is missing: pip install 'dsin[serve]'"
    )
