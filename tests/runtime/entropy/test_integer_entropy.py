"""The entropy model in integers: exact on any engine, and hardly dearer than the float one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import SMALL
from torch import Tensor

from dsin.calibration.integer_entropy import (
    UNSIGNED,
    IntegerEntropy,
    integer_bits,
    quantise_entropy,
    run_layers,
)
from dsin.export.edge.integer_graph import hyper_graph, step_graph
from dsin.runtime.entropy.hyper_kernels import CONTEXT, SIGNED
from dsin.runtime.entropy.integer_network import EXACT, IntegerLayer, run_reference
from dsin.runtime.errors import BundleError
from dsin.training.edge.entropy import EntropyModel


@pytest.fixture(scope="module")
def model() -> EntropyModel:
    """Untrained, but with steps that look at what they are given, and scales of about 4."""
    torch.manual_seed(2)
    model = EntropyModel(SMALL).eval()
    for step in model.steps:
        torch.nn.init.normal_(step.out.weight, std=0.1)
        step.out.bias.data[SMALL.latent :] = 1.5
    torch.nn.init.uniform_(model.hyper_gain.factor, 0.5, 2)
    return model


def latents(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [
        (4 * torch.randn(1, SMALL.latent, 16, 24, generator=rng), torch.tensor([n % SMALL.rates]))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def integer(model: EntropyModel) -> IntegerEntropy:
    return quantise_entropy(model, latents(6))


def test_integers_cost_hardly_more_than_floats(
    model: EntropyModel, integer: IntegerEntropy
) -> None:
    for y, rate in latents(3, seed=1):
        with torch.no_grad():
            coded = model(y, rate)
        floats = float(coded.y_bits + coded.z_bits)
        assert integer_bits(model, integer, y, int(rate)) == pytest.approx(floats, rel=0.02)


def random_input(layer: IntegerLayer, limits: tuple[int, int], seed: int) -> np.ndarray:
    """Half of it as extreme as can be."""
    channels = layer.weight.shape[1] * layer.groups
    rng = np.random.default_rng(seed)
    some = rng.integers(limits[0], limits[1] + 1, (channels, 6, 8))
    return np.where(rng.random(some.shape) < 0.5, rng.choice(limits, some.shape), some)


def layers_of(integer: IntegerEntropy) -> list[tuple[IntegerLayer, tuple[int, int]]]:
    hyper = [(layer, SIGNED if n == 0 else UNSIGNED) for n, layer in enumerate(integer.hyper)]
    return hyper + [(layer, UNSIGNED) for step in integer.steps for layer in step]


def test_float32_computes_the_definition(integer: IntegerEntropy) -> None:
    for seed, (layer, limits) in enumerate(layers_of(integer)):
        x = random_input(layer, limits, seed)
        for rate in range(len(layer.bias)):
            found = run_layers([layer], torch.from_numpy(x)[None].float(), rate)[0]
            np.testing.assert_array_equal(found.numpy(), run_reference(layer, x, rate))


def session(graph: onnx.ModelProto) -> ort.InferenceSession:
    onnx.checker.check_model(graph, full_check=True)
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def reference(layers: Sequence[IntegerLayer], x: np.ndarray, rate: int = 0) -> np.ndarray:
    for layer in layers:
        x = run_reference(layer, x, rate)
    return x


@pytest.mark.parametrize("rate", range(SMALL.rates))
def test_the_exported_hyper_decoder_is_exact(integer: IntegerEntropy, rate: int) -> None:
    graph = hyper_graph(integer.hyper)
    z = np.random.default_rng(rate).integers(-128, 128, (SMALL.hyper, 3, 5))
    feeds = {"z": z[None].astype(np.float32), "rate": np.array([rate])}
    (found,) = session(graph).run(None, feeds)
    np.testing.assert_array_equal(found[0], reference(integer.hyper, z, rate))
    kernels = {tuple(c.dims) for c in graph.graph.initializer if len(c.dims) == 4 and c.dims[2] > 1}
    assert not kernels, "a dense convolution that Winograd applies to"


def test_the_exported_steps_are_exact(integer: IntegerEntropy) -> None:
    rng = np.random.default_rng(5)
    features = rng.integers(*UNSIGNED, (SMALL.context, 6, 9), endpoint=True)
    decoded = rng.integers(*CONTEXT, (SMALL.latent, 6, 9), endpoint=True)
    feeds = {"features": features, "decoded": decoded}
    floats = {name: value[None].astype(np.float32) for name, value in feeds.items()}
    for layers in integer.steps:
        found = session(step_graph(layers)).run(["mean", "raw"], floats)
        expected = reference(layers, np.concatenate([features, decoded]))
        np.testing.assert_array_equal(np.concatenate(found, 1)[0], expected)


def test_no_sum_can_reach_what_float32_rounds(integer: IntegerEntropy) -> None:
    for layer, limits in layers_of(integer):
        channels = layer.weight.shape[1] * layer.groups
        low, high = (np.full(channels, limit) for limit in limits)
        if layer is integer.steps[0][0]:
            low[-SMALL.latent :], high[-SMALL.latent :] = CONTEXT
        largest = layer.largest_sum(low, high)
        assert 0 < largest < EXACT


def test_the_bound_on_sums_is_reached() -> None:
    weight = np.array([[[[3]], [[-5]]], [[[-2]], [[-2]]]], np.int16)
    layer = IntegerLayer(
        weight, np.array([[7, -1]], np.int32), np.ones((1, 2), np.float32), -(2**20), 2**20
    )
    # 3·10 + 5·4 + 7 against 2·10 + 2·10 + 1
    low, high = np.array([0, -4]), np.array([10, 10])
    assert layer.largest_sum(low, high) == 57
    worst = np.array([[[10]], [[-4]]])
    assert run_reference(layer, worst)[0, 0, 0] == 57


def test_layers_that_would_round_or_do_not_fit_are_refused(integer: IntegerEntropy) -> None:
    layer = integer.steps[0][2]
    low, high = np.zeros(layer.weight.shape[1], np.int64), np.full(layer.weight.shape[1], 1023)
    layer.check(low, high)
    with pytest.raises(BundleError, match=r"2\*\*24"):
        layer.check(low, 40 * high)
    with pytest.raises(BundleError, match="different sizes"):
        replace(layer, bias=layer.bias[:, 1:]).check(low, high)
    with pytest.raises(BundleError, match="impossible multiplier"):
        replace(layer, multiplier=-layer.multiplier).check(low, high)


def test_depth_to_space_is_that_of_pytorch() -> None:
    rng = np.random.default_rng(0)
    layer = IntegerLayer(
        rng.integers(-9, 9, (8, 3, 3, 3)).astype(np.int16), np.zeros((1, 8), np.int32),
        np.full((1, 8), 0.25, np.float32), -999, 999, shuffle=2,
    )  # fmt: skip
    x = rng.integers(0, 9, (3, 5, 4))
    found = run_layers([layer], torch.from_numpy(x)[None].float(), 0)[0]
    assert found.shape == (2, 10, 8)
    np.testing.assert_array_equal(found.numpy(), run_reference(layer, x))
