"""A camera's datagrams at the server, without a network: what is taken, answered, refused."""

import asyncio
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsin.runtime.datagrams import pieces
from dsin.runtime.datagrams.assembly import MOST_IN_A_ROW
from dsin.runtime.datagrams.sealing import MAX_BYTES, Opener, Sealer
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.server.datagram_session import (
    MOST_FRAMES_S,
    REMEMBERED,
    REPORT_S,
    DatagramSession,
)
from dsin.runtime.server.link_tally import LinkTally

HOME = ("127.0.0.1", 1)


class Peer:
    """The other end of a session, and the camera that takes its frames."""

    def __init__(self) -> None:
        self.bodies: list[tuple[int, bytes]] = []
        self.messages: list[dsin_v1.CameraMessage] = []
        self.faults: list[str] = []
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.tally = LinkTally()
        self.session = DatagramSession(
            7, self.tally, self, lambda data, to: self.sent.append((data, to))
        )
        granted = self.session.grant()
        self.sealer = Sealer(7, granted.camera_key)
        self._opener = Opener(7, granted.server_key)

    def take_body(self, number: int, body: bytes, received_ns: int) -> None:
        self.bodies.append((number, body))

    def take_message(self, message: dsin_v1.CameraMessage, received_ns: int) -> None:
        self.messages.append(message)

    def take_ping(self) -> None:
        pass

    def take_fault(self, reason: str) -> None:
        self.faults.append(reason)

    def frame(self, number: int, size: int = 3000, parity: int = 0) -> list[bytes]:
        """Datagrams of a frame."""
        body = bytes([number % 256]) * size
        return [self.sealer.seal(p.content())[1] for p in pieces.cut(number, body, parity)]

    def message(self, message: dsin_v1.CameraMessage) -> bytes:
        return self.sealer.seal(bytes([pieces.MESSAGE]) + message.SerializeToString())[1]

    def take(self, *datagrams: bytes, address: tuple[str, int] = HOME) -> None:
        for datagram in datagrams:
            self.session.take(datagram, address, 0)

    def report(self) -> dsin_v1.LinkReport:
        """The newest one."""
        content = self._opener.open(self.sent[-1][0])
        assert content[0] == pieces.MESSAGE
        return dsin_v1.ServerMessage.FromString(content[1:]).report


def in_loop(test: Callable[[Peer], None]) -> None:
    async def run() -> None:
        test(Peer())

    asyncio.run(run())


def test_a_ping_is_answered_and_makes_no_frame_go_that_way() -> None:
    peer = Peer()
    peer.take(peer.message(dsin_v1.CameraMessage(ping=dsin_v1.Ping())))
    report = peer.report()
    assert report.newest == 0
    assert report.number == 1
    assert not peer.session.active
    assert peer.tally.status().transport == ""


def test_reports_repeat_the_last_answers_and_name_what_waits() -> None:
    def test(peer: Peer) -> None:
        for number in range(12):
            peer.take(*peer.frame(number))
        for number in range(10):
            peer.session.answer(dsin_v1.Ack(frame_number=number, reason="long " * 500))
        report = peer.report()
        assert len(peer.sent[-1][0]) <= MAX_BYTES
        numbers = [ack.frame_number for ack in report.acks]
        assert numbers == list(range(10))[-len(numbers) :]
        assert 1 <= len(numbers) <= REMEMBERED
        assert list(report.pending) == [10, 11]

    in_loop(test)


def test_the_state_is_told_again_when_that_is_due_and_frames_come() -> None:
    """So an answer that was lost on its way comes with the next report."""

    def test(peer: Peer) -> None:
        peer.session.tick(time.monotonic() + REPORT_S)
        assert not peer.sent, "nothing came yet"
        peer.take(*peer.frame(1))
        peer.session.answer(dsin_v1.Ack(frame_number=1))
        peer.session.tick(0.0)
        assert len(peer.sent) == 1
        peer.session.tick(time.monotonic() + REPORT_S)
        assert len(peer.sent) == 2
        assert [ack.frame_number for ack in peer.report().acks] == [1]

    in_loop(test)


def test_the_server_answers_to_where_the_newest_datagram_came_from() -> None:
    def test(peer: Peer) -> None:
        older, newer = peer.frame(1, 10), peer.frame(2, 10)
        peer.take(*newer, address=("127.0.0.1", 2))
        peer.take(*older, address=("127.0.0.1", 3))
        peer.take(b"x" * 100, *newer, address=("127.0.0.1", 4))
        peer.session.report()
        assert peer.sent[-1][1] == ("127.0.0.1", 2)
        assert peer.tally.rejected == {"unknown_session": 1, "repeated": 1}

    in_loop(test)


