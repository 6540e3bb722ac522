"""Features of activations scaled to one size: what may be scaled, and what that is good for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dsin.calibration.equalisation import equalised, feature_sizes, linked_tensors
from dsin.calibration.int8 import relative_error, run, run_all
from dsin.calibration.qdq import activations, convolutions, quantised
from dsin.calibration.ranges import candidates, observe

Array = npt.NDArray[Any]
SPREAD = np.array([1, 0.1, 1.5, 1, 0.2, 1, 0.5, 1])
"""How much larger each feature is than in an ordinary network."""


def residual_graph() -> onnx.ModelProto:
    """x ─► stem ─┬► inner ─► relu ─► depthwise ─► outer ─► + ─► · gain of the rate ─► last ─► y
    └───────────────────────────────────────┘"""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "stem": (8, 3, 1, 1), "inner": (8, 8, 1, 1), "depthwise": (8, 1, 3, 3),
        "outer": (8, 8, 1, 1), "last": (4, 8, 1, 1),
    }  # fmt: skip
    weights: dict[str, Array] = {f"w_{n}": rng.normal(0, 0.3, s) for n, s in shapes.items()}
    weights |= {f"b_{n}": rng.normal(0, 0.1, s[0]) for n, s in shapes.items()}
    weights["gains"] = rng.uniform(0.5, 2, (3, 8, 1, 1))
    # Features of very different size: made so by one layer, taken back by those that read them.
    for makers, readers in ((("stem", "outer"), ("inner", "last")), (("inner",), ("depthwise",)),
                            (("depthwise",), ("outer",))):  # fmt: skip
        size = rng.permutation(SPREAD)
        for name in makers:
            weights[f"w_{name}"] *= size[:, None, None, None]
            weights[f"b_{name}"] *= size
        for name in readers:
            by = size[:, None, None, None] if name == "depthwise" else size[None, :, None, None]
            weights[f"w_{name}"] /= by

    def conv(name: str, source: str, **options: Any) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, f"w_{name}", f"b_{name}"], [name], name, **options)

    nodes = [
        conv("stem", "x"),
        conv("inner", "stem"),
        helper.make_node("Relu", ["inner"], ["relu"], "relu"),
        conv("depthwise", "relu", group=8, pads=[1, 1, 1, 1]),
        conv("outer", "depthwise"),
        helper.make_node("Add", ["stem", "outer"], ["sum"], "sum"),
        helper.make_node("Gather", ["gains", "rate"], ["row"], "row"),
        helper.make_node("Mul", ["sum", "row"], ["gain"], "gain"),
        conv("last", "gain"),
        helper.make_node("Identity", ["last"], ["y"], "y"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", "w"])
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "residual", [x, rate], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [
        {"x": rng.normal(0, 1, (1, 3, 24, 32)).astype(np.float32), "rate": np.array([rate])}
        for rate in (0, 1, 2)
    ]


def sizes_of(model: onnx.ModelProto, runs: list[dict[str, Array]]) -> dict[str, Array]:
    names = activations(model, convolutions(model), "tensorrt")
    return dict(feature_sizes(run_all(model, runs, names), names))


def sets(model: onnx.ModelProto) -> set[frozenset[str]]:
    return {frozenset(members) for members in linked_tensors(model.graph)}


def test_sums_and_gains_link_features_and_convolutions_part_them() -> None:
    assert sets(residual_graph()) == {
        frozenset({"stem", "outer", "sum", "gain"}),
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
    assert sets(shared) == set(), "both layers with that kernel see all of the features"

    shown = residual_graph()
    shown.graph.output.append(onnx.ValueInfoProto(name="gain"))
    assert sets(shown) == {frozenset({"inner", "relu"}), frozenset({"depthwise"})}


def test_features_become_alike_and_the_graph_computes_the_same(
    runs: list[dict[str, Array]],
) -> None:
    model = residual_graph()
    before = sizes_of(model, runs)
    out = equalised(model, before)
    onnx.checker.check_model(out)
    assert model == residual_graph(), "the original is left alone"
    for one in runs:
        np.testing.assert_allclose(run(out, one)["y"], run(model, one)["y"], atol=2e-5)
    after = sizes_of(out, runs)
    for name in ("relu", "depthwise"):
        assert before[name].max() / before[name].min() > 10
        assert after[name].max() / after[name].min() == pytest.approx(1, abs=1e-3)
    # Tensors that share factors come near.
    assert before["gain"].max() / before["gain"].min() > 10
    assert after["gain"].max() / after["gain"].min() < 5


def test_a_feature_that_is_never_used_is_left_small(runs: list[dict[str, Array]]) -> None:
    model = residual_graph()
    for tensor in model.graph.initializer:
        if tensor.name in ("w_depthwise", "b_depthwise"):
            value = numpy_helper.to_array(tensor).copy()
            value[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    out = equalised(model, sizes_of(model, runs))
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
    for graph in (model, equalised(model, sizes_of(model, runs))):
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
    scaled = equalised(model, {"a": np.array([8.0, 2.0, 1e-6])})
    found = {t.name: numpy_helper.to_array(t).ravel().tolist() for t in scaled.graph.initializer}
    assert found == {"w_a": [1, 4, 64], "b_a": [0.5, 2, 32], "w_b": [1, 0.25, 1 / 64]}
