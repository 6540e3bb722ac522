"""The error that the look `sharp` is trained by: what is flat where the scene is not costs."""

import numpy as np
import pytest
import torch

from dsin.runtime.errors import FrameError
from dsin.training.edge.appearance import appearance_error_of_each, texture_error_of_each
from dsin.training.losses import ms_ssim_of_each


def noise(seed: int, deviation: float) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(128 + deviation * rng.standard_normal((1, 3, 192, 192))).float()


def test_equal_pictures_cost_nothing() -> None:
    x = noise(0, 10)
    assert float(appearance_error_of_each(x, x)) == pytest.approx(0, abs=1e-3)


def test_other_grain_of_the_same_strength_costs_less_than_none() -> None:
    x, other, flat = noise(0, 6), noise(1, 6), noise(2, 0)
    assert float(texture_error_of_each(x, other)) < 0.1 * float(texture_error_of_each(x, flat))


def test_the_strength_of_detail_is_a_standard_deviation_in_grey_levels() -> None:
    # A mean over 3×3 takes a ninth of white noise: the rest has sqrt(8/9) of its deviation.
    x, flat = noise(0, 10), noise(2, 0)
    halved = [10.0 / 2**scale for scale in range(3)]
    expected = np.mean([(np.sqrt(8 / 9 * d**2 + 1) - 1) ** 2 for d in halved])
    assert float(texture_error_of_each(x, flat)) == pytest.approx(expected, rel=0.1)


def test_each_picture_of_a_batch_counts_by_itself() -> None:
    x, worse = torch.cat([noise(0, 6), noise(1, 6)]), torch.cat([noise(0, 6), noise(1, 3)])
    errors = appearance_error_of_each(x, worse)
    assert errors.shape == (2,)
    assert errors[0] < 1e-3 < errors[1]


def test_small_pictures_are_refused() -> None:
    with pytest.raises(FrameError, match="161"):
        appearance_error_of_each(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))


def test_what_each_part_counts() -> None:
    """Half of the squares, 1200 for what MS-SSIM lacks, and one and a half of the textures'."""
    x, picture = noise(0, 10), noise(1, 8)
    squares = float((x - picture).square().mean())
    structure = 1 - float(ms_ssim_of_each(x, picture))
    texture = float(texture_error_of_each(x, picture))
    assert texture > 1
    expected = 0.5 * squares + 1200 * structure + 1.5 * texture
    assert float(appearance_error_of_each(x, picture)) == pytest.approx(expected, rel=1e-5)
