"""Rate control: the link's budget is used, whatever the scene costs."""

import numpy as np
import pytest

from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.errors import DsinError

POINTS = [0.0163, 0.0258, 0.0403, 0.0603, 0.0852, 0.1144, 0.1489, 0.1884]
PIXELS = 1242 * 375
FPS = 10


def stream(target_kbps: float, scene: np.ndarray) -> np.ndarray:
    """kbit/s in every window of two seconds; `scene` says how costly each frame is."""
    control = RateController(POINTS, pixels=PIXELS, target_kbps=target_kbps, fps=FPS)
    sizes = []
    for factor in scene:
        rate = control.next_rate()
        sizes.append(POINTS[rate] * PIXELS / 8 * factor)
        control.sent(rate, round(sizes[-1]))
    return np.convolve(sizes, np.ones(2 * FPS), "valid") * 8 / 2 / 1000


@pytest.mark.parametrize("target", [120, 300, 700])
@pytest.mark.parametrize("level", [0.8, 1.0, 1.1])
def test_the_target_is_met_over_two_seconds(target: float, level: float) -> None:
    rng = np.random.default_rng(0)
    scene = level * np.exp(rng.normal(0, 0.03, 100))
    assert np.abs(stream(target, scene)[FPS:] / target - 1).max() < 0.05


def test_a_change_of_scene_is_followed() -> None:
    scene = np.repeat([0.7, 1.4], 60)
    rates = stream(300, scene)
    assert np.abs(rates[-30:] / 300 - 1).max() < 0.05


def test_beyond_the_rates_the_nearest_serves() -> None:
    low, high = (
        RateController(POINTS, pixels=PIXELS, target_kbps=t, fps=FPS) for t in (1, 100_000)
    )
    assert (low.next_rate(), high.next_rate()) == (0, len(POINTS) - 1)


def test_an_impossible_target_is_refused() -> None:
    with pytest.raises(DsinError, match="above 0"):
        RateController(POINTS, pixels=PIXELS, target_kbps=0, fps=FPS)


def test_the_budget_follows_the_pace() -> None:
    """Points of 1000, 2000 and 4000 bytes; 160 kbit/s are 2000 bytes at 10 frames a second."""
    control = RateController([0.1, 0.2, 0.4], pixels=80_000, target_kbps=160, fps=10)
    found = []
    for fps in (10, 5, 20, 10):
        control.pace(fps)
        found.append(control.next_rate())
    assert found == [1, 2, 0, 1]


def test_what_is_chosen_for_a_scene_that_changes() -> None:
    """The rates by hand for the first frames: wanted is the budget and what was saved over 1.5
    frames; half of a surprise is learnt at its own point, a quarter at its neighbours."""
    control = RateController([0.1, 0.2, 0.4], pixels=80_000, target_kbps=160, fps=10)
    control.sent(1, 3000)  # 1000 too many: 1333 wanted, 1125, 2500 and 4500 predicted
    assert control.next_rate() == 0
    control.sent(0, 500)  # 500 saved: 2333 wanted
    assert control._saved == 500
    assert control._factors == pytest.approx([0.8125, 1.0625, 1.020833])
    assert control.next_rate() == 1


def test_an_excess_is_made_good_over_one_and_a_half_frames() -> None:
    """Points every 20 bytes around a budget of 2000; 300 too many leave 1800 for the next one, and
    1780 are predicted to be 1791, 1800 to be 1812."""
    points = [(1000 + 20 * n) / 10_000 for n in range(101)]
    control = RateController(points, pixels=80_000, target_kbps=160, fps=10)
    assert control.next_rate() == 50
    control.sent(50, 2300)
    assert control.next_rate() == 39


def test_another_aim_forgets_most_of_what_was_saved() -> None:
    """Points of 1000, 2000 and 4000 bytes. 80 kbit/s are 1000 bytes at 10 frames a second."""
    control = RateController([0.1, 0.2, 0.4], pixels=80_000, target_kbps=320, fps=10)
    assert control.predicted_sizes == [1000, 2000, 4000]
    for _ in range(5):
        control.sent(0, 1000)  # 3000 saved each time
    control.aim(80)
    assert control.target_kbps == 80
    assert control._saved == 250
    assert control.next_rate() == 0
    control.aim(160)
    assert control.next_rate() == 1
    control.sent(1, 9000)
    control.aim(160)
    assert control._saved == -500


def test_frames_that_took_over_most_of_each_other_keep_their_rate() -> None:
    """Points of 1000, 2000 and 4000 bytes; 160 kbit/s are 2000 bytes at 10 frames a second."""
    control = RateController([0.1, 0.2, 0.4], pixels=80_000, target_kbps=160, fps=10)
    control.sent(1, 2600)
    assert (control.next_rate(), control.next_rate(held=1)) == (0, 1)
    predicted = control.predicted_sizes
    for _ in range(50):
        control.spared(60)
    assert control.predicted_sizes == predicted, "small frames tell nothing of their rate"
    assert control._saved == 1000, "no burst after a long stand"
    assert (control.next_rate(held=0), control.next_rate(held=1)) == (1, 1)
    control.aim(50)  # 625 bytes
    assert control.next_rate(held=1) == 0


def test_where_the_lowest_rate_is_too_much_frames_become_rarer() -> None:
    """Frames of 1000 bytes at least; 20 kbit/s are 250 at 10 frames a second."""
    control = RateController([0.1, 0.2, 0.4], pixels=80_000, target_kbps=20, fps=10)
    assert (control.least_kbps, control.pause_s) == (80, 0)
    control.sent(0, 1000)
    assert control.pause_s == pytest.approx(0.1), "750 bytes overdrawn, of which 500 may be"
    seconds = 0.0
    for _ in range(20):
        seconds += 1 / FPS + control.pause_s
        control.paused(control.pause_s)
        assert control.next_rate() == 0
        control.sent(0, 1000)
    assert 20 * 8 / seconds == pytest.approx(20, rel=0.05)


def test_an_easy_scene_is_no_reason_for_a_long_burst() -> None:
    control = RateController([0.1], pixels=80_000, target_kbps=160, fps=10)
    for _ in range(100):
        control.sent(0, 1000)
    assert control._saved == 4000
