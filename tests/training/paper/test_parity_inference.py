"""The whole path at inference with the original's weights, step by step and end to end.

Cases a (80×96) and b (160×240) start from stored symbols, x_dec and y_dec wherever the step needs
no picture of KITTI; the encoder, the pieces of y and the result need `../shared`.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dsin.runtime.patch_correlation import match
from dsin.training.checkpoint import load_checkpoint, save_checkpoint
from dsin.training.losses import bits_per_pixel, distortion, loss_of
from dsin.training.paper.context_model import bit_cost
from dsin.training.paper.model import Dsin
from dsin.training.paper.si_finder import Matches, gather

CASES = {"case_a": "case_a_80x96", "case_b": "case_b_160x240"}
COST = 1e-3
"""Bits: how far the cost of a single symbol may be off."""
LEVEL = 0.02
"""Grey levels of 255: how far a picture may be off from golden symbols."""
MARGIN = 1e-3
"""A latent nearer than this to the middle of two centres may take either."""


def floats(array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def centres_of(model: Dsin, symbols: npt.NDArray[np.generic]) -> Tensor:
    return model.quantiser.centers[torch.from_numpy(symbols.astype(np.int64))]


def margin(model: Dsin, z: Tensor) -> Tensor:
    """Distance of each latent to the nearest boundary between two centres."""
    nearest = (z.unsqueeze(-1) - model.quantiser.centers).abs().topk(2, largest=False).values
    return (nearest[..., 1] - nearest[..., 0]) / 2


@pytest.mark.parametrize("case", CASES)
def test_bit_costs_from_golden_symbols(original, golden, case):
    stored = golden(case)
    symbols = torch.from_numpy(stored["symbols"].astype(np.int64))
    q = centres_of(original, stored["symbols"])
    logits = original.context(q, original.quantiser.centers[0])
    bits = bit_cost(logits, symbols)
    if "logits" in stored:
        np.testing.assert_allclose(logits, stored["logits"], atol=1e-4)
    np.testing.assert_allclose(bits, stored["bitcost"], atol=COST)
    height, width = stored["x_dec"].shape[2:]
    assert float(bits.sum()) / (height * width) == pytest.approx(float(stored["bpp"]), rel=1e-4)


def test_without_the_quirk_logits_may_be_negative(original, golden):
    stored = golden("case_a")
    q = centres_of(original, stored["symbols"])
    pad = original.quantiser.centers[0]
    with_relu = original.context(q, pad)
    original.context.relu_on_logits = False
    try:
        plain = original.context(q, pad)
    finally:
        original.context.relu_on_logits = True
    assert (plain < 0).any()
    torch.testing.assert_close(plain.clamp_min(0), with_relu)


@pytest.mark.parametrize("case", CASES)
def test_decoder_from_golden_symbols(original, golden, case):
    stored = golden(case)
    x_dec = original.decoder(centres_of(original, stored["symbols"]))
    np.testing.assert_allclose(x_dec, stored["x_dec"], atol=LEVEL)


def test_quantiser_on_the_golden_latent(original, golden):
    stored = golden("case_a")
    _, symbols = original.quantiser(torch.from_numpy(stored["z"]))
    np.testing.assert_array_equal(symbols, stored["symbols"])


def test_prior_is_the_original_one_up_to_rounding(original, golden):
    """Its two factors are rounded to float32 before they are multiplied, not after."""
    down = original.finder._prior(torch.arange(4) * 20, 80, 61)[:, None, :, None]
    across = original.finder._prior(torch.arange(4) * 24, 96, 73)[None, :, None]
    prior = (down * across).flatten(0, 1).permute(1, 2, 0)
    np.testing.assert_allclose(prior, golden("case_a")["mask"][0], rtol=3e-7)


@pytest.mark.parametrize("case", CASES)
def test_patch_positions(original, golden, case):
    stored = golden(case)
    matches = original.finder.brute_force(floats(stored["x_dec"]), floats(stored["y_dec"]))
    np.testing.assert_array_equal(matches.row.flatten(1), stored["row"])
    np.testing.assert_array_equal(matches.col.flatten(1), stored["col"])
    np.testing.assert_allclose(matches.score.flatten(), stored["ncc_max"], atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_whole_path_from_pictures(original, golden_pictures, case):
    """x to symbols and bits, y to y_dec, both to the result."""
    stored = golden_pictures(CASES[case])
    x, y = floats(stored["x"]), floats(stored["y"])
    coded = original.code(x)
    np.testing.assert_allclose(coded.z, stored["z"], atol=1e-3)
    np.testing.assert_allclose(coded.heatmap, stored["heatmap"], atol=1e-3)
    differs = coded.symbols.numpy() != stored["symbols"]
    assert margin(original, coded.z)[torch.from_numpy(differs)].le(MARGIN).all()
    np.testing.assert_allclose(coded.q, stored["qbar"], atol=1e-6)
    np.testing.assert_allclose(coded.bits, stored["bitcost"], atol=COST)
    assert float(bits_per_pixel(coded)) == pytest.approx(float(stored["bpp"]), rel=1e-4)

    fused = original.fuse(coded.x_dec, y)
    np.testing.assert_allclose(fused.y_dec, stored["y_dec"], atol=LEVEL)
    np.testing.assert_allclose(fused.y_syn, stored["y_syn"], atol=1e-3)
    np.testing.assert_allclose(fused.x_hat, stored["x_with_si"], atol=LEVEL)
    loss = loss_of(original, original.preset, x, coded, fused.x_hat)
    assert float(loss.total) == pytest.approx(float(stored["loss_test"]), rel=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_fusion_from_golden_inputs(original, golden_pictures, case):
    stored = golden_pictures(CASES[case])
    x_hat = original.fusion(floats(stored["x_dec"]), floats(stored["y_syn"]))
    np.testing.assert_allclose(x_hat, stored["x_with_si"], atol=LEVEL)


def test_default_copies_patches_and_differs_from_the_stretched(original, golden_pictures):
    """FACTS.md: an integer copy differs by 2.7 to 7.4 grey levels in the mean."""
    stored = golden_pictures("case_a_80x96")
    y = stored["y"][0]
    copy = np.empty(y.shape, np.float32)
    positions = zip(stored["row"][0], stored["col"][0], strict=True)
    for n, (row, col) in enumerate(positions):
        i, j = 20 * (n // 4), 24 * (n % 4)
        copy[:, i : i + 20, j : j + 24] = y[:, row : row + 20, col : col + 24]
    assert 2 < np.abs(copy - stored["y_syn"][0]).mean() < 8


@pytest.mark.slow
def test_the_papers_frame_size(original, golden_pictures):
    """320×1224 from golden symbols; those of x may differ where two centres are equally near.

    The search is the runtime's here, which has to find the same places as the brute force.
    """
    stored = golden_pictures("case_c_320x1224")
    x, y = floats(stored["x"]), floats(stored["y"])
    z = original.encoder(x).z
    _, symbols = original.quantiser(z)
    differs = symbols.numpy() != stored["symbols"]
    assert differs.sum() <= 5
    assert margin(original, z)[torch.from_numpy(differs)].le(MARGIN).all()

    golden_symbols = torch.from_numpy(stored["symbols"].astype(np.int64))
    q = centres_of(original, stored["symbols"])
    bits = bit_cost(original.context(q, original.quantiser.centers[0]), golden_symbols)
    assert float(bits.sum()) / (320 * 1224) == pytest.approx(float(stored["bpp"]), rel=1e-4)

    x_dec, y_dec = original.decoder(q), original.reconstruct(y)
    found = match(*(t[0].permute(1, 2, 0).numpy() for t in (x_dec, y_dec)), off_centre=True)
    np.testing.assert_array_equal(found.row.ravel(), stored["row"][0])
    np.testing.assert_array_equal(found.col.ravel(), stored["col"][0])
    np.testing.assert_allclose(found.score.ravel(), stored["ncc_max"], atol=1e-5)
    matches = Matches(*(torch.from_numpy(part)[None] for part in found))
    y_syn = gather(y, matches, original.preset.search.patch, stretched=True)
    x_hat = original.fusion(x_dec, y_syn).clamp(0, 255)
    expected = stored["x_with_si_clipped_times_256"] / 256
    np.testing.assert_allclose(x_hat, expected, atol=LEVEL)


def test_the_port_on_noise_gives_what_it_gave_when_it_matched_the_original(original, golden):
    """Recorded from this port, for machines without `../shared`: encoder, pieces and fusion."""
    stored = golden("port_on_noise")
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(0, 255, (1, 3, 80, 96))).float() for _ in range(2))
    coded = original.code(x)
    np.testing.assert_allclose(coded.z, stored["z"], atol=1e-3)
    matches = Matches(*(torch.from_numpy(stored[k].astype(np.int64)) for k in ("row", "col")), x)
    fused = original.fuse(original.decoder(centres_of(original, stored["symbols"])), y)
    np.testing.assert_array_equal(fused.matches.row, matches.row)
    np.testing.assert_array_equal(fused.matches.col, matches.col)
    np.testing.assert_allclose(fused.x_hat, stored["x_hat"], atol=LEVEL)


def test_distortion_of_the_golden_pictures(golden_pictures):
    """The original measures MSE and PSNR on pictures truncated to whole levels, MAE on floats."""
    stored = golden_pictures("case_a_80x96")
    x, x_dec = floats(stored["x"]), floats(stored["train/x_dec"])
    assert float(distortion("mae", x, x_dec)) == pytest.approx(float(stored["train/mae"]), rel=1e-4)
    truncated = x_dec.trunc()
    mse, psnr = float(stored["train/mse_int"]), float(stored["train/psnr_int"])
    assert float(distortion("mse", x, truncated)) == pytest.approx(mse, rel=1e-4)
    assert 100 - float(distortion("psnr", x, truncated)) == pytest.approx(psnr, rel=1e-4)


def test_an_imported_model_survives_its_checkpoint(original, tmp_path):
    save_checkpoint(tmp_path / "original.pt", original)
    loaded, _ = load_checkpoint(tmp_path / "original.pt")
    assert loaded.preset == original.preset
    for name, value in original.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
