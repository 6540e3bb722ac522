"""The rate that follows a link, against simulated links and by its own rules."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.link_model import Conditions
from support.simulated_stream import Moment, SimulatedStream

from dsin.runtime.device.link_rate import LinkRate

SMALLEST, LARGEST = 1000, 12_000


def link_rate() -> LinkRate:
    return LinkRate(fps=10, smallest_bytes=SMALLEST, largest_bytes=LARGEST)


def ages_ms(moments: list[Moment], percent: float = 100) -> float:
    return float(np.percentile([1000 * moment.age_s for moment in moments], percent))


def kbps(moments: list[Moment], seconds: float) -> float:
    return 0.008 * sum(moment.size for moment in moments) / seconds


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_link_that_narrows_and_widens(tcp: bool, seed: int) -> None:
    """1 Mbit/s, 150 kbit/s, 1 Mbit/s: the age stays below half a second all the time."""
    link = Conditions(delay_s=0.005, kbps=1000)
    stream = SimulatedStream(link, tcp=tcp, seed=seed)
    stream.run(5)
    wide = stream.run(10)
    assert wide[-1].figures.target_kbps > 350
    assert ages_ms(wide, 99) < 110
    link.kbps = 150
    first, second = stream.run(1), stream.run(1)
    assert ages_ms(first) < 400
    assert first[-1].figures.target_kbps < 200
    assert ages_ms(second) < 200
    narrow = stream.run(13)
    assert len(narrow) > 120  # nearly all frames, at 10 a second
    assert ages_ms(narrow) < 250
    assert kbps(narrow, 13) < 150
    link.kbps = 1000
    back = stream.run(5)
    assert back[-1].figures.target_kbps > 300
    assert ages_ms(back) < 150
    assert len(back) >= 49


@pytest.mark.parametrize("tcp", [False, True])
def test_a_rate_that_lasts_stays_as_quick(tcp: bool) -> None:
    """What frames take on the link by themselves is not mistaken for the way."""
    stream = SimulatedStream(Conditions(delay_s=0.025, kbps=1000), tcp=tcp)
    stream.run(100)
    assert ages_ms(stream.run(60), 99) < 150
    assert stream.link.figures.target_kbps > 300


@pytest.mark.parametrize("tcp", [False, True])
def test_a_link_that_is_not_full_gets_the_highest_rate(tcp: bool) -> None:
    stream = SimulatedStream(Conditions(delay_s=0.025), tcp=tcp)
    stream.run(6)
    assert stream.run(1)[-1].size > 11_000
    assert stream.link.figures.target_kbps < 1300  # nothing beyond the largest frames


@pytest.mark.parametrize(("capacity", "frames"), [(60, 6.0), (30, 3.0)])
def test_below_the_lowest_rate_frames_become_rarer(capacity: float, frames: float) -> None:
    stream = SimulatedStream(Conditions(delay_s=0.02, kbps=capacity), tcp=True)
    stream.run(10)
    rare = stream.run(30)
    assert 0.6 * frames < len(rare) / 30 < 1.2 * frames
    assert max(moment.size for moment in rare) < 1300
    own_ms = 8 * 1200 / capacity
    assert ages_ms(rare, 50) < 2.2 * own_ms + 60


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_loss_of_a_radio_link_is_not_taken_for_a_full_one(loss: float) -> None:
    link = Conditions(delay_s=0.1, loss=loss)
    stream = SimulatedStream(link, parity=0.3 + 2 * loss, credits=5)
    stream.run(10)
    assert stream.run(20)[-1].figures.target_kbps > 700


def test_frames_lost_at_random_are_not_taken_for_a_full_link() -> None:
    stream = SimulatedStream(Conditions(delay_s=0.05, loss=0.03), credits=5)  # of a frame's 10
    moments = stream.run(30)
    assert 0.1 < moments[-1].figures.loss < 0.6
    assert moments[-1].figures.target_kbps > 500


def test_jitter_is_not_taken_for_a_full_link() -> None:
    stream = SimulatedStream(Conditions(delay_s=0.05, jitter_s=0.03))
    stream.run(20)
    assert stream.run(20)[-1].figures.target_kbps > 700


def test_a_way_that_got_longer_is_learnt() -> None:
    """A tenth of a second more from now on, as over another route."""
    link = Conditions(delay_s=0.02)
    stream = SimulatedStream(link, credits=5)
    stream.run(10)
    link.delay_s = 0.12
    stream.run(15)
    moments = stream.run(5)
    assert moments[-1].figures.target_kbps > 700
    assert moments[-1].figures.queueing_ms < 20


def test_a_link_that_loses_what_overflows_is_followed() -> None:
    """A queue too short to be noticed by its delay."""
    link = Conditions(delay_s=0.02, kbps=1000, queue_bytes=6000)
    stream = SimulatedStream(link, credits=5)
    stream.run(10)
    link.kbps, link.queue_bytes = 150, 1500
    stream.run(5)
    moments = stream.run(10)
    assert len(moments) > 50
    assert moments[-1].figures.target_kbps < 200


def test_after_an_outage_it_goes_on() -> None:
    link = Conditions(delay_s=0.05)
    stream = SimulatedStream(link, credits=5)
    before = stream.run(10)[-1].figures.target_kbps
    link.down = True
    stream.run(0.3)
    link.down = False
    back = stream.run(2)
    assert back[0].taken_s < 11.0
    assert back[-1].figures.target_kbps > 0.8 * before


def test_it_begins_with_one_smallest_frame() -> None:
    link = link_rate()
    first = link.plan(0.0)
    assert first.wait_s == 0
    assert first.kbps == link.floor_kbps == pytest.approx(3.0)  # 3/8 of 8 kbit once a second
    link.sent(0, SMALLEST, 0.0)
    assert link.plan(0.1).wait_s == pytest.approx(0.9)
    link.confirmed(0, 500.02, 0.05)
    assert link.plan(0.1) == (0.0, 200.0)


def test_frames_that_are_not_confirmed_in_time_hold_others_back() -> None:
    link = link_rate()
    for number in range(5):
        link.sent(number, 2000, number / 10)
        link.confirmed(number, 500.02 + number / 10, number / 10 + 0.04)
    link.sent(5, 2000, 0.5)
    assert link.plan(0.6).wait_s == pytest.approx(0.1)  # two intervals after the last one
    assert link.plan(0.71) == (0.0, link.floor_kbps)
    link.sent(6, SMALLEST, 0.71)
    assert link.plan(0.8).wait_s == pytest.approx(0.21)  # then three
    link.confirmed(5, 500.72, 0.75)
    assert link.plan(0.76).kbps < 50  # it took 200 ms: small ones until the next one tells


def test_a_confirmation_that_is_about_to_come_is_waited_for() -> None:
    link = link_rate()
    for number in range(3):
        link.sent(number, 2000, number / 10)
        link.confirmed(number, 500.02 + number / 10, number / 10 + 0.08)
    link.sent(3, 2000, 0.3)
    assert link.plan(0.32).wait_s == 0
    assert 0 < link.plan(0.385).wait_s < 0.03


def test_two_late_frames_give_the_links_rate() -> None:
    link = link_rate()
    for number in range(10):
        link.sent(number, 2500 if number else SMALLEST, number / 10)
        link.confirmed(number, 500.0 + number / 10, number / 10 + 0.02)
    before = link.figures.target_kbps
    # 200 kbit/s take 0.1 s for 2500 bytes: the first one is late by that, the second by 0.1 more.
    link.sent(10, 2500, 1.0)
    link.sent(11, 2500, 1.1)
    link.confirmed(10, 501.1, 1.12)
    assert link.figures.target_kbps == before
    assert link.plan(1.13).kbps == pytest.approx(0.3 * 200)
    link.confirmed(11, 501.3, 1.32)
    assert link.figures.target_kbps <= 0.3 * 200 + 1
    assert link.figures.queueing_ms == 0  # the median of five


def test_a_frame_that_waited_behind_another_does_not_say_that_the_link_is_full() -> None:
    """A segment that was sent again held up two frames, which then came at once."""
    link = link_rate()
    for number in range(10):
        link.sent(number, 2500 if number else SMALLEST, number / 10)
        link.confirmed(number, 500.0 + number / 10, number / 10 + 0.02)
    before = link.figures.target_kbps
    for number in (10, 11):
        link.sent(number, 2500, number / 10)
    for number in (10, 11):
        link.confirmed(number, 501.3 + number / 1e6, 1.32)
    assert link.figures.target_kbps == before


def test_answers_that_do_not_tell_when_change_nothing() -> None:
    link = link_rate()
    for number, arrival in enumerate((None, math.nan, math.inf, -math.inf, 1e300)):
        link.sent(number, 2000, number / 10)
        link.confirmed(number, arrival, number / 10 + 0.05)
    link.confirmed(77, 500.0, 1.0)
    link.lost(77)
    assert link.figures == (type(link.figures))(200.0, 0.0, 0.0, 0.0)


def test_another_connection_begins_anew() -> None:
    link = link_rate()
    for number in range(100):
        link.sent(number, 6000, number / 10)
        link.confirmed(number, 500.0 + number / 10, number / 10 + 0.02)
    assert link.figures.target_kbps > 500
    link.sent(100, 6000, 10.0)
    link.restart()
    assert link.figures.target_kbps == 200
    assert link.plan(10.1) == (0.0, link.floor_kbps)
    link.confirmed(100, 510.0, 10.2)
    assert link.plan(10.2) == (0.0, link.floor_kbps)  # of the connection before


_CAPACITY = st.sampled_from([60, 150, 400, 1000, 3000, None])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(_CAPACITY, min_size=1, max_size=2),
    st.sampled_from([0.002, 0.02, 0.1]),
    st.sampled_from([5.0, 10.0, 20.0]),
    st.booleans(),
    st.integers(0, 100),
)
def test_it_is_never_above_the_link_for_long(
    capacities: list[float | None], delay_s: float, fps: float, tcp: bool, seed: int
) -> None:
    link = Conditions(delay_s=delay_s)
    stream = SimulatedStream(link, fps=fps, tcp=tcp, credits=4, seed=seed)
    for capacity in capacities:
        link.kbps = capacity
        stream.run(6)
        moments = stream.run(4)
        assert moments
        for moment in moments:
            figures = moment.figures
            values = figures.target_kbps, figures.delivered_kbps, figures.queueing_ms, figures.loss
            assert all(math.isfinite(value) for value in values)
            assert figures.target_kbps >= 0.95 * stream.link.floor_kbps
        if capacity is not None:
            later = moments[len(moments) // 2 :]
            assert np.mean([m.figures.target_kbps for m in later]) < 1.3 * capacity
            smallest_ms = 9.5 * 1077 / capacity  # with headers
            assert ages_ms(later, 50) < 1000 * delay_s + 80 + 3 * smallest_ms + 1000 / fps


_EVENT = st.tuples(
    st.sampled_from(["sent", "confirmed", "lost", "plan", "sizes", "restart"]),
    st.integers(0, 5),
    st.one_of(st.none(), st.floats(), st.floats(0, 10)),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_EVENT, max_size=60))
def test_whatever_it_is_told_it_gives_a_plan(events: list[tuple[str, int, float | None]]) -> None:
    link, now_s, number = link_rate(), 0.0, 0
    for kind, back, value in events:
        now_s += 0.03 * back
        if kind == "sent":
            number += 1
            link.sent(number, 500 * back + 1, now_s)
        elif kind == "confirmed":
            link.confirmed(number - back, value, now_s)
        elif kind == "lost":
            link.lost(number - back)
        elif kind == "sizes":
            link.sizes(100 * back, 5000 * back)
        elif kind == "restart":
            link.restart()
        plan, figures = link.plan(now_s), link.figures
        assert 0 <= plan.wait_s <= 1.0 + 1e-9
        assert link.floor_kbps <= plan.kbps < math.inf
        assert all(math.isfinite(v) for v in (figures.delivered_kbps, figures.queueing_ms))
        assert 0 <= figures.loss <= 1


def test_a_confirmation_is_waited_for_until_just_after_it_is_due() -> None:
    """It comes 80 ms after the frame, and 20 ms of grace behind that."""
    link = link_rate()
    for number in range(3):
        link.sent(number, 2000, number / 10)
        link.confirmed(number, 500.0 + number / 10, number / 10 + 0.08)
    link.sent(3, 2000, 0.3)
    due_s = link._due_s()
    wait_s = link.plan(due_s - 0.005).wait_s
    assert wait_s == pytest.approx(0.006)
    assert link.plan(due_s + 0.0001).kbps == link.floor_kbps


def test_a_frame_of_which_nothing_is_heard_while_64_others_go_is_lost() -> None:
    link = link_rate()
    for number in range(64):
        link.sent(number, 2000, number / 10)
    assert link.figures.loss == 0
    link.sent(64, 2000, 6.4)
    assert link.figures.loss == 1
    link.confirmed(0, 506.4, 6.41)
    assert link.figures.loss == 1, "it was given up"
    link.confirmed(1, 506.4, 6.41)
    assert link.figures.loss == 0.5


def test_the_quickest_way_is_that_of_the_last_minute() -> None:
    link = link_rate()

    def queueing_ms(at_s: float, way_s: float) -> float:
        link.sent(round(10 * at_s), 2000, at_s)
        link.confirmed(round(10 * at_s), 500.0 + at_s + way_s, at_s + way_s)
        return 1000 * link._delays[-1]

    assert queueing_ms(0, 0.010) == 0
    assert queueing_ms(30, 0.020) == pytest.approx(10)
    assert queueing_ms(59, 0.025) == pytest.approx(15)
    assert queueing_ms(61, 0.030) == pytest.approx(10)
    assert queueing_ms(91, 0.030) == pytest.approx(5)
