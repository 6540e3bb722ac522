"""The terms of the loss on numbers that can be checked by hand."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from dsin.runtime.errors import FrameError
from dsin.training.losses import bits_per_pixel, distortion, loss_of, ms_ssim, psnr_db
from dsin.training.paper.context_model import bit_cost
from dsin.training.paper.model import Coded, Dsin
from dsin.training.presets import LossConfig, Preset


def flat(value: float, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.full((1, 3, *size), float(value))


def coded_with(bits: float, heatmap: float) -> Coded:
    """A 16×16 image of grey 100 whose 2×2×32 symbols cost `bits` each."""
    shape = (1, 32, 2, 2)
    z = torch.zeros(shape)
    return Coded(z, z + heatmap, z, z.long(), z + bits, flat(100))


@pytest.fixture(scope="module")
def model(tiny_preset) -> Dsin:
    return Dsin(tiny_preset).requires_grad_(False)


def with_loss(preset: Preset, **changes: object) -> Preset:
    return dataclasses.replace(preset, loss=LossConfig(**changes))  # type: ignore[arg-type]


def test_distortions_of_a_constant_error_of_ten():
    x, reconstruction = flat(100), flat(110)
    assert distortion("mae", x, reconstruction).item() == 10
    assert distortion("mse", x, reconstruction).item() == 100
    expected = 10 * math.log10(255**2 / 100)
    assert psnr_db(x, reconstruction).item() == pytest.approx(expected)
    assert distortion("psnr", x, reconstruction).item() == pytest.approx(100 - expected)


def test_every_distortion_is_least_for_the_image_itself():
    x = torch.rand(1, 3, 176, 176) * 255
    for kind in ("mae", "mse", "psnr", "ms_ssim"):
        worse = (x + 20 * torch.randn_like(x)).requires_grad_()
        value = distortion(kind, x, worse)
        assert distortion(kind, x, x) < value
        (gradient,) = torch.autograd.grad(value, worse)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_psnr_is_per_image():
    x = torch.cat([flat(100), flat(100)])
    reconstruction = torch.cat([flat(101), flat(110)])
    assert psnr_db(x, reconstruction).tolist() == pytest.approx([48.1308, 28.1308], abs=1e-3)


def test_ms_ssim_is_one_for_equal_pictures_and_refuses_small_ones():
    x = torch.rand(2, 3, 161, 170) * 255
    assert ms_ssim(x, x).item() == pytest.approx(1)
    with pytest.raises(FrameError, match="161 pixels a side, not 160x170"):
        ms_ssim(x[:, :, :160], x[:, :, :160])


def test_ms_ssim_of_a_coarsened_pattern():
    """As an implementation in NumPy and float64 gives it; weights the other way round: 0.99198."""
    i, j, c = np.indices((176, 192, 3))
    pattern = (i * i + 3 * j * (c + 1) + i * j // 16) % 256
    squares = 40 * ((i // 32 + j // 24) % 2)
    x = (128 + (pattern - 128) // 2 + squares).clip(0, 255).astype(np.uint8)
    y = (x // 24 * 24 + 8 + i // 8 % 7).astype(np.uint8)
    pair = (torch.from_numpy(a.transpose(2, 0, 1).copy()).float()[None] for a in (x, y))
    assert ms_ssim(*pair).item() == pytest.approx(0.9933543, abs=2e-6)


@pytest.mark.slow
def test_ms_ssim_of_jpeg_is_what_the_rivals_were_measured_with(shared):
    """The baselines' mean over the 19 validation images, to the last stored digits."""
    if shared is None:
        pytest.skip("the validation images lie in ../shared, which is absent")
    import json

    from dsin.runtime.picture_files import read_image
    from dsin.runtime.pictures import centre_crop
    from dsin.training.data import to_tensor

    root = shared / "data" / "kitti"
    stored = json.loads((shared / "baselines" / "rate_distortion_val.json").read_text())
    expected_bpp, expected_psnr, expected = stored["mean"]["jpeg"]["7"]
    figures = []
    for name in (root / "val.txt").read_text().split()[::2]:
        x = centre_crop(read_image(root / name), (320, 1224))
        options = [cv2.IMWRITE_JPEG_QUALITY, 7, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        _, data = cv2.imencode(".jpg", x[:, :, ::-1], options)
        y = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        pair = to_tensor(x)[None], to_tensor(y)[None]
        bpp = 8 * data.size / (320 * 1224)
        figures.append((bpp, psnr_db(*pair).item(), ms_ssim(*pair).item()))
    bpp, psnr, similarity = np.mean(figures, axis=0)
    # Encoders differ between builds of libjpeg, so the rate is the loosest.
    assert bpp == pytest.approx(expected_bpp, rel=0.01)
    assert psnr == pytest.approx(expected_psnr, abs=0.02)
    assert similarity == pytest.approx(expected, abs=2e-4)


def test_bit_cost_is_cross_entropy_in_bits():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25]], [[0.125, 0.125, 0.75]]]))
    symbols = torch.tensor([[0], [1]])
    assert bit_cost(logits, symbols).flatten().tolist() == pytest.approx([1, 3])


def test_bits_per_pixel_counts_every_symbol():
    assert bits_per_pixel(coded_with(bits=2, heatmap=0.5)).item() == 2 * 128 / 256


def test_total_adds_up(model):
    """0.02 bpp are 0.04 bits per symbol; H is the mean of 3 and of half of it."""
    preset = with_loss(model.preset, regularise_autoencoder=0, regularise_centers=0)
    loss = loss_of(model, preset, flat(104), coded_with(bits=3, heatmap=0.5), flat(106))
    assert (loss.entropy_real.item(), loss.entropy_masked.item()) == (3, 1.5)
    assert loss.rate.item() == pytest.approx(500 * (2.25 - 0.04))
    assert loss.total.item() == pytest.approx(0.3 * 4 + 0.7 * 2 + 500 * 2.21)


def test_the_hinge_is_silent_below_the_target(model):
    loss = loss_of(model, model.preset, flat(100), coded_with(bits=0.03, heatmap=0.5), None)
    assert loss.rate.item() == 0


def test_without_side_information_x_dec_carries_the_whole_distortion(model):
    preset = with_loss(
        model.preset, regularise_autoencoder=0, regularise_centers=0, distortion="mse"
    )
    loss = loss_of(model, preset, flat(104), coded_with(bits=0, heatmap=1), None)
    assert loss.total.item() == 16
    assert loss.x_hat.item() == 0


def test_regularisers_are_half_the_squares(model):
    preset = with_loss(model.preset, regularise_autoencoder=0, regularise_centers=0.1)
    loss = loss_of(model, preset, flat(100), coded_with(bits=0, heatmap=1), None)
    squares = float(model.quantiser.centers.square().sum())
    assert loss.total.item() == pytest.approx(0.1 * 0.5 * squares)
