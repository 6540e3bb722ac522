"""A device's datagrams against a socket that plays the server: parity, sending again, silence."""

import socket
import time
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from dsin.runtime.datagrams import pieces
from dsin.runtime.datagrams.sealing import Opener, Sealer, new_key
from dsin.runtime.device import datagram_link, flight
from dsin.runtime.device.datagram_link import MOST_REFUSALS, DatagramLink, SilentError
from dsin.runtime.device.flight import Verdict
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1

KEYS = new_key(), new_key()


class Played:
    """The server's end."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.1)
        self._opener = Opener(7, KEYS[0])
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.connect(self.socket.getsockname())
        granted = dsin_v1.DatagramSession(session=7, credits=8)
        self.link = DatagramLink(near, granted, Sealer(7, KEYS[0]), Opener(7, KEYS[1]))

    def frame(self, number: int, size: int = 3000) -> list[int]:
        """Have the device send a frame; the indices of the pieces that came."""
        self.link.send_frame(dsin_v1.EncodedFrame(packet=bytes(size), frame_number=number))
        return self.indices()

    def indices(self) -> list[int]:
        """Of the pieces that came since then."""
        found = []
        try:
            while True:
                content = self._opener.open(self.socket.recv(2000))
                found.append(pieces.parsed(content).index)
        except TimeoutError:
            return found


@pytest.fixture
def played() -> Iterator[Played]:
    server = Played()
    yield server
    server.link.close()
    server.socket.close()


def unfinished(number: int, frame: int, came: list[int], sent: int) -> dsin_v1.LinkReport:
    report = dsin_v1.LinkReport(
        number=number, sent=sent, received=sent, newest=sent - 1, held_us=10**9
    )
    report.unfinished.frame_number, report.unfinished.pieces = frame, bytes(came)
    return report


def test_a_piece_is_sent_again_once_where_it_comes_before_the_next_frame(played: Played) -> None:
    played.frame(1)
    assert played.frame(2) == [0, 1, 2]
    played.link._interval_s = 60.0
    assert played.link._judged(unfinished(1, 2, [0, 2], 6)) == ([], [])
    assert played.indices() == [1]
    played.link._judged(unfinished(2, 2, [0, 2], 6))
    assert played.indices() == []


def test_no_piece_is_sent_again_of_an_old_frame_or_over_a_long_way(played: Played) -> None:
    played.frame(1)
    played.frame(2)
    played.link._interval_s = 5.0
    played.link._judged(unfinished(1, 1, [0], 6))
    assert played.indices() == []
    played.link._flight.round_trip.add(100.0)
    played.link._judged(unfinished(2, 2, [0], 6))
    assert played.indices() == []


def test_a_piece_that_may_still_be_on_its_way_is_not_sent_again(played: Played) -> None:
    played.frame(1)
    played.frame(2)
    played.link._interval_s = 60.0
    played.link._judged(unfinished(1, 2, [0], 4))
    assert played.indices() == [], "the newest that came is the first of the frame"
    played.link._judged(unfinished(2, 2, [0, 2], 6))
    assert played.indices() == [1]


def test_parity_follows_what_reports_tell(played: Played) -> None:
    assert played.frame(1) == [0, 1, 2]
    assert played.link.figures.parity == 0
    played.link._judged(dsin_v1.LinkReport(number=1, sent=100, received=80))
    more = played.frame(2)
    assert more[:4] == [0, 1, 2, 3]
    assert len(more) >= 6
    assert played.link.figures.loss == pytest.approx(0.2)
    assert played.link.figures.parity == len(more) / 3 - 1


def test_a_silent_server_is_a_fault(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagram_link, "SILENT_S", 0.1)
    told: list[Verdict] = []
    played.link.start(told.append, lambda message: None)
    deadline_s = time.monotonic() + 10
    while played.link.fault is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert isinstance(played.link.fault, SilentError)
    assert told[-1] == ([], [])


def test_a_frame_of_which_nothing_is_heard_for_too_long_is_told_as_lost(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "LOST_S", 0.02)
    told: list[Verdict] = []
    played.link.start(told.append, lambda message: None)
    played.link.send_frame(dsin_v1.EncodedFrame(packet=bytes(10), frame_number=5))
    deadline_s = time.monotonic() + 10
    while not told:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert told == [([], [5])]
    assert played.link.under_way == 0


def test_what_takes_reports_and_fails_is_the_links_fault(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "LOST_S", 0.02)

    def fail(verdict: Verdict) -> None:
        if verdict.lost:
            raise ZeroDivisionError("a fault")

    played.link.start(fail, lambda message: None)
    played.link.send_frame(dsin_v1.EncodedFrame(packet=bytes(10), frame_number=5))
    deadline_s = time.monotonic() + 10
    while played.link.fault is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert str(played.link.fault) == "a fault"


def test_so_many_times_of_sending_are_remembered(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagram_link, "REMEMBERED", 2)
    numbers = [played.link._send(bytes([pieces.MESSAGE])) for _ in range(4)]
    assert list(played.link._sent_at) == numbers[-2:]


def test_an_address_to_which_there_is_no_way_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As to all machines at once, which nobody may send to just like that."""
    places = [("255.255.255.255", 7), ("127.0.0.1", 7)]
    kind = (socket.AF_INET, socket.SOCK_DGRAM, 17, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*kind, p) for p in places])
    found = datagram_link._connected("rig.example:7")
    assert [each.getpeername() for each in found] == [("127.0.0.1", 7)]
    for each in found:
        each.close()


@pytest.mark.parametrize(("addresses", "asked"), [(0, 0), (2, MOST_REFUSALS)])
def test_a_machine_that_refuses_is_not_asked_for_long(
    monkeypatch: pytest.MonkeyPatch, addresses: int, asked: int
) -> None:
    monkeypatch.setattr(datagram_link, "PROBE_EVERY_S", 0.01)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    refused = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(addresses)]
    for each in refused:
        each.connect(silent.getsockname())
    silent.close()
    rounds = Mock(**{"is_set.return_value": False})
    ends = Sealer(7, KEYS[0]), Opener(7, KEYS[1])
    assert datagram_link._first_to_answer(refused, *ends, rounds) is None
    assert rounds.is_set.call_count == asked + 1
    for each in refused:
        each.close()
