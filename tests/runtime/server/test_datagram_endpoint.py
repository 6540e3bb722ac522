"""Where a server listens for datagrams."""

import asyncio
import errno
import os
import socket

import pytest

from dsin.runtime.errors import StreamError
from dsin.runtime.server.datagram_endpoint import DatagramEndpoint


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
