"""Features of activations scaled to one size: what may be scaled, and what that is good for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsin.calibration.equalisation import (
    equalised,
    feature_factors,
    feature_sizes,
    linked_tensors,
)
from dsin.calibration.int8 import relative_error, run, run_all
from dsin.calibration.qdq import activations, convolutions, quantised
from dsin.calibration.ranges import candidates, feature_extents, observe
from tests.support.residual_graph import residual_graph, residual_runs

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Array]]:
    return residual_runs()


def sizes_of(model: onnx.ModelProto, runs: list[dict[str, Array]]) -> dict[str, Array]:
    names = activations(model, convolutions(model), "tensorrt")
    return dict(feature_sizes(feature_extents(run_all(model, runs, names), names)))


def even(model: onnx.ModelProto, runs: list[dict[str, Array]]) -> onnx.ModelProto:
    return equalised(model, feature_factors(model, sizes_of(model, runs)))


def sets(model: onnx.ModelProto) -> set[frozenset[str]]:
    return {frozenset(members) for members in linked_tensors(model.graph)}


def test_sums_link_features_and_convolutions_and_gains_part_them() -> None:
    assert sets(residual_graph()) == {
        frozenset({"stem", "outer", "sum"}),
        frozenset({"gain"}),
        frozenset({"inner", "relu"}),
        frozenset({"depthwise"}),
    }, "x and y are the graph's own"


def test_what_else_is_seen_or_shared_stays() -> None:
    model = residual_graph()
    model.graph.node.append(helper.make_node("Sigmoid", ["relu"], ["other"], "other"))
    assert frozenset({"inner", "relu"}) not in sets(model)
    assert frozenset({"depthwise"}) in sets(model)

    shared = residual_graph()
    (outer,) = (node for node in shared.graph.node if node.name == "outer")
    outer.input[1] = "w_inner"
    assert sets(shared) == {frozenset({"gain"})}, "layers of that kernel see all other features"

    table = residual_graph()
    table.graph.node.append(helper.make_node("Gather", ["gains", "rate"], ["again"], "again"))
    assert frozenset({"stem", "outer", "sum", "gain"}) in sets(table), "another reads the gains"

    shown = residual_graph()
    shown.graph.output.append(onnx.ValueInfoProto(name="gain"))
    parts = {frozenset({"inner", "relu"}), frozenset({"depthwise"})}
    assert sets(shown) == {*parts, frozenset({"stem", "outer", "sum"})}
    free = {frozenset(members) for members in linked_tensors(shown.graph, ["gain"])}
    assert free == {*parts, frozenset({"stem", "outer", "sum"}), frozenset({"gain"})}


def test_features_become_alike_and_the_graph_computes_the_same(
    runs: list[dict[str, Array]],
) -> None:
    model = residual_graph()
    before = sizes_of(model, runs)
    out = even(model, runs)
    onnx.checker.check_model(out)
    assert model == residual_graph(), "the original is left alone"
    for one in runs:
        np.testing.assert_allclose(run(out, one)["y"], run(model, one)["y"], atol=2e-5)
    after = sizes_of(out, runs)
    for name in ("relu", "depthwise", "gain"):
        assert before[name].max() / before[name].min() > 10
        assert after[name].max() / after[name].min() == pytest.approx(1, abs=1e-3)
    # Tensors that share factors come near.
    assert before["stem"].max() / before["stem"].min() > 10
    assert after["stem"].max() / after["stem"].min() < 5


def test_an_output_that_may_be_scaled_is_times_its_factors(runs: list[dict[str, Array]]) -> None:
    model = residual_graph()
    factors = feature_factors(model, {"y": np.array([4.0, 2.0, 1.0, 0.5])}, ["y"])
    assert factors["y"].tolist() == [1, 2, 4, 8]
    out = equalised(model, factors)
    for one in runs:
        expected = run(model, one)["y"] * factors["y"][:, None, None]
        np.testing.assert_allclose(run(out, one)["y"], expected, atol=1e-4)
    assert feature_factors(model, {"y": np.ones(4)}) == {}


def test_a_feature_that_is_never_used_is_left_small(runs: list[dict[str, Array]]) -> None:
    model = residual_graph()
    for tensor in model.graph.initializer:
        if tensor.name in ("w_depthwise", "b_depthwise"):
            value = numpy_helper.to_array(tensor).copy()
            value[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    out = even(model, runs)
    for tensor in out.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all()
    for one in runs:
        np.testing.assert_allclose(run(out, one)["y"], run(model, one)["y"], atol=2e-5)


def test_8_bits_cost_much_less(runs: list[dict[str, Array]]) -> None:
    model = residual_graph()
    layers = convolutions(model)
    names = activations(model, layers, "tensorrt")
    expected = [run(model, one) for one in runs]
    errors = []
    for graph in (model, even(model, runs)):
        seen = observe(run_all(graph, runs, names), names)
        ranges = {name: candidates(seen[name])["extremes"] for name in names}
        small = quantised(graph, ranges, layers, "cpu")
        errors.append(relative_error(expected, [run(small, one) for one in runs]))
    assert errors[1] < errors[0] / 5


def test_features_that_were_hardly_seen_are_scaled_64_times_at_most() -> None:
    """Larger ones of other frames would be cut off. The kernel that makes a feature is scaled, its
    bias too, and the one that reads it the other way."""
    weights = {
        "w_a": np.ones((3, 1, 1, 1)), "b_a": np.full(3, 0.5), "w_b": np.ones((1, 3, 1, 1)),
    }  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, "h", "w"]) for name in "xy"
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w_a", "b_a"], ["a"], "a"),
        helper.make_node("Conv", ["a", "w_b"], ["y"], "b"),
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    model = helper.make_model(helper.make_graph(nodes, "two", values[:1], values[1:], constants))
    scaled = equalised(model, feature_factors(model, {"a": np.array([8.0, 2.0, 1e-6])}))
    found = {t.name: numpy_helper.to_array(t).ravel().tolist() for t in scaled.graph.initializer}
    assert found == {"w_a": [1, 4, 64], "b_a": [0.5, 2, 32], "w_b": [1, 0.25, 1 / 64]}
