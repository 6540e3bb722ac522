"""Signals as wishes: noted once, then acted upon as before."""

import signal
from collections.abc import Iterator

import pytest

from dsin.training.interrupts import Interrupts


@pytest.fixture(autouse=True)
def an_interrupt_raises() -> Iterator[None]:
    """As it does unless whoever started the tests had it ignored, as a shell does behind `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_only_noted_and_the_second_acts_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert interrupts.received is None
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received == signal.SIGINT
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_leaving_ends_as_the_signal_would_have() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        interrupts.leave()
    assert left.value.code == 128 + 15
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.leave()
