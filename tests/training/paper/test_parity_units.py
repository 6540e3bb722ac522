"""The original's parts on small inputs, ties and borders included. Needs no picture of KITTI."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dsin.runtime.patch_correlation.definition import origins
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.paper.autoencoder import Down, Encoder, Quantiser, Up
from dsin.training.paper.si_finder import (
    Matches,
    SideInformationFinder,
    gather,
    pearson_map,
    to_h_space,
    window_spread,
)
from dsin.training.paper.tf_checkpoint import ORIGINAL_QUIRKS
from dsin.training.presets import AutoencoderConfig, Quirks

PATCH = (20, 24)


@pytest.fixture(scope="module")
def units(golden):
    return golden("units")


@pytest.mark.parametrize("case", ["quant_sorted", "quant_unsorted"])
def test_a_tie_between_centres_takes_the_lowest_index(units, case):
    quantiser = Quantiser(AutoencoderConfig())
    quantiser.centers.data = torch.from_numpy(units[f"{case}/centers"])
    q, symbols = quantiser(torch.from_numpy(units[f"{case}/x"]))
    np.testing.assert_array_equal(symbols, units[f"{case}/symbols"])
    np.testing.assert_allclose(q.detach(), units[f"{case}/qhard"], atol=1e-6)


def test_the_soft_assignment_carries_the_gradient(units):
    quantiser = Quantiser(AutoencoderConfig())
    quantiser.centers.data = torch.from_numpy(units["quant_sorted/centers"])
    z = torch.from_numpy(units["quant_sorted/x"]).requires_grad_()
    distance = (z.unsqueeze(-1) - quantiser.centers).square()
    soft = (torch.softmax(-distance, -1) * quantiser.centers).sum(-1)
    np.testing.assert_allclose(soft.detach(), units["quant_sorted/qsoft"], atol=1e-6)
    (expected,) = torch.autograd.grad(soft.sum(), z, retain_graph=True)
    (through,) = torch.autograd.grad(quantiser(z).q.sum(), z)
    torch.testing.assert_close(through, expected)


def test_a_tie_between_positions_takes_the_first(units):
    score = torch.from_numpy(units["argmax/in"][0].T.copy())
    no_nan = ~score.isnan().any(1)  # correlation maps have none: see the flat patches below
    _, index = score[no_nan].max(1)
    np.testing.assert_array_equal(index, units["argmax/out"][0][no_nan.numpy()])


def test_heatmap_opens_channel_after_channel(units):
    encoder = Encoder(AutoencoderConfig(features=4, blocks=1))
    heatmap = encoder._heatmap(torch.from_numpy(units["heat/in"])[:, :1])
    np.testing.assert_allclose(heatmap, units["heat/out"], atol=1e-6)


def impulse_response(layer: nn.Module, taps: int, length: int, at: int) -> Tensor:
    """Row `at` of the layer's matrix in one dimension, for taps 1, 2, ... along the width."""
    weight = torch.zeros(1, 1, taps, taps)
    weight[0, 0, taps // 2] = torch.arange(1.0, taps + 1)
    layer.conv.weight.data = weight
    x = torch.zeros(1, 1, 8, length)
    x[..., at] = 1
    with torch.no_grad():
        return layer.eval()(x)[0, 0]


def test_strided_convolution_pads_one_before_and_two_after(units):
    layer = Down(1, 1, relu=False, tf_same_padding=True)
    rows = [impulse_response(layer, 5, 8, at)[1] for at in range(8)]
    np.testing.assert_allclose(torch.stack(rows), units["same_conv_s2_k5_n8"], rtol=1e-4)


@pytest.mark.parametrize("taps", [3, 5])
def test_transposed_convolution_crops_more_at_the_end(units, taps):
    layer = Up(1, 1, taps, relu=False, tf_same_padding=True)
    spread = impulse_response(layer, taps, 4, 1)
    row = spread.amax(0)  # the taps lie in one row of the plane, alike wherever the input is lit
    np.testing.assert_allclose(row, units[f"same_tconv_s2_k{taps}"], rtol=1e-4)


def test_by_default_strided_layers_are_centred():
    """The default pads evenly: an impulse at an even pixel meets the middle tap, 3."""
    down = Down(1, 1, relu=False, tf_same_padding=False)
    assert impulse_response(down, 5, 8, 4)[1].tolist() == pytest.approx([0, 5, 3, 1], rel=1e-4)
    up = Up(1, 1, 5, relu=False, tf_same_padding=False)
    row = impulse_response(up, 5, 4, 1).sum(0)
    assert int(row.argmax()) - 2 == 2  # tap 3 of 5 falls on pixel 2 of input position 1


def test_flat_patches_correlate_as_in_the_original(units):
    """Flat white is no constant vector in H space, so the original's maps are finite there."""
    x_dec, y_dec = (
        torch.from_numpy(units[f"flat/{k}"]).permute(0, 3, 1, 2) for k in ("x_dec", "y_dec")
    )
    x, y = to_h_space(x_dec), to_h_space(y_dec)
    unfolded = torch.nn.functional.unfold(x, PATCH, stride=PATCH)
    maps = pearson_map(unfolded[0].T.reshape(-1, 3, *PATCH), y, window_spread(y, PATCH))
    np.testing.assert_allclose(maps.permute(1, 2, 0), units["flat/ncc"][0], atol=1e-5)
    finder = SideInformationFinder(SearchOptions(prior=False, off_centre=True))
    matches = finder.brute_force(x_dec, y_dec)
    np.testing.assert_array_equal(matches.row.flatten(), units["flat/row"][0])
    np.testing.assert_array_equal(matches.col.flatten(), units["flat/col"][0])


def test_a_window_without_variance_correlates_with_nothing():
    """Zero in all three H channels is the mean colour of KITTI."""
    flat, busy = torch.zeros(1, 3, 40, 48), torch.rand(1, 3, 40, 48)
    patch = torch.rand(1, 3, *PATCH)
    assert not pearson_map(patch, flat, window_spread(flat, PATCH)).any()
    assert not pearson_map(torch.zeros_like(patch), busy, window_spread(busy, PATCH)).any()


def test_stretched_patches_are_resampled_as_in_the_original(units):
    image = torch.from_numpy(units["crop/img"]).permute(0, 3, 1, 2)
    rows, cols = (torch.from_numpy(units[f"crop/{k}"]).view(1, 1, -1) for k in ("row", "col"))
    pieces = gather(image, Matches(rows, cols, rows.float()), PATCH, stretched=True)
    pieces = pieces.view(3, 20, -1, 24).permute(2, 1, 3, 0)
    np.testing.assert_allclose(pieces, units["crop/out"], atol=5e-5)


def test_by_default_patches_are_copied(units):
    image = torch.from_numpy(units["crop/img"]).permute(0, 3, 1, 2)
    row, col = torch.tensor([[[13]]]), torch.tensor([[[41]]])
    piece = gather(image, Matches(row, col, row.float()), PATCH, stretched=False)
    torch.testing.assert_close(piece, image[:, :, 13:33, 41:65], rtol=0, atol=0)


def prior_maps(height: int, width: int, *, off_centre: bool) -> Tensor:
    finder = SideInformationFinder(SearchOptions(off_centre=off_centre))
    tops, lefts = (torch.from_numpy(o).long() for o in origins((height, width), PATCH))
    down = finder._prior(tops, height, height - PATCH[0] + 1)[:, None, :, None]
    across = finder._prior(lefts, width, width - PATCH[1] + 1)[None, :, None, :]
    return (down * across).flatten(0, 1)


def test_prior_of_a_320x960_frame(units):
    maps = prior_maps(320, 960, off_centre=True)
    assert tuple(units["mask_320x960/shape"]) == (1, *maps.shape[1:], maps.shape[0])
    some = maps[torch.from_numpy(units["mask_320x960/ids"]), ::7, ::7].permute(1, 2, 0)
    np.testing.assert_allclose(some, units["mask_320x960/patches_stride7"], rtol=3e-7)


def test_by_default_the_prior_peaks_at_the_patchs_own_place():
    maps = prior_maps(80, 96, off_centre=False)
    _, place = maps.flatten(1).max(1)
    own = [(20 * i, 24 * j) for i in range(4) for j in range(4)]
    assert [divmod(int(p), 73) for p in place] == own
    assert maps.flatten(1).amax(1).tolist() == [1.0] * 16


def test_the_original_prior_peaks_one_pixel_right_and_below():
    _, place = prior_maps(80, 96, off_centre=True).flatten(1).max(1)
    inner = {n: divmod(int(p), 73) for n, p in enumerate(place) if n // 4 < 3 and n % 4 < 3}
    assert inner == {n: (20 * (n // 4) + 1, 24 * (n % 4) + 1) for n in inner}


def test_prior_halves_at_a_quarter_of_the_frame():
    maps = prior_maps(80, 96, off_centre=False)
    assert maps[0, 20, 0] == pytest.approx(0.5)
    assert maps[0, 0, 24] == pytest.approx(0.5)


@pytest.mark.parametrize(("prefers_far", "column"), [(False, 24), (True, 72)])
def test_with_l2_the_prior_favours_near_places_unless_the_quirk_is_on(prefers_far, column):
    """Equally distant candidates everywhere: right is the patch's own place."""
    finder = SideInformationFinder(SearchOptions(measure="l2"), l2_prefers_far=prefers_far)
    x = torch.full((1, 3, 20, 96), 200.0)
    y = torch.full((1, 3, 20, 96), 100.0)
    matches = finder.brute_force(x, y)
    assert int(matches.col[0, 0, 1]) == column


def test_all_quirks_are_on_for_the_original_and_off_by_default():
    assert not any(vars(Quirks()).values())
    assert all(vars(ORIGINAL_QUIRKS).values())
