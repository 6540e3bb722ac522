"""The entropy model in integers: exact on any engine, and hardly dearer than the float one."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from test_edge_model import SMALL
from torch import Tensor

from dsin.calibration.integer_entropy import (
    CONTEXT,
    SIGNED,
    UNSIGNED,
    IntegerEntropy,
    integer_bits,
    quantise_entropy,
    run_layers,
)
from dsin.runtime.errors import BundleError
from dsin.runtime.integer_network import EXACT, IntegerLayer, run_reference
from dsin.training.edge_entropy import EntropyModel


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


def test_onnxruntime_computes_the_definition(integer: IntegerEntropy) -> None:
    layer = integer.steps[1][2]
    x = random_input(layer, UNSIGNED, 7)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    constants = {
        "w": layer.weight.astype(np.float32),
        "b": layer.bias[0].astype(np.float32),
        "m": layer.multiplier[0][:, None, None],
        "low": np.float32(layer.low),
        "high": np.float32(layer.high),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["sum"]),
            helper.make_node("Mul", ["sum", "m"], ["scaled"]),
            helper.make_node("Floor", ["scaled"], ["whole"]),
            helper.make_node("Clip", ["whole", "low", "high"], ["y"]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", kind, [1, *x.shape])],
        [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x[None].astype(np.float32)})
    np.testing.assert_array_equal(found[0], run_reference(layer, x))


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