@given(
    st.lists(st.tuples(st.integers(0, 59), st.sampled_from(["", "alter", "again", "drop"]))),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_way_does_frames_come_once_in_order_and_right(
    course: list[tuple[int, str]],
) -> None:
    def test(peer: Peer) -> None:
        datagrams = [d for number in range(15) for d in peer.frame(number, 3000, 1)]
        for place, what in course:
            datagram = datagrams[place]
            if what == "alter":
                datagram = datagram[:-1] + bytes([datagram[-1] ^ 1])
            if what != "drop":
                peer.take(datagram)
            if what == "again":
                peer.take(datagram)
        numbers = [number for number, _ in peer.bodies]
        assert numbers == sorted(set(numbers))
        assert all(body == bytes([number]) * 3000 for number, body in peer.bodies)
        assert not peer.faults

    in_loop(test)


@given(st.binary(min_size=1, max_size=1174))
@settings(max_examples=50, deadline=None)
def test_whatever_an_authenticated_peer_sends_is_taken_or_told_in_a_line(content: bytes) -> None:
    def test(peer: Peer) -> None:
        peer.take(peer.sealer.seal(content)[1])
        assert len(peer.faults) + len(peer.messages) + len(peer.bodies) <= 1
        assert all("\n" not in fault for fault in peer.faults)

    in_loop(test)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ([bytes([9, 1])], "kind 9"),
        ([bytes([pieces.MESSAGE]) + b"\xff\xff"], "holds no message"),
        ([bytes([pieces.PIECE, 1, 0, 0, 0, 0, 1, 1, 0])], "a piece of 9 bytes, header included"),
        ([bytes([pieces.PIECE, 1, 0, 0, 0, 0, 200, 200, 0, 1])], "200 pieces"),
        ([bytes([pieces.PIECE, 1, 0, 0, 0, 0, 2, 30, 0, 1])], "28 parity pieces do not fit 2"),
        ([bytes([pieces.PIECE, 1, 0, 0, 0, 5, 2, 2, 0, 1])], "piece 5 of 2"),
        (
            [bytes([pieces.PIECE, 1, 0, 0, 0, 0, n, n, 0, 1]) for n in (2, 3)],
            "contradict each other",
        ),
    ],
)
def test_what_no_honest_camera_sends_is_a_fault(contents: list[bytes], reason: str) -> None:
    def test(peer: Peer) -> None:
        peer.take(*(peer.sealer.seal(content)[1] for content in contents))
        assert len(peer.faults) == 1
        assert reason in peer.faults[0]

    in_loop(test)


def test_a_flood_of_half_frames_is_a_fault_where_nothing_was_lost() -> None:
    def test(peer: Peer) -> None:
        for number in range(MOST_IN_A_ROW + 6):
            peer.take(peer.sealer.seal(pieces.cut(number, bytes(3000), 0)[0].content())[1])
        assert "frames in a row" in peer.faults[0]
        assert peer.tally.status().incomplete > MOST_IN_A_ROW

    in_loop(test)


def test_half_frames_between_whole_ones_are_no_fault() -> None:
    """An honest camera, too, leaves some behind over time."""

    def test(peer: Peer) -> None:
        for number in range(2 * MOST_IN_A_ROW + 6):
            peer.take(*peer.frame(number)[: 3 if number % 2 else 1])
        assert not peer.faults
        assert peer.tally.status().incomplete > MOST_IN_A_ROW

    in_loop(test)


def test_a_flood_of_frames_is_a_fault() -> None:
    def test(peer: Peer) -> None:
        for number in range(MOST_FRAMES_S + 1):
            peer.take(*peer.frame(number, 10))
        assert "frames in a second" in peer.faults[0]

    in_loop(test)


def test_loss_and_parity_are_told_in_the_rigs_status_and_survive_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsin.runtime.datagrams.loss.SETTLED_S", 0.0)

    def test(peer: Peer) -> None:
        for number in range(40):
            datagrams = peer.frame(number, 3000, 1)
            peer.take(*(datagrams[1:] if number % 2 else datagrams))
        status = peer.tally.status()
        assert status.transport == "datagram"
        assert status.loss == pytest.approx(1 / 8, abs=0.03)
        assert status.parity == pytest.approx(1 / 3)
        assert (status.received, status.lost, status.repaired) == (140, 20, 20)
        peer.session.end()
        assert peer.tally.status().lost == 20

    in_loop(test)
