"""Kernels beside each other on plain threads."""

import threading
import time
from concurrent.futures import Future

import pytest

from dsin.runtime import compiled
from dsin.runtime.compiled import MAX_THREADS, Team, bands, crew


@pytest.mark.parametrize("threads", [1, 3, None])
def test_a_crew_does_every_part_before_it_goes_on(threads: int | None) -> None:
    done: list[int] = []
    with crew(threads) as share:
        share(done.append, range(20))
        assert sorted(done) == list(range(20))
        share(done.append, range(20, 23))
    assert sorted(done) == list(range(23))


def test_a_crew_works_side_by_side() -> None:
    meet = threading.Barrier(2, timeout=30)
    with crew(2) as share:
        share(lambda _: meet.wait(), range(2))
    assert not meet.broken


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_part_raises_comes_out(threads: int) -> None:
    def work(part: int) -> None:
        if part == 2:
            raise ValueError("the third one")

    with pytest.raises(ValueError, match="third"), crew(threads) as share:
        share(work, range(4))


@pytest.mark.parametrize("threads", [1, 3, None])
def test_a_team_does_every_task_before_it_goes_on(threads: int | None) -> None:
    team, done = Team(threads), []
    for _ in range(3):
        team.share(done.append)
        assert sorted(done) == list(range(team.count))
        done.clear()


def test_a_team_works_side_by_side_and_has_a_limit() -> None:
    meet, team = threading.Barrier(2, timeout=30), Team(2)
    team.share(lambda _: meet.wait())
    assert not meet.broken
    assert Team(MAX_THREADS + 1).count == MAX_THREADS


@pytest.mark.parametrize("failing", [0, 1])
def test_what_a_task_raises_comes_out_when_all_are_done(failing: int) -> None:
    done: list[int] = []

    def work(task: int) -> None:
        if task == failing:
            raise ValueError(f"number {task}")
        time.sleep(0.05)
        done.append(task)

    with pytest.raises(ValueError, match=f"number {failing}"):
        Team(2).share(work)
    assert done == [1 - failing]


def test_who_never_gets_a_core_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.ThreadPoolExecutor, "submit", lambda *_: Future())
    done: list[int] = []
    Team(3).share(done.append)
    assert done == [0, 1, 2]
    done.clear()
    with crew(3) as share:
        share(done.append, range(4))
    assert done == [0, 1, 2, 3]


def test_bands_cover_all_rows_once() -> None:
    assert bands(20, 8) == [range(8), range(8, 16), range(16, 20)]
    assert bands(16, 8) == [range(8), range(8, 16)]
    assert bands(0, 8) == []
