"""8-bit graphs are turned to channels last, and compute the same."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import textured_pair
from onnx import TensorProto, helper, numpy_helper

from dsin.export.channels_last import channels_last
from dsin.export.int8_bundle import COUNTS, graph_inputs, quantised_graphs
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.errors import ExportError

Array = np.ndarray[Any, Any]
Graphs = dict[str, tuple[onnx.ModelProto, dict[str, Any]]]


@pytest.fixture(scope="module")
def graphs(flow_bundle: Path) -> Graphs:
    """The small bundle's graphs in 8 bits, each with what it is given."""
    bundle = open_bundle(flow_bundle)
    frames = [view for number in range(4) for view in textured_pair(128, 192, number)]
    runs = graph_inputs(bundle, frames)
    found = {
        name: (graph.model, runs[name][0])
        for name, graph in quantised_graphs(bundle, runs, "cpu").items()
    }
    given = found["fusion"][1]
    given["x_dec"] = np.rint(given["x_dec"])  # as 8-bit networks yield it
    return found


def turned(graphs: Graphs, name: str) -> onnx.ModelProto:
    return channels_last(graphs[name][0], [] if name == "encoder" else ["features"])


def constant(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def in_eight_bits(model: onnx.ModelProto, name: str, values: Array) -> Array:
    """Pictures and features as the turned graph has them; other tensors as they are."""
    if name == "features":
        known = "known" if model.graph.output[0].name == "x_hat" else "features"
        scale, zero = (constant(model, f"{known}_{part}") for part in ("scale", "zero"))
        values = np.rint(values / scale) + zero
    elif values.ndim != 4 or values.shape[1] != 3:
        return values
    return np.ascontiguousarray(np.rint(values).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


def run(model: onnx.ModelProto, inputs: dict[str, Any]) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


@pytest.mark.parametrize("name", COUNTS)
def test_a_turned_graph_computes_the_same(graphs: Graphs, name: str) -> None:
    model, inputs = graphs[name]
    result = turned(graphs, name)
    onnx.checker.check_model(result)
    names = [value.name for value in model.graph.output]
    for given in (inputs, smaller(inputs)):
        eight = {of: in_eight_bits(model, of, value) for of, value in given.items()}
        for of, mine, plain in zip(names, run(result, eight), run(model, given), strict=True):
            theirs = in_eight_bits(model, of, plain)
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            # Sums in another order round otherwise here and there, by one unit of 8 bits.
            spread = float(theirs.std())
            assert spread > 0
            assert np.abs(mine.astype(float) - theirs).mean() <= 0.02 * spread


def smaller(inputs: dict[str, Any]) -> dict[str, Any]:
    """The left half of all pictures, so that height and width are not in the graph."""
    return {
        name: np.ascontiguousarray(x[..., : x.shape[-1] // 2]) if x.ndim == 4 else x
        for name, x in inputs.items()
    }


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_is_transposed_between_convolutions(graphs: Graphs, name: str) -> None:
    model, _ = graphs[name]
    before, after = (
        Counter(node.op_type for node in graph.graph.node)
        for graph in (model, turned(graphs, name))
    )
    in_float = after["Conv"]
    pictures = len(model.graph.input) + len(model.graph.output) + before["DepthToSpace"]
    assert after["Transpose"] <= 2 * in_float + pictures + STRIDED[name]
    products = after["QLinearConv"] + after["MatMul"] + after["MatMulIntegerToFloat"]
    assert products + in_float == before["Conv"]
    assert after["QLinearConv"] > 0
    assert after["QuantizeLinear"] < before["QuantizeLinear"]


@pytest.mark.parametrize("name", COUNTS)
def test_gains_of_the_rate_are_part_of_the_layers_before_them(graphs: Graphs, name: str) -> None:
    gains = {"encoder": "coarse_gain", "x_decoder": "coarse_gain", "fusion": "gain"}
    before, after = (
        {node.name for node in graph.graph.node if node.op_type == "Mul"}
        for graph in (graphs[name][0], turned(graphs, name))
    )
    assert gains[name] in before - after


@pytest.mark.parametrize("name", COUNTS)
def test_pictures_and_features_are_of_8_bits(graphs: Graphs, name: str) -> None:
    result = turned(graphs, name)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*result.graph.input, *result.graph.output)
    }
    eight = {"x", "x_dec", "features", "y_flow", "y_blocks", "x_hat"}
    assert {n for n, kind in kinds.items() if kind == TensorProto.UINT8} == eight & set(kinds)
    others = {"Clip", "Sub", "DequantizeLinear"} & {node.op_type for node in result.graph.node}
    assert not others


STRIDED = {"encoder": 4, "x_decoder": 0, "fusion": 2}
"""Tensors that layers with strides see."""


def small_graph(kind: str, zero: int = 0, readers: int = 1, size: int = 1) -> onnx.ModelProto:
    """x ─► Q ─► DQ ─► Conv ─► Relu ─► Q ─► DQ ─► `kind` ─► y."""
    constants = {
        "scale": np.float32(0.1), "zero": np.uint8(0), "out_zero": np.uint8(zero),
        "units": np.ones((2, 2, size, size), np.int8), "scales": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["units", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x_dq", "w"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "scale", "out_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "scale", "out_zero"], ["y_dq"]),
        helper.make_node(kind, ["y_dq"], ["y"], name="end"),
        *(helper.make_node("Neg", ["conv"], [f"other{n}"]) for n in range(1, readers)),
    ]
    shape = [1, 2, "H", "W"]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_relu_becomes_part_of_the_convolution() -> None:
    model = small_graph("Identity")
    turned = channels_last(model)
    assert "Relu" not in {node.op_type for node in turned.graph.node}
    x = np.linspace(-2, 2, 2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)
    np.testing.assert_array_equal(run(turned, {"x": x})[0], run(model, {"x": x})[0])
    assert run(turned, {"x": x})[0].max() > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small_graph("Softmax"), "Softmax end cannot be turned"),
        (small_graph("Identity", zero=3), "conv: a zero point other than 0"),
        (small_graph("Identity", readers=2, size=3), "conv of an 8-bit convolution is read more"),
    ],
)
def test_graphs_of_another_kind_are_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        channels_last(model)
