"""Biases that take back the constant part of what 8 bits do."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dsin.calibration.bias_correction import Means, bias_corrected, feature_means, rounded
from dsin.calibration.int8 import relative_error, run, run_all
from dsin.calibration.qdq import Range, Target, activations, convolutions, quantised
from tests.support.residual_graph import residual_graph, residual_runs

CUT = Range(-1.5, 0.7)
"""Cuts off much of what is above zero."""


def inputs_of(model: onnx.ModelProto) -> list[str]:
    return [node.input[0] for node in model.graph.node if node.op_type == "Conv"]


def coarse(model: onnx.ModelProto) -> onnx.ModelProto:
    layers = convolutions(model)
    return quantised(model, dict.fromkeys(activations(model, layers, "cpu"), CUT), layers, "cpu")


def corrected(model: onnx.ModelProto) -> onnx.ModelProto:
    read = inputs_of(model)
    means = feature_means(run_all(model, residual_runs(), read), dict.fromkeys(read, CUT), "cpu")
    return bias_corrected(model, convolutions(model), means)


def test_outputs_have_the_means_of_the_float_graph() -> None:
    model = residual_graph()
    expected = [run(model, one) for one in residual_runs()]
    shifts, errors = [], []
    for each in (model, corrected(model)):
        got = [run(coarse(each), one) for one in residual_runs()]
        pairs = zip(expected, got, strict=True)
        shifts.append(np.mean([(b["y"] - a["y"]).mean((0, 2, 3)) for a, b in pairs], 0))
        errors.append(relative_error(expected, got))
    assert model == residual_graph(), "the original is left alone"
    assert np.abs(shifts[1]).max() < np.abs(shifts[0]).max() / 2
    assert errors[1] < 0.95 * errors[0]


def test_a_layer_alone_is_corrected_to_what_rounding_leaves() -> None:
    model = residual_graph()
    seen = run_all(model, residual_runs(), ["x", "stem"])
    means = feature_means(seen, {"x": CUT}, "cpu")
    out = bias_corrected(model, ["stem"], means)
    names = activations(model, ["stem"], "cpu")
    graph = quantised(out, dict.fromkeys(names, CUT), ["stem"], "cpu")
    pairs = [
        tuple(next(iter(run_all(m, [one], ["stem"])))["stem"].mean((0, 2, 3)) for m in both)
        for one in residual_runs()
        for both in [(model, graph)]
    ]
    exact, got = np.mean(pairs, 0)
    np.testing.assert_allclose(got, exact, atol=2e-3)


def test_only_biases_of_the_named_layers_change() -> None:
    model = residual_graph()
    (last,) = (node for node in model.graph.node if node.name == "last")
    del last.input[2]
    means = {name: Means(np.ones(8), np.full(8, 0.9)) for name in inputs_of(model)}
    out = bias_corrected(model, ["inner", "depthwise", "last"], means)
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in m.graph.initializer}
        for m in (model, out)
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"b_inner", "b_depthwise"}


@pytest.mark.parametrize(
    ("target", "held"), [("cpu", [-1.5, 0.0, 0.2976, 0.7]), ("tensorrt", [-1.5, 0.0, 0.2953, 1.5])]
)
def test_values_are_cut_off_and_rounded(target: Target, held: list[float]) -> None:
    """Steps of 2.2 / 255, or of 1.5 / 127."""
    values = np.array([-9.0, 0.001, 0.2965, 9.0])
    np.testing.assert_allclose(rounded(values, CUT, target), held, atol=1.3e-2)
    assert rounded(values, CUT, target)[1] == 0
