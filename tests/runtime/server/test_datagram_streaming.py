"""Frames in datagrams over loopback, good links and bad ones; short versions of
tests/benchmarks/lossy_link.py."""

import socket
import time
from pathlib import Path

import pytest
from support.certificates import Authority
from support.fault_proxy import FaultProxy
from support.link_model import Conditions
from support.link_simulator import LinkSimulator
from support.rig_fakes import FakeEncoder, FakeServer, fake_device, fake_server, wait_until

from dsin.runtime.device.device import AnsweredFrame, PictureMaker
from dsin.runtime.errors import StreamError
from dsin.runtime.outputs.rig_status import LinkStatus

SIZE = 3000
"""Of a packet: three pieces."""


def link_of(server: FakeServer) -> LinkStatus:
    return server.pool.status()[0].link


def test_without_loss_every_frame_comes_without_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsin.runtime.device.stream_client.SOON_S", 2.0)
    answers: list[AnsweredFrame] = []
    news: list[str] = []
    with fake_server() as server:
        device = fake_device(
            server.address, fps=50, transport="auto", maker=FakeEncoder(SIZE), answers=answers,
            on_news=news.append,
        )  # fmt: skip
        counts = device.finish()
        link = link_of(server)
        assert len(server.frames) == counts.sent == counts.answered
    assert news == [f"connected to {server.address}, frames go in datagrams"]
    assert (counts.lost, counts.reconnects) == (0, 0)
    assert {answer.status for answer in answers} == {"decoded"}
    assert (link.transport, link.loss, link.parity) == ("datagram", 0, 0)
    assert link.incomplete == link.lost == 0


def test_with_certificates_the_keys_come_inside_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with fake_server(certificates=authority.server) as server:
        counts = fake_device(
            server.address, certificates=authority.rig("front"), transport="datagram"
        ).finish()
        assert link_of(server).transport == "datagram"
    assert counts.statuses["decoded"] == counts.sent > 0


def test_where_datagrams_are_swallowed_auto_sends_by_grpc_from_the_first_frame_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsin.runtime.device.datagram_link.PROBE_S", 0.4)
    news: list[str] = []
    with (
        fake_server() as server,
        FaultProxy(server.server.port) as tcp_only,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        sink.bind(("127.0.0.1", tcp_only.port))
        address = f"127.0.0.1:{tcp_only.port}"
        device = fake_device(address, fps=50, count=None, transport="auto", on_news=news.append)
        wait_until(lambda: len(server.frames) > 5)
        assert news == [f"connected to {address}, frames go by gRPC until a datagram has come back"]
        wait_until(lambda: len(news) == 2)
        assert device.stop().reconnects == 0
        assert news[1] == "no datagram came back: frames go on by gRPC"
        assert link_of(server).transport == "grpc"
        with pytest.raises(StreamError, match="open for UDP"):
            fake_device(address, transport="datagram").finish()


def test_auto_changes_over_to_datagrams_once_one_has_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsin.runtime.device.stream_client.SOON_S", 0.0)
    news: list[str] = []
    with fake_server() as server, LinkSimulator(server.server.port, Conditions(0.01)) as link:
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=50, count=None, transport="auto", on_news=news.append
        )  # fmt: skip
        wait_until(lambda: len(news) == 2)
        seen = len(server.frames)
        wait_until(lambda: len(server.frames) > seen + 5)
        assert link_of(server).transport == "datagram"
        counts = device.stop()
        numbers = server.numbers("front")
    assert news[0].endswith("frames go by gRPC until a datagram has come back")
    assert news[1:] == ["a datagram came back: frames go in datagrams from now on"]
    assert numbers == sorted(set(numbers))
    assert (counts.lost, counts.reconnects) == (0, 0)


def test_a_server_that_takes_none_is_an_error_for_datagram() -> None:
    news: list[str] = []
    with fake_server(datagrams=False) as server:
        with pytest.raises(StreamError, match="takes none"):
            fake_device(server.address, transport="datagram").finish()
        device = fake_device(server.address, transport="auto", on_news=news.append)
        assert device.finish().statuses["decoded"] > 0
    assert news[0].endswith("frames go by gRPC: the server takes no datagrams")


def test_the_second_camera_stays_with_grpc() -> None:
    with fake_server() as server:
        counts = fake_device(server.address, maker=PictureMaker(), transport="auto").finish()
    assert counts.statuses == {"stored": counts.sent}


def test_one_datagram_in_five_lost_costs_few_frames_and_no_delay() -> None:
    answers: list[AnsweredFrame] = []
    bad = Conditions(delay_s=0.02, loss=0.2)
    with fake_server() as server, LinkSimulator(server.server.port, bad, seed=1) as link:
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=40, count=None, maker=FakeEncoder(SIZE),
            transport="datagram", answers=answers,
        )  # fmt: skip
        wait_until(lambda: len(server.frames) > 120, 20)
        status = link_of(server)
        counts = device.stop()
        numbers = server.numbers("front")
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 0.9 * counts.sent
    assert 0.1 < status.loss < 0.3
    assert status.parity > 0.5
    assert status.repaired > 20
    assert counts.answered + counts.lost == counts.sent
    assert counts.reconnects == 0


