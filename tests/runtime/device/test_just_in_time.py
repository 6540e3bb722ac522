"""A frame is taken so late that it does not grow old at the server, and never too late."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rig_fakes import fake_device, fake_server

from dsin.runtime.device.device import AnsweredFrame
from dsin.runtime.device.just_in_time import MOST_MS, REMEMBERED, RESERVE_MS, JustInTime


def test_the_next_frame_is_held_for_the_decoding_less_its_way_and_a_reserve() -> None:
    timing = JustInTime()
    timing.answered(round_trip_ms=100 + 30 + 60, decode_ms=100, waited_ms=60, now_s=5.0)
    assert timing.due_s == pytest.approx(5.0 + (100 - 30 - 15) / 1000)


@given(
    st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500)), min_size=1, max_size=20),
)
def test_it_is_in_time_even_if_the_next_decoding_is_the_quickest_and_its_way_the_longest(
    answers: list[tuple[float, float]],
) -> None:
    timing = JustInTime()
    for way_ms, decode_ms in answers:
        timing.answered(way_ms + decode_ms, decode_ms, 0.0, now_s=0.0)
    last = answers[-REMEMBERED:]
    way_ms, decode_ms = max(way for way, _ in last), min(decode for _, decode in last)
    arrives_ms = 1000 * timing.due_s + way_ms
    assert arrives_ms <= max(way_ms, decode_ms - RESERVE_MS) + 1e-6


def test_before_the_first_answer_nothing_is_held() -> None:
    assert JustInTime().due_s < time.monotonic()


@pytest.mark.parametrize("decode_ms", [1e30, float("inf"), float("nan")])
def test_a_server_that_talks_nonsense_holds_nothing_for_long(decode_ms: float) -> None:
    timing = JustInTime()
    for _ in range(REMEMBERED):
        timing.answered(50.0, decode_ms, 0.0, now_s=0.0)
    assert timing.due_s <= MOST_MS / 1000


def slow_server_answers() -> list[AnsweredFrame]:
    answers: list[AnsweredFrame] = []
    with fake_server(decode_s=0.1) as server:
        device = fake_device(server.address, fps=100, count=None, answers=answers)
        time.sleep(2.5)
        device.stop()
    return answers


def test_a_slow_server_gets_as_many_frames_and_younger_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed = slow_server_answers()
    monkeypatch.setattr(JustInTime, "answered", lambda *arguments: None)
    at_once = slow_server_answers()
    assert len(timed) > 2 / 3 * len(at_once)
    ages_ms = [np.median([answer.age_ms for answer in some[10:]]) for some in (timed, at_once)]
    assert ages_ms[0] < 0.85 * ages_ms[1]
