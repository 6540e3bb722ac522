"""Times of stages: of the monotonic clock, in milliseconds, added up."""

from types import SimpleNamespace

import pytest

from dsin.runtime import stopwatch
from dsin.runtime.stopwatch import Stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """On a clock that is read at 1, 3, 10 and 11.5 ms."""
    clock = iter([1_000_000, 3_000_000, 10_000_000, 11_500_000])
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter_ns=lambda: next(clock)))
    return Stopwatch()


def test_a_stage_that_runs_twice_adds_up(watch: Stopwatch) -> None:
    for _ in range(2):
        with watch.stage("search"):
            pass
    assert watch.ms == {"search": 3.5}


def test_stages_are_apart_and_one_that_fails_is_timed_too(watch: Stopwatch) -> None:
    with watch.stage("search"):
        pass
    with pytest.raises(ValueError, match="no"), watch.stage("fusion"):
        raise ValueError("no")
    assert watch.ms == {"search": 2.0, "fusion": 1.5}
