"""Where a server listens for datagrams."""

import asyncio
import errno
import os
import socket
from collections import Counter
from typing import Any

import pytest

from dsin.runtime.datagrams.pieces import MESSAGE
from dsin.runtime.datagrams.sealing import Opener, Sealer
from dsin.runtime.errors import StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.server import datagram_endpoint
from dsin.runtime.server.datagram_endpoint import UNKNOWN, DatagramEndpoint
from dsin.runtime.server.link_tally import LinkTally


def test_a_host_is_listened_at_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two addresses the second is not of this machine: the first one is given back."""

    async def listen() -> str:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        async def addresses(*_: object, **__: object) -> list[object]:
            kind = (socket.AF_INET, socket.SOCK_DGRAM, 17, "")
            return [(*kind, ("127.0.0.1", port)), (*kind, ("192.0.2.1", port))]

        monkeypatch.setattr(loop, "getaddrinfo", addresses)
        with pytest.raises(StreamError) as raised:
            await DatagramEndpoint().listen("rig.example", port)
        await asyncio.sleep(0)  # a transport closes in the loop's next turn
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))
        return str(raised.value).replace(str(port), "PORT")

    assert asyncio.run(listen()) == (
        "cannot listen at rig.example:PORT for datagrams (UDP): "
        + os.strerror(errno.EADDRNOTAVAIL).lower()
    )


class Silent:
    """A camera that takes nothing."""

    def take_body(self, number: int, body: bytes, received_ns: int) -> None: ...

    def take_message(self, message: dsin_v1.CameraMessage, received_ns: int) -> None: ...

    def take_ping(self) -> None: ...

    def take_fault(self, reason: str) -> None: ...


def test_datagrams_of_no_session_are_counted_and_told_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a session that is over as well."""
    port: Any = None
    strangers: Counter[str] = Counter()
    endpoint = DatagramEndpoint(strangers)
    endpoint._transports.append(port)
    tally = LinkTally()
    session = endpoint.open(tally, Silent())
    granted = session.grant()
    ping = bytes([MESSAGE]) + dsin_v1.CameraMessage(ping=dsin_v1.Ping()).SerializeToString()
    sealer = Sealer(granted.session, granted.camera_key)
    endpoint.take(sealer.seal(ping)[1], ("127.0.0.1", 9), port)
    assert (tally.received, strangers, caplog.messages) == (1, Counter(), [])
    endpoint.forget(session)
    endpoint.forget(session)
    for _ in range(2):
        endpoint.take(sealer.seal(ping)[1], ("127.0.0.1", 9), port)
    assert strangers == {UNKNOWN: 2}
    first = f"rejected datagrams that are of no session, so far: 1 {UNKNOWN}"
    assert caplog.messages == [first]
    monkeypatch.setattr(datagram_endpoint, "TELL_S", 0.0)
    endpoint.take(b"", ("127.0.0.1", 9), port)
    ((short, count),) = (strangers - Counter({UNKNOWN: 2})).items()
    assert count == 1
    assert caplog.messages == [
        first, f"rejected datagrams that are of no session, so far: 2 {UNKNOWN}, 1 {short}",
    ]  # fmt: skip
    assert tally.received == 1


def test_a_port_that_is_taken_is_told_with_what_to_change() -> None:
    async def listen() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            with pytest.raises(StreamError) as raised:
                await DatagramEndpoint().listen("127.0.0.1", port)
            assert str(raised.value) == (
                f"cannot listen at 127.0.0.1:{port} for datagrams (UDP): the port is taken; choose "
                "another one with HOST:PORT"
            )

    asyncio.run(listen())


def test_a_session_answers_by_the_port_that_its_newest_datagram_came_to() -> None:
    """And no more once the server has closed it."""

    async def story() -> None:
        endpoint = DatagramEndpoint()
        await endpoint.listen("127.0.0.1", 0)
        (transport,) = endpoint._transports
        session = endpoint.open(LinkTally(), Silent())
        granted = session.grant()
        sealer = Sealer(granted.session, granted.camera_key)
        opener = Opener(granted.session, granted.server_key)
        ping = bytes([MESSAGE]) + dsin_v1.CameraMessage(ping=dsin_v1.Ping()).SerializeToString()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as camera:
            camera.setblocking(False)
            camera.connect(transport.get_extra_info("sockname"))
            camera.send(sealer.seal(ping)[1])
            answer = opener.open(await asyncio.wait_for(loop.sock_recv(camera, 2000), 10))
            assert answer[0] == MESSAGE
            assert dsin_v1.ServerMessage.FromString(answer[1:]).HasField("report")
            endpoint.close()
            session.report()  # nobody is told
        await asyncio.sleep(0)
        assert transport.is_closing()

    asyncio.run(story())