def test_reordered_and_repeated_datagrams_make_no_wrong_picture() -> None:
    bad = Conditions(delay_s=0.005, reordered=0.3, reorder_s=0.05, duplicated=0.1)
    with fake_server() as server, LinkSimulator(server.server.port, bad, seed=2) as link:
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=40, count=None, maker=FakeEncoder(SIZE),
            transport="datagram",
        )  # fmt: skip
        wait_until(lambda: len(server.frames) > 60, 20)
        device.stop()
        numbers = server.numbers("front")
        assert numbers == sorted(set(numbers))
        assert all(frame.decoded.image[0, 0, 0] == frame.number % 256 for frame in server.frames)
        assert server.pool.status()[0].link.rejected["repeated"] > 0


def test_after_a_burst_the_stream_goes_on_without_connecting_again() -> None:
    link_state = Conditions(delay_s=0.02)
    with fake_server() as server, LinkSimulator(server.server.port, link_state) as link:
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=20, count=None, maker=FakeEncoder(SIZE),
            transport="datagram",
        )  # fmt: skip
        wait_until(lambda: len(server.frames) > 5)
        link_state.down = True
        time.sleep(0.3)
        link_state.down = False
        restored_ns = time.time_ns()
        wait_until(lambda: server.frames[-1].captured_ns > restored_ns)
        first = next(f for f in server.frames if f.captured_ns > restored_ns)
        assert first.captured_ns - restored_ns < 2.5e9 / 20
        wait_until(lambda: device.device.counts.lost > 0, what="the lost frames to be told")
        assert device.stop().reconnects == 0


def test_a_stream_outlives_its_control_connection_while_datagrams_flow() -> None:
    with fake_server() as server, LinkSimulator(server.server.port) as link:
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=50, count=None, transport="datagram"
        )  # fmt: skip
        wait_until(lambda: len(server.frames) > 5)
        link.cut()  # the datagrams come from another address from now on
        seen = len(server.frames)
        wait_until(lambda: len(server.frames) > seen + 50)
        assert server.pool.status()[0].clock_offset_ms is not None
        counts = device.stop()
        wait_until(lambda: not server.pool.status()[0].camera_connected)
    assert counts.reconnects == 0
    assert counts.lost <= 2


def test_a_server_that_dies_is_found_again() -> None:
    with fake_server() as server:
        port = server.server.port
        device = fake_device(server.address, fps=50, count=None, transport="datagram")
        wait_until(lambda: len(server.frames) > 5)
    with fake_server(port=port) as server:
        wait_until(lambda: len(server.frames) > 5)
        assert device.stop().reconnects > 0


def test_garbage_replayed_and_forged_datagrams_are_counted_and_change_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[bytes] = []
    with (
        fake_server() as server,
        LinkSimulator(server.server.port, tap=heard.append) as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        stranger.connect(("127.0.0.1", server.server.port))
        device = fake_device(
            f"127.0.0.1:{link.port}", fps=50, count=None, maker=FakeEncoder(SIZE),
            transport="datagram",
        )  # fmt: skip
        wait_until(lambda: len(server.frames) > 5)
        for datagram in heard[:20]:
            forged = datagram[:4] + bytes([255]) + datagram[5:]
            for data in (datagram, forged, b"garbage", bytes(1000), bytes(1300)):
                stranger.send(data)
        strangers = server.server._datagrams.strangers  # type: ignore[union-attr]
        wait_until(lambda: strangers.total() == 60)
        rejected = link_of(server).rejected
        assert rejected["repeated"] + rejected["forged"] == 40
        assert strangers == {"malformed": 40, "unknown_session": 20}
        seen = len(server.frames)
        wait_until(lambda: len(server.frames) > seen + 10)
        assert device.stop().lost == 0
        numbers = server.numbers("front")
    assert numbers == sorted(set(numbers))
    assert caplog.text.count("rejected datagrams") == 1


def test_a_packet_that_is_too_large_for_datagrams_says_what_to_do() -> None:
    with fake_server() as server, pytest.raises(StreamError, match="--transport grpc"):
        fake_device(server.address, maker=FakeEncoder(200_000), transport="datagram").finish()


def test_a_camera_that_breaks_the_rules_in_datagrams_is_told_and_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with fake_server() as server:
        device = fake_device(server.address, fps=50, count=None, transport="datagram")
        wait_until(lambda: len(server.frames) > 5)
        camera = next(iter(server.server._service._cameras.values()))
        assert camera.datagrams is not None
        server.server._thread._loop.call_soon_threadsafe(  # type: ignore[union-attr]
            camera.take_fault, "pieces of frame 1 contradict each other"
        )
        with pytest.raises(StreamError, match="contradict each other"):
            device.finish()
    assert caplog.text.count("contradict each other") == 1


def test_a_port_that_another_program_has_for_udp_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        told = rf"127.0.0.1:{port} for datagrams \(UDP\): the port is taken; choose another"
        with pytest.raises(StreamError, match=told):
            fake_server(port=port).__enter__()
