"""MS-SSIM in float64 is that of training, which has gradients, and of the paper's definition."""

import numpy as np
import pytest
import torch
from conftest import textured_pair

from dsin.runtime.evaluation.similarity import MIN_SIDE, similarity
from dsin.training.data import to_tensor
from dsin.training.losses import MIN_MS_SSIM_SIDE, ms_ssim


@pytest.mark.parametrize("size", [(161, 161), (176, 192), (187, 203), (162, 321)])
@pytest.mark.parametrize("noise", [3, 40])
def test_it_is_what_training_optimises(size: tuple[int, int], noise: int) -> None:
    x, _ = textured_pair(*size, seed=noise)
    rng = np.random.default_rng(noise)
    y = np.clip(x + rng.normal(0, noise, x.shape), 0, 255).astype(np.uint8)
    with torch.no_grad():
        expected = float(ms_ssim(to_tensor(x)[None], to_tensor(y)[None]))
    assert similarity(y, x) == pytest.approx(expected, abs=1e-4)
    assert expected < 0.999


def test_identical_pictures_are_one_and_inverted_ones_nothing() -> None:
    x, _ = textured_pair(176, 192, 1)
    assert similarity(x, x) == pytest.approx(1, abs=1e-12)
    assert similarity(255 - x, x) == 0


def test_small_pictures_have_none() -> None:
    x, _ = textured_pair(160, 300, 1)
    assert similarity(x, x) is None
    assert MIN_SIDE == MIN_MS_SSIM_SIDE
