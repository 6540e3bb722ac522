"""Loss as the sender learns it: none is none, some is cautious, old loss is forgotten."""

import random
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.datagrams.loss import (
    BURST,
    LEAST,
    MOST,
    REMEMBERED_S,
    SETTLED_S,
    LossMeter,
    Settled,
)
from dsin.runtime.datagrams.sealing import WINDOW, ReplayWindow


def run(
    meter: LossMeter, count: int, loss: float, start: int = 0, came: int = 0
) -> tuple[int, int]:
    chance = random.Random(count)
    for sent in range(start + 1, start + count + 1):
        came += chance.random() >= loss
        meter.report(sent, came, sent / 30)
    return start + count, came


def test_without_loss_there_is_none_to_be_prepared_for() -> None:
    meter = LossMeter()
    assert (meter.loss, meter.cautious) == (0, 0)
    run(meter, 500, 0.0)
    assert (meter.loss, meter.cautious, meter.lost) == (0, 0, 0)


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_loss_is_measured_and_forgotten(loss: float) -> None:
    meter = LossMeter()
    state = run(meter, 2000, loss)
    assert loss / 2 < meter.loss < 2 * loss
    assert meter.loss < meter.cautious
    run(meter, MOST + LEAST + round(30 * REMEMBERED_S), 0.0, *state)
    assert (meter.loss, meter.cautious) == (0, 0)


def test_what_comes_late_after_all_is_no_loss() -> None:
    meter = LossMeter()
    meter.report(10, 9)
    assert meter.loss == pytest.approx(0.1)
    meter.report(10, 10)
    assert meter.loss == 0


def test_impossible_and_older_reports_are_ignored() -> None:
    meter = LossMeter()
    meter.report(100, 90)
    for sent, came in ((50, 50), (100, 80), (110, 111)):
        meter.report(sent, came)
    assert meter.loss == pytest.approx(0.1)
    assert len(meter._reports) < 10


def test_what_is_only_late_is_not_lost() -> None:
    window = ReplayWindow()
    settled = Settled(window)
    for sequence in (0, 1, 3):
        window.add(sequence)
    assert settled.counts(0.0) == (0, 0)
    window.add(2)
    assert settled.counts(SETTLED_S) == (4, 4)
    window.add(6)
    settled.counts(1.0)
    assert settled.counts(1.0 + 2 * SETTLED_S) == (7, 5)


def test_a_flood_of_datagrams_settles_before_the_window_forgets() -> None:
    window = ReplayWindow()
    settled = Settled(window)
    for sequence in range(5 * WINDOW):
        if sequence % 4:
            window.add(sequence)
            sent, came = settled.counts(0.0)
    assert sent >= 4 * WINDOW
    assert came / sent == pytest.approx(0.75, abs=0.001)
    before = settled.counts(0.0)
    window.add(100 * WINDOW)
    sent, came = settled.counts(0.0)
    assert before[0] <= sent <= 5 * WINDOW
    assert came <= sent


def test_a_burst_that_was_only_held_up_does_no_harm() -> None:
    window, meter = ReplayWindow(), LossMeter()
    settled = Settled(window)
    for sequence in (*range(10), *range(30, 40), *range(10, 30), *range(40, 60)):
        window.add(sequence)
        meter.report(*settled.counts(sequence / 10), sequence / 10)
    assert meter.loss == 0
    assert settled.counts(100.0) == (60, 60)


@given(st.lists(st.booleans(), max_size=100), st.integers(0, 5))
def test_bursts_are_left_out_and_all_else_is_counted(came: list[bool], step: int) -> None:
    window = ReplayWindow()
    settled = Settled(window)
    course = [*came, True]
    last = (0, 0)
    for sequence, there in enumerate(course):
        if there:
            window.add(sequence)
            now = settled.counts(sequence * step / 20)
            assert now[0] >= last[0]
            assert now[0] >= now[1] >= last[1]
            last = now
    runs = [len(list(group)) for there, group in groupby(course) if not there]
    sent, received = settled.counts(100.0)
    assert received == sum(course)
    assert sent - received == sum(run for run in runs if run < BURST)
    assert settled.bursts == sum(run for run in runs if run >= BURST)
