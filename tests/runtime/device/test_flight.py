"""How many frames may be under way in datagrams, and what becomes of those that never came."""

import pytest

from dsin.runtime.device.flight import LOST_S, Flight
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1


def report(
    number: int, acks: list[int], pending: list[int], decode_ms: float = 50.0
) -> dsin_v1.LinkReport:
    return dsin_v1.LinkReport(
        number=number,
        pending=pending,
        acks=[
            dsin_v1.Ack(frame_number=n, status=dsin_v1.DECODED, decode_ms=decode_ms) for n in acks
        ],
    )


def test_frames_older_than_what_the_server_speaks_of_never_came() -> None:
    flight = Flight(8)
    for number in range(5):
        flight.sent(number, 0.0)
    verdict = flight.report(report(1, [0], [3]))
    assert [ack.frame_number for ack in verdict.acks] == [0]
    assert verdict.lost == [1, 2]
    assert len(flight) == 2
    assert flight.report(report(2, [0, 3], [4])).lost == []


def test_a_report_that_another_has_overtaken_says_nothing() -> None:
    flight = Flight(8)
    flight.sent(0, 0.0)
    flight.sent(1, 0.0)
    assert flight.report(report(2, [], [0, 1])).lost == []
    assert flight.report(report(1, [], [1])) == ([], [])
    assert len(flight) == 2


def test_an_answer_is_handed_on_once_however_often_it_is_repeated() -> None:
    flight = Flight(8)
    flight.sent(0, 0.0)
    assert len(flight.report(report(1, [0], [])).acks) == 1
    assert len(flight.report(report(2, [0], [])).acks) == 0


@pytest.mark.parametrize(
    ("round_trip_s", "decode_ms", "window"),
    [
        (0.0, 100, 2),
        (0.005, 100, 2),
        (0.2, 50, 6),
        (0.2, 150, 3),
        (0.2, 400, 2),
        (0.01, 30, 2),
        (0.2, 5, 8),
    ],
)
def test_a_long_way_holds_more_frames_and_a_slow_server_no_more_than_it_can_use(
    round_trip_s: float, decode_ms: float, window: int
) -> None:
    flight = Flight(8)
    flight.round_trip.add(round_trip_s)
    flight.sent(0, 0.0)
    flight.report(report(1, [0], [], decode_ms))
    assert flight.window == window


def test_neither_losses_nor_lost_answers_keep_frames_waiting_but_a_busy_server_does() -> None:
    flight = Flight(8)
    flight.round_trip.add(0.0)
    flight.sent(0, 0.0)
    flight.sent(1, 0.0)
    assert flight.report(dsin_v1.LinkReport(number=1, newest=1), 0.0) == ([], [])
    assert not flight.has_room(0.01)
    assert flight.has_room(0.3), "their answers are overdue"
    assert flight.overdue(LOST_S + 0.1) == [0, 1]
    flight.sent(2, 2.0)
    flight.sent(3, 2.0)
    flight.report(report(2, [], [2, 3]))
    assert not flight.has_room(9.0)
    assert flight.overdue(9.0) == []


def test_a_link_that_only_takes_longer_gets_no_more_frames() -> None:
    flight = Flight(8)
    flight.round_trip.add(0.0)
    flight.sent(0, 0.0)
    flight.sent(1, 0.0)
    for number in range(1, 20):
        now_s = number / 20
        flight.report(dsin_v1.LinkReport(number=number, newest=number), now_s)
        assert not flight.has_room(now_s + 0.02)
    assert flight.has_room(1.5), "nothing gets through any more"
