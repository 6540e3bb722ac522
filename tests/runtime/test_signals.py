"""Signals that end a command: each unwinds what is open, and none for good."""

import signal
from collections.abc import Iterator

import pytest

from dsin.runtime.signals import ENDING, interruptions, on_ending


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As they were."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def current() -> list[object]:
    return [signal.getsignal(number) for number in ENDING]


@pytest.mark.parametrize("number", ENDING)
def test_each_interrupts_what_runs_and_is_noted(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    before = current()
    with pytest.raises(KeyboardInterrupt), interruptions() as came:
        signal.raise_signal(number)
    assert came == [number]
    assert current() == before


def test_what_is_ignored_stays_so() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    with interruptions() as came:
        for number in ENDING:
            signal.raise_signal(number)
    assert (came, set(current())) == ([], {signal.SIG_IGN})


def test_a_service_is_called_for_each() -> None:
    calls: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    on_ending(lambda: calls.append(1))
    for number in ENDING:
        signal.raise_signal(number)
    assert len(calls) == len(ENDING) == 4


def test_a_service_under_nohup_outlives_its_terminal() -> None:
    calls: list[int] = []
    for number in ENDING:  # as a shell leaves SIGINT and SIGQUIT to what runs in the background
        signal.signal(number, signal.SIG_IGN)
    on_ending(lambda: calls.append(1))
    signal.raise_signal(signal.SIGHUP)
    assert calls == []
    for number in ENDING:
        signal.raise_signal(number)
    assert len(calls) == 3
