"""What `dsin serve` refuses before it loads anything: addresses, ports, packages."""

import errno
import importlib.util
import os
import socket
from collections.abc import Iterator

import pytest

from dsin.runtime.errors import StreamError
from dsin.runtime.server.address_checks import (
    check_address,
    check_free,
    check_http_ports,
    check_packages,
)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_names_the_option_to_change(taken: int) -> None:
    for option, port in (("HOST:PORT", taken), ("--web", taken)):
        with pytest.raises(StreamError) as refused:
            check_free("127.0.0.1", port, option)
        assert str(refused.value) == (
            f"cannot listen at 127.0.0.1:{taken}: the port is taken; "
            f"choose another one with {option}"
        )
    with pytest.raises(StreamError, match=r"choose another one with HOST:PORT$"):
        check_address(f"127.0.0.1:{taken}", None)
    check_http_ports("127.0.0.1", [("--web", None), ("--metrics", 0)])
    with pytest.raises(StreamError, match=r"choose another one with --metrics$"):
        check_http_ports("127.0.0.1", [("--web", None), ("--metrics", taken)])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(StreamError) as refused:
        check_http_ports("127.0.0.1", [("--web", port)])
    assert str(refused.value) == f"--web {port}: ports are 0 to 65535, and 0 picks a free one"


def test_an_address_that_is_free_is_taken_apart() -> None:
    assert check_address("127.0.0.1:0", None) == ("127.0.0.1", 0)


def test_another_machines_address_is_refused_in_words() -> None:
    with pytest.raises(StreamError) as refused:
        check_free("192.0.2.1", 0, "HOST:PORT")
    reason = os.strerror(errno.EADDRNOTAVAIL).lower()
    assert str(refused.value).startswith(f"cannot listen at 192.0.2.1:0: {reason}")


def test_a_host_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StreamError) as refused:
        check_free("rig.example", 7000, "HOST:PORT")
    assert str(refused.value) == "cannot listen at rig.example:7000: there is no host rig.example"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_what_may_yet_go_well_is_left_to_the_server(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A port that one may not have stays so."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "create_server", refuse)
    if number == errno.EMFILE:
        check_free("127.0.0.1", 80, "HOST:PORT")
        return
    with pytest.raises(StreamError, match=r"^cannot listen at 127.0.0.1:80: permission denied$"):
        check_free("127.0.0.1", 80, "HOST:PORT")


@pytest.mark.parametrize(
    ("health", "http", "missing"),
    [
        (True, True, "grpc_health, aiohttp, prometheus_client"),
        (True, False, "grpc_health"),
        (False, True, "aiohttp, prometheus_client"),
        (False, False, ""),
    ],
)
def test_packages_that_are_missing_are_named_as_far_as_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, health: bool, http: bool, missing: str
) -> None:
    check_packages(health=health, http=http)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if not missing:
        check_packages(health=health, http=http)
        return
    with pytest.raises(StreamError) as refused:
        check_packages(health=health, http=http)
    assert str(refused.value) == (
        f"serving needs {missing}, not installed here: pip install 'dsin[serve]'"
    )
