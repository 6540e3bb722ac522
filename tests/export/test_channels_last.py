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

from dsin.calibration.int8 import quantise_graph
from dsin.export.channels_last import channels_last
from dsin.export.half_graph import read_graph
from dsin.export.int8_bundle import COUNTS, graph_inputs
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.errors import ExportError

Graphs = dict[str, tuple[onnx.ModelProto, dict[str, Any]]]


@pytest.fixture(scope="module")
def graphs(flow_bundle: Path) -> Graphs:
    """The small bundle's graphs in 8 bits, each with what it is given."""
    bundle = open_bundle(flow_bundle)
    frames = [view for number in range(4) for view in textured_pair(128, 192, number)]
    runs = graph_inputs(bundle, frames)
    return {
        name: (
            quantise_graph(read_graph(bundle.graph_path(name)), runs[name], "cpu", COUNTS[name])
            .model,
            runs[name][0],
        )
        for name in COUNTS
    }  # fmt: skip


def run(model: onnx.ModelProto, inputs: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, inputs))


@pytest.mark.parametrize("name", COUNTS)
def test_a_turned_graph_computes_the_same(graphs: Graphs, name: str) -> None:
    model, inputs = graphs[name]
    onnx.checker.check_model(channels_last(model))
    for given in (inputs, smaller(inputs)):
        for mine, theirs in zip(run(channels_last(model), given), run(model, given), strict=True):
            assert mine.shape == theirs.shape
            # Sums in another order round otherwise here and there, by one unit of 8 bits.
            spread = float(theirs.std())
            assert np.abs(mine - theirs).mean() <= 0.01 * spread


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
        for graph in (model, channels_last(model))
    )
    in_float = after["Conv"]
    pictures = len(model.graph.input) + len(model.graph.output) + before["DepthToSpace"]
    assert after["Transpose"] <= 2 * in_float + pictures
    assert after["QLinearConv"] + after["MatMul"] + in_float == before["Conv"]
    assert after["QLinearConv"] > 0
    assert after["QuantizeLinear"] < before["QuantizeLinear"]


def small_graph(kind: str, zero: int = 0, readers: int = 1) -> onnx.ModelProto:
    """x ─► Q ─► DQ ─► Conv ─► Relu ─► Q ─► DQ ─► `kind` ─► y."""
    constants = {
        "scale": np.float32(0.1), "zero": np.uint8(0), "out_zero": np.uint8(zero),
        "units": np.ones((2, 2, 1, 1), np.int8), "scales": np.ones(2, np.float32),
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
        (small_graph("Identity", readers=2), "conv of an 8-bit convolution is read more than once"),
    ],
)
def test_graphs_of_another_kind_are_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        channels_last(model)
