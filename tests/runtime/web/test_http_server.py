"""The HTTP server: who is answered, what answers forbid, how it ends; and the health check."""

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from aiohttp import web

from dsin.runtime.errors import BackendError, DsinError
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.web import http_server
from dsin.runtime.web.health import Health
from dsin.runtime.web.http_server import LOOPBACK, HttpServer

CANCELLED = threading.Event()


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    try:
        while True:
            await asyncio.sleep(3600)
    finally:
        CANCELLED.set()


ROUTES = [web.get("/hello", hello), web.get("/endless", endless)]


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with HttpServer(LOOPBACK, 0, [ROUTES]) as server:
        yield server


def get(
    server: HttpServer, path: str, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    with closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:{port}", "LOCALHOST:9999", "[::1]:{port}"]
)
def test_loopback_by_any_name_is_answered(server: HttpServer, host: str) -> None:
    status, body, _ = get(server, "/hello", Host=host.format(port=server.port))
    assert (status, body) == (200, b"hello")


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example:{port}", "localhost.example", "a@[", "",
     "attacker.example@evil", "[127.0.0.1", "192.168.0.7"],
)  # fmt: skip
def test_a_name_that_was_rebound_to_loopback_is_refused(server: HttpServer, host: str) -> None:
    assert get(server, "/hello", Host=host.format(port=server.port))[0] in (400, 403)


def test_beyond_loopback_any_name_is_answered() -> None:
    with HttpServer("0.0.0.0", 0, [ROUTES]) as server:
        assert get(server, "/hello", Host="camera.example")[0] == 200
        assert server.url == f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("path", ["/hello", "/nothing"])
def test_every_answer_forbids_what_comes_from_elsewhere(server: HttpServer, path: str) -> None:
    headers = get(server, path)[2]
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "dsin"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_there_is_nothing_to_change(server: HttpServer, method: str) -> None:
    with closing(http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)) as connection:
        connection.request(method, "/hello", body=b"x")
        assert connection.getresponse().status == 405


def test_a_taken_port_is_one_line() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            DsinError, match=rf"^cannot listen on 127.0.0.1 port {port}: Address already .*; choose"
        ):
            HttpServer(LOOPBACK, port, []).__enter__()


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), (LOOPBACK, 70000)])
def test_an_address_that_is_none_is_one_line(host: str, port: int) -> None:
    with pytest.raises(DsinError, match=rf"^cannot listen on {host} port {port}: [^\n\[]+; choose"):
        HttpServer(host, port, []).__enter__()


def test_a_fault_at_the_start_keeps_its_traceback() -> None:
    broken = HttpServer(LOOPBACK, 0, [[object()]])  # type: ignore[list-item]
    with pytest.raises(AttributeError), broken:
        pass


def test_the_end_cancels_what_is_open_and_frees_the_port() -> None:
    CANCELLED.clear()
    with HttpServer(LOOPBACK, 0, [ROUTES]) as server:
        connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=20)
        connection.request("GET", "/endless")
        answer = connection.getresponse()
        assert answer.read(5) == b"begun"
    assert CANCELLED.is_set()
    answer.close()
    connection.close()
    with socket.create_server((LOOPBACK, server.port)):
        pass


def test_more_connections_than_allowed_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "CONNECTIONS", 2)
    with HttpServer(LOOPBACK, 0, [ROUTES]) as server:
        idle = [socket.create_connection((LOOPBACK, server.port)) for _ in range(5)]
        closed = [connection for connection in idle if ends(connection)]
        assert len(closed) == 3
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 20
        while True:  # until the server has noticed
            try:
                assert get(server, "/hello")[0] == 200
                break
            except (ConnectionError, http.client.HTTPException):
                assert time.monotonic() < deadline


def ends(connection: socket.socket) -> bool:
    connection.settimeout(1)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_without_aiohttp_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(BackendError, match=r"pip install 'dsin\[serve\]'"):
        HttpServer(LOOPBACK, 0, [])


def test_health_tells_serving_and_then_stopping() -> None:
    rigs = [
        RigStatus(
            rig=name, camera_connected=connected, side_connected=True, width=8, height=8,
            decoded=0, superseded=0, rejected=0, side_uses={}, kbps=0, fps=0, newest_age_ms=None,
            clock_offset_ms=None, clock_error_ms=None, device={},
        )
        for name, connected in (("a", True), ("b", False), ("c", False))
    ]  # fmt: skip
    health = Health(lambda: rigs)
    with HttpServer(LOOPBACK, 0, [health.routes()]) as server:
        assert health_of(server) == (200, "serving")
        health.stop()
        assert health_of(server) == (503, "stopping")


def health_of(server: HttpServer) -> tuple[int, Any]:
    status, body, _ = get(server, "/healthz")
    told = json.loads(body)
    assert (told["rigs"], told["rigs_connected"]) == (3, 1)
    return status, told["status"]
