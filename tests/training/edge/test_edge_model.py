"""The `edge` codec's networks: sizes that fit a small chip, and bits that add up."""

import math

import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn

from dsin.training.edge.codec import STRIDE, EdgeDecoder, EdgeEncoder
from dsin.training.edge.entropy import (
    EntropyModel,
    gaussian_bits,
    scale_of,
    straight_through,
    turns,
)
from dsin.training.presets import EdgeConfig


def multiplications(module: nn.Module, *inputs: Tensor) -> int:
    """Of all convolutions in one forward pass."""
    counted = []

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counted.append(layer.weight.numel() * out.shape[2] * out.shape[3])

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        module(*inputs)
    for hook in hooks:
        hook.remove()
    return sum(counted)


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_what_runs_on_the_device_is_small() -> None:
    """Encoder and entropy model of the default sizes, 320x1224 padded to whole squares of z."""
    config = EdgeConfig()
    encoder, entropy = EdgeEncoder(config), EntropyModel(config)
    frame, rate = torch.zeros(1, 3, 320, 1280), torch.tensor([0])
    macs = multiplications(encoder, frame, rate)
    y = torch.zeros(1, config.latent, 20, 80)
    macs += multiplications(entropy, y, rate)
    assert macs < 8e9
    assert parameters(encoder, entropy) < 4e6


def test_shapes() -> None:
    x, rate = 255 * torch.rand(2, 3, 128, 192), torch.tensor([0, 2])
    y = EdgeEncoder(SMALL)(x, rate)
    assert y.shape == (2, SMALL.latent, 128 // STRIDE, 192 // STRIDE)
    coded = EntropyModel(SMALL)(y, rate)
    assert coded.y_hat.shape == y.shape
    assert coded.y_bits.shape == coded.z_bits.shape == (2,)
    picture, features = EdgeDecoder(SMALL)(coded.y_hat, rate)
    assert picture.shape == x.shape
    assert features.shape == (2, SMALL.fine, 16, 24)


@pytest.mark.parametrize("steps", [2, 4])
def test_every_symbol_is_coded_once_and_each_step_sees_every_place(steps: int) -> None:
    masks = torch.cat(turns(torch.zeros(1, 8, 6, 10), steps))
    assert torch.equal(masks.sum(0), torch.ones(8, 6, 10, dtype=torch.long))
    for mask in masks:
        assert torch.equal(mask.sum(0), torch.full((6, 10), 8 // steps))
    # No two groups of channels have the same turn at one place.
    first = masks.float().argmax(0)
    assert first[:, 0, 0].unique().numel() == steps


def test_two_steps_are_chequered() -> None:
    """The first half of the channels begins where row and column are both even or both odd."""
    first, second = turns(torch.zeros(1, 2, 2, 4), 2)
    assert first[0].int().tolist() == [
        [[1, 0, 1, 0], [0, 1, 0, 1]],
        [[0, 1, 0, 1], [1, 0, 1, 0]],
    ]
    assert torch.equal(second, ~first)


def test_no_step_sees_what_it_codes() -> None:
    """Symbols of later steps do not change the means and scales of earlier ones."""
    model, rate = EntropyModel(SMALL).eval(), torch.tensor([1])
    y = 3 * torch.randn(1, SMALL.latent, 8, 8)
    seen: list[Tensor] = []
    for step in model.steps:
        step.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[1].clone()))
    with torch.no_grad():
        model(y, rate)
    decoded = torch.zeros_like(y, dtype=torch.bool)
    for context, turn in zip(seen, turns(y, len(model.steps)), strict=True):
        assert not context[~decoded].any()
        decoded |= turn


def test_decoded_values_are_means_plus_integers() -> None:
    model, rate = EntropyModel(SMALL).eval(), torch.tensor([0])
    y = 5 * torch.randn(1, SMALL.latent, 8, 8)
    with torch.no_grad():
        coded = model(y, rate)
    assert float((coded.y_hat - y).abs().max()) <= 0.5 + 1e-5


@pytest.mark.parametrize("scale", [0.11, 0.5, 3.0])
def test_bits_are_those_of_a_distribution_over_the_integers(scale: float) -> None:
    values = torch.arange(-200.0, 201.0)
    probability = torch.exp2(-gaussian_bits(values, torch.tensor(scale)))
    assert float(probability.sum()) == pytest.approx(1, abs=1e-4)
    assert int(probability.argmax()) == 200


def test_scales_stay_within_their_range() -> None:
    scales = scale_of(torch.tensor([-100.0, 0.0, 100.0]))
    assert scales[0] == pytest.approx(0.11)
    assert scales[2] == pytest.approx(32.0)
    assert math.log(scales[1]) > math.log(0.11)


def test_gradients_reach_every_weight() -> None:
    encoder, entropy, decoder = EdgeEncoder(SMALL), EntropyModel(SMALL), EdgeDecoder(SMALL)
    x, rate = 255 * torch.rand(3, 3, 64, 64), torch.tensor([0, 1, 2])
    coded = entropy(encoder(x, rate), rate)
    picture, _ = decoder(coded.y_hat, rate)
    ((picture - x).square().mean() + coded.y_bits.sum() + coded.z_bits.sum()).backward()
    for module in (encoder, entropy, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    rounded = torch.tensor([0.4, 1.6], requires_grad=True)
    straight_through(rounded).sum().backward()
    assert rounded.grad is not None
    assert rounded.grad.tolist() == [1, 1]
