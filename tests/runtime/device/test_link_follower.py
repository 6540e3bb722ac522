"""`--kbps auto` over a real connection: answers become arrivals, and the device does as planned."""

import threading

import pytest
from support.link_model import Conditions
from support.link_simulator import LinkSimulator
from support.rig_fakes import SizedEncoder, fake_device, fake_server, wait_until
from support.simulated_stream import PIXELS, POINTS

from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device.device import AnsweredFrame
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def follower(clock: Clock) -> LinkFollower:
    controller = RateController(POINTS, pixels=PIXELS, target_kbps=200, fps=10)
    return LinkFollower(controller, 10, clock)


def ack(frame: int, status: str, **times: float) -> dsin_v1.Ack:
    return dsin_v1.Ack(frame_number=frame, status=status, **times)  # type: ignore[arg-type]


def test_an_answer_tells_when_the_frame_arrived() -> None:
    """Decoding and waiting are not of the link."""
    clock = Clock()
    link = follower(clock)
    for number, decode_ms in enumerate((10.0, 10.0, 60.0)):
        link.sent(number, 1000)
        arrival_ns = 5_000_000_000 + 100_000_000 * number
        done_ns = arrival_ns + int(1e6 * decode_ms) + 5_000_000
        link.answered(
            ack(number, "DECODED", server_time_ns=done_ns, decode_ms=decode_ms, waited_ms=5),
            clock.now_s + 0.08,
        )
        clock.now_s += 0.1
    assert link.figures.queueing_ms == pytest.approx(0, abs=1e-3)
    link.sent(3, 1000)
    link.answered(ack(3, "DECODED", server_time_ns=5_340_000_000), clock.now_s + 0.08)
    clock.now_s += 0.1
    link.sent(4, 1000)
    link.answered(ack(4, "DECODED", server_time_ns=5_440_000_000), clock.now_s + 0.08)
    link.sent(5, 1000)
    link.answered(ack(5, "DECODED", server_time_ns=5_540_000_000), clock.now_s + 0.18)
    assert link.figures.queueing_ms == pytest.approx(40, abs=1e-3)


def test_a_frame_that_was_not_decoded_tells_of_no_time() -> None:
    clock = Clock()
    link = follower(clock)
    link.sent(0, 1000)
    link.answered(ack(0, "SUPERSEDED", server_time_ns=5), 100.1)
    assert link.figures.delivered_kbps == link.figures.queueing_ms == link.figures.loss == 0


def test_losses_are_counted_and_another_connection_begins_anew() -> None:
    clock = Clock()
    link = follower(clock)
    link.sent(0, 1000)
    link.lost(0)
    assert link.figures.loss == 1
    assert link.pause_s() == pytest.approx(1.0)
    link.restart()
    link.sent(1, 1000)
    clock.now_s += 1
    assert link.pause_s() == 0


@pytest.mark.parametrize("event", ["answered", "lost", "restart"])
def test_who_waits_for_the_link_is_woken_by_news_of_it(event: str) -> None:
    """Else the next frame would come late by up to the whole wait."""
    link = follower(Clock())
    news = {
        "answered": lambda: link.answered(ack(0, "DECODED"), 100.0),
        "lost": lambda: link.lost(0),
        "restart": link.restart,
    }
    waiting = threading.Thread(target=link.wait, args=(60,), daemon=True)
    waiting.start()
    waiting.join(0.02)
    assert waiting.is_alive()

    def woken() -> bool:
        news[event]()
        return not waiting.is_alive()

    wait_until(woken)


def test_another_connection_knows_nothing_of_the_one_before() -> None:
    clock = Clock()
    link = follower(clock)
    for number in range(3):
        link.sent(number, 1000)
        at_ns = int(1e9 * (clock.now_s + 0.03 * number))
        link.answered(ack(number, "DECODED", server_time_ns=at_ns), clock.now_s + 0.1)
        clock.now_s += 0.1
    assert link.figures.delivered_kbps > 0
    link.sent(3, 1000)
    link.restart()
    assert link.figures.delivered_kbps == link.figures.queueing_ms == 0
    assert link.pause_s() == 0, "the frame that was under way is not waited for"


def test_the_controller_aims_at_what_the_link_takes() -> None:
    clock = Clock()
    controller = RateController(POINTS, pixels=PIXELS, target_kbps=200, fps=10)
    link = LinkFollower(controller, 10, clock)
    link.aim()
    assert controller.target_kbps < 5  # one smallest frame, to begin with
    assert controller.next_rate() == 0
    link.sent(0, 1000)
    link.answered(ack(0, "DECODED", server_time_ns=5_000_000_000), 100.05)
    clock.now_s += 0.1
    link.aim()
    assert controller.target_kbps == 200


def test_a_stream_follows_a_link_that_narrows() -> None:
    """How it widens again is tested in virtual time: here other processes delay frames too."""
    answers: list[AnsweredFrame] = []
    maker = SizedEncoder(POINTS, PIXELS, 200, 10)
    link = LinkFollower(maker.controller, 10)
    conditions = Conditions(delay_s=0.005)
    with (
        fake_server(decode_s=0.005) as server,
        LinkSimulator(server.server.port, conditions, back=Conditions(delay_s=0.005)) as proxy,
    ):
        device = fake_device(
            f"127.0.0.1:{proxy.port}", fps=10, count=None, maker=maker, follower=link,
            answers=answers,
        )  # fmt: skip
        wait_until(lambda: max((len(a.made.data) for a in answers), default=0) > 1500, 20)
        conditions.kbps = 60
        wait_until(lambda: link.figures.target_kbps < 60, 20, "a lower rate")
        assert link.figures.delivered_kbps > 0
        rig = wait_until_told(server)
        device.stop()
    assert {"delivered_kbps", "queueing_ms", "loss", "target_kbps"} <= rig.keys()
    assert len(answers[0].made.data) < 1300  # it began with a smallest frame


def wait_until_told(server: object) -> dict[str, float]:
    def told() -> dict[str, float]:
        found: dict[str, float] = server.pool.status()[0].device  # type: ignore[attr-defined]
        return found

    wait_until(lambda: "loss" in told(), 10, "the device's report")
    return told()
