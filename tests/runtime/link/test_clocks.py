"""What the server makes of a camera's clock: offset, drift, steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime.link.clocks import CameraClock, now_ns

MS = 1_000_000
SECOND = 1_000 * MS


class Link:
    """A camera whose clock is set wrong, behind a link of unequal ways; time is simulated."""

    def __init__(self, offset_ns: int = 0, there_ns: int = 2 * MS, back_ns: int = 8 * MS) -> None:
        self.offset_ns, self.there_ns, self.back_ns = offset_ns, there_ns, back_ns
        self.drift_ppm = 0
        self.time_ns = 1_000 * SECOND
        self.clock = CameraClock()

    def camera_ns(self, server_ns: int) -> int:
        return server_ns + self.offset_ns + server_ns * self.drift_ppm // 1_000_000

    def exchange(self) -> None:
        sent = self.time_ns
        received = self.camera_ns(sent + self.there_ns)
        answered = received + MS
        self.time_ns = sent + self.there_ns + MS + self.back_ns
        self.clock.reply(sent, received, answered, self.time_ns)

    def frame(self, way_ns: int | None = None) -> tuple[int, bool]:
        """Send a frame; by how much the server misjudges its time, and whether it is in doubt."""
        captured = self.time_ns
        stamp = self.camera_ns(captured)
        self.time_ns += self.back_ns if way_ns is None else way_ns
        doubt = self.clock.watch(stamp, self.time_ns)
        return self.clock.to_server(stamp, self.time_ns) - captured, doubt


@given(
    offset=st.integers(-(10**18), 10**18),
    there=st.integers(0, SECOND),
    back=st.integers(0, SECOND),
)
def test_the_offset_is_within_its_error_for_ways_of_any_length(
    offset: int, there: int, back: int
) -> None:
    link = Link(offset, there, back)
    link.exchange()
    known = link.clock.offset(link.time_ns)
    assert known is not None
    assert abs(known.ns - offset) <= known.error_ns + 1


def test_the_quickest_exchange_is_believed() -> None:
    link = Link(5 * SECOND, there_ns=100 * MS, back_ns=300 * MS)
    link.exchange()
    link.there_ns = link.back_ns = MS
    link.exchange()
    link.there_ns = 500 * MS
    link.exchange()
    known = link.clock.offset(link.time_ns)
    assert known is not None
    assert abs(known.ns - 5 * SECOND) <= MS


def test_a_drift_of_100_ppm_is_followed_within_2_ms_for_an_hour() -> None:
    link = Link(there_ns=MS, back_ns=MS)
    link.drift_ppm = 100
    worst = 0
    for _ in range(3600):
        link.exchange()
        link.time_ns += SECOND
        error, doubt = link.frame()
        assert not doubt
        worst = max(worst, abs(error))
    assert link.clock.steps == 0
    assert worst < 2 * MS


@pytest.mark.parametrize("step", [5 * SECOND, -5 * SECOND, 100 * MS, -100 * MS, -40 * MS])
def test_a_step_is_never_silent(step: int) -> None:
    """From the first frame after it the clock is in doubt, until an exchange finds it right."""
    link = Link()
    for _ in range(5):
        link.exchange()
        assert not link.frame()[1]
    link.offset_ns += step
    assert link.frame()[1]
    assert link.frame()[1]
    link.exchange()
    error, doubt = link.frame()
    assert not doubt
    assert abs(error) <= 5 * MS
    assert link.clock.steps == 1


def test_a_slow_frame_is_in_doubt_until_an_exchange_shows_that_it_was_the_link() -> None:
    link = Link()
    link.exchange()
    assert not link.frame()[1]
    assert link.frame(way_ns=400 * MS)[1]
    link.exchange()
    assert not link.clock.in_doubt
    assert link.clock.steps == 0


def test_impossible_answers_are_ignored() -> None:
    clock = CameraClock()
    clock.reply(100, 50, 40, 200)  # sent before it was received
    clock.reply(100, 0, 500, 200)  # held for longer than the exchange took
    assert clock.offset() is None


def test_the_own_clock_does_not_run_backwards() -> None:
    times = [now_ns() for _ in range(1000)]
    assert times == sorted(times)


def test_time_that_a_camera_held_the_question_is_no_uncertainty() -> None:
    """Asked at 0, received at 100, answered at 900, back at 1000: 200 under way."""
    clock = CameraClock()
    clock.reply(0, 7_000_100, 7_000_900, 1000)
    assert clock.offset(1000) == (7_000_000, 100)


def test_the_uncertainty_grows_by_200_ppm_and_ten_seconds_are_remembered() -> None:
    clock = CameraClock()
    clock.reply(0, 1 * MS, 1 * MS, 2 * MS)
    assert clock.offset(2 * MS + 5 * SECOND) == (0, 2 * MS)
    assert clock.to_server(77, 2 * MS) == 77
    clock.reply(9 * SECOND, 9 * SECOND + 20 * MS, 9 * SECOND + 20 * MS, 9 * SECOND + 40 * MS)
    assert clock.offset(9 * SECOND + 40 * MS) == (0, 1 * MS + 1_807_600), "the first is better"
    clock.reply(12 * SECOND, 12 * SECOND + 30 * MS, 12 * SECOND + 30 * MS, 12 * SECOND + 60 * MS)
    assert clock.offset(12 * SECOND + 60 * MS) == (0, 20 * MS + 604_000), "the first is forgotten"


@pytest.mark.parametrize(("way_ms", "doubt"), [(33, False), (35, True), (-29, False), (-31, True)])
def test_a_frame_is_doubted_25_ms_beyond_what_is_usual(way_ms: int, doubt: bool) -> None:
    """Usual are 4 ms, and the offset may be 4 ms wrong."""
    clock = CameraClock()
    clock.reply(0, 4 * MS, 4 * MS, 8 * MS)
    assert not clock.watch(4 * MS, 8 * MS)
    assert clock.watch(10 * MS - way_ms * MS, 10 * MS) == doubt
