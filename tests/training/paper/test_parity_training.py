"""Training mode with the original's weights: losses, gradients, moving statistics, three steps.

What is compared with the original starts from KITTI crops, so it needs `../shared`. The
regularisers, and what was recorded from this port when it gave the original's figures, do not.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dsin.training.losses import loss_of, regularisation
from dsin.training.paper.model import Dsin
from dsin.training.paper.tf_checkpoint import original_names
from dsin.training.presets import Quirks

CASES = ["case_a_80x96", pytest.param("case_b_160x240", marks=pytest.mark.slow)]


def trainable(original: Dsin) -> Dsin:
    return copy.deepcopy(original).train().requires_grad_(True)


def pictures(stored) -> tuple[Tensor, Tensor]:
    x, y = (torch.from_numpy(stored[k]).float() for k in ("x", "y"))
    return x, y


def losses(model: Dsin, x: Tensor, y: Tensor):
    y_dec = model.reconstruct(y)  # before x moves the statistics
    coded = model.code(x)
    fused = model.fuse(coded.x_dec, y, y_dec)
    return loss_of(model, model.preset, x, coded, fused.x_hat), coded, fused


@pytest.mark.parametrize("case", CASES)
def test_one_pass_in_training_mode(original, golden_pictures, case):
    stored = golden_pictures(case)
    golden = {k.removeprefix("train/"): v for k, v in stored.items() if k.startswith("train/")}
    model = trainable(original)
    loss, coded, fused = losses(model, *pictures(stored))
    loss.total.backward()

    np.testing.assert_array_equal(coded.symbols, golden["symbols"])
    np.testing.assert_array_equal(fused.matches.row.flatten(1), golden["row"])
    np.testing.assert_array_equal(fused.matches.col.flatten(1), golden["col"])
    np.testing.assert_allclose(coded.x_dec.detach(), golden["x_dec"], atol=0.02)
    np.testing.assert_allclose(fused.x_hat.detach(), golden["x_with_si"], atol=0.02)

    terms = {
        "loss_train": loss.total,
        "mae": loss.x_dec,
        "siNet_mae": loss.x_hat,
        "pc_loss": loss.rate,
        "H_real": loss.entropy_real,
        "H_mask": loss.entropy_masked,
        "bpp_train": loss.bpp,
    }
    for name, value in terms.items():
        assert value.item() == pytest.approx(float(golden[name]), rel=1e-4), name
    assert loss.regularisation.item() == float(golden["reg_enc_dec"]) == 0

    names = original_names(model)
    parameters = dict(model.named_parameters())
    norms = {k: golden[f"grad_l2/{names[k]}"] for k in parameters}
    for name, norm in norms.items():
        gradient = parameters[name].grad
        assert gradient is not None
        assert gradient.norm().item() == pytest.approx(float(norm), rel=1e-3), name

    state = model.state_dict()
    moved = {k: f"moving_after/{n}" for k, n in names.items() if f"moving_after/{n}" in golden}
    assert len(moved) == 8
    for name, key in moved.items():
        np.testing.assert_allclose(state[name], golden[key], rtol=1e-5, atol=1e-5)


def test_one_pass_on_noise_gives_what_it_gave_when_it_matched_the_original(original):
    """Losses and norms of gradients of each part."""
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(0, 255, (1, 3, 80, 96))).float() for _ in range(2))
    model = trainable(original)
    loss, _, _ = losses(model, x, y)
    loss.total.backward()
    found = {name: value.item() for name, value in loss._asdict().items()}
    expected = {
        "total": 1311.5613, "x_dec": 85.324501, "x_hat": 66.875923, "rate": 1239.1508,
        "regularisation": 0.0, "entropy_real": 3.3356066, "entropy_masked": 1.7009963,
        "bpp": 1.6678033,
    }  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-4)
    parameters = dict(model.named_parameters())
    for name, norm in {
        "encoder.h1.conv.weight": 137.66223, "decoder.h13.conv.weight": 4.1017041,
        "context.logits.weight": 5504.0938, "quantiser.centers": 0.11848405,
    }.items():  # fmt: skip
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-3), name


def test_three_steps_of_the_optimiser(original, golden_pictures):
    """Loosely: rounding grows from step to step, and epsilon has another place in torch."""
    stored = golden_pictures("case_a_80x96")
    golden = golden_pictures("train_three_steps")
    x, y = pictures(stored)
    model = trainable(original)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    for step in range(3):
        optimiser.zero_grad()
        loss, _, _ = losses(model, x, y)
        loss.total.backward()
        optimiser.step()
        assert loss.total.item() == pytest.approx(float(golden["loss"][step]), rel=3e-4)
        assert loss.bpp.item() == pytest.approx(float(golden["bpp"][step]), rel=1e-3)
    after = model.state_dict()
    moved = {k: n for k, n in original_names(model).items() if f"l2_delta/{n}" in golden}
    for key, name in moved.items():
        change = (after[key] - before[key]).norm().item()
        assert change == pytest.approx(float(golden[f"l2_delta/{name}"]), rel=0.02), name

    model.eval()
    with torch.no_grad():
        coded = model.code(x)
        total = loss_of(model, model.preset, x, coded, model.fuse(coded.x_dec, y).x_hat).total
    assert total.item() == pytest.approx(float(golden["loss_test_after"]), rel=1e-2)


def test_regularisers_sum_to_what_the_original_collects(original):
    """71 terms, 46.58 (FACTS.md, section 7); the original then leaves them out of the loss."""
    assert regularisation(original, original.preset.loss).item() == pytest.approx(
        46.583973, rel=1e-5
    )


@pytest.mark.parametrize(("dropped", "expected"), [(True, 0.0), (False, 46.583973)])
def test_by_default_the_regularisers_reach_the_loss(original, dropped, expected):
    quirks = dataclasses.replace(Quirks(), regularisers_dropped=dropped)
    preset = dataclasses.replace(original.preset, quirks=quirks)
    x = torch.full((1, 3, 80, 96), 128.0)
    coded = original.code(x)
    loss = loss_of(original, preset, x, coded, None)
    assert loss.regularisation.item() == pytest.approx(expected, rel=1e-5)
    rest = loss.x_dec + loss.rate
    assert (loss.total - rest).item() == pytest.approx(expected, abs=1e-3)


def test_the_rate_reaches_the_encoder_only_through_the_heatmap(original):
    """The context model's input is cut off from the graph (FACTS.md, section 7)."""
    model = trainable(original)
    coded = model.code(torch.rand(1, 3, 80, 96) * 255)
    assert coded.bits.requires_grad
    (by_bits,) = torch.autograd.grad(
        coded.bits.sum(), model.encoder.to_bn.conv.weight, retain_graph=True, allow_unused=True
    )
    (by_heatmap,) = torch.autograd.grad(
        (coded.bits.detach() * coded.heatmap).sum(), model.encoder.to_bn.conv.weight
    )
    assert by_bits is None
    assert by_heatmap[0].any()
    assert not by_heatmap[1:].any()
