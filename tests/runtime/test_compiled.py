"""Kernels beside each other on plain threads."""

import threading

import pytest

from dsin.runtime.compiled import bands, crew


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


def test_bands_cover_all_rows_once() -> None:
    assert bands(20, 8) == [range(8), range(8, 16), range(16, 20)]
    assert bands(16, 8) == [range(8), range(8, 16)]
    assert bands(0, 8) == []
