"""Float16 written into graphs: where it should be, and nowhere else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from dsin.export.half_graph import FLOAT, HALF, half_nodes, read_graph, to_half
from dsin.export.weights import store_as_half
from dsin.runtime.errors import ExportError

SHIPPED = Path(__file__).resolve().parents[2] / "runtime" / "codec" / "bundles"
GRAPHS = [
    "edge/encoder", "edge/x_decoder", "edge/fusion",
    "paper/encoder", "paper/x_decoder", "paper/fusion", "paper/decoder",
]  # fmt: skip


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor whose type follows from a cast, a constant or a convolution."""
    known = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input,)}
    known |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Cast":
            known[node.output[0]] = node.attribute[0].i
        elif node.op_type == "ArgMin":
            known[node.output[0]] = TensorProto.INT64
        else:
            known |= dict.fromkeys(node.output, known[node.input[0]])
    return known


def shipped(name: str) -> onnx.ModelProto:
    return read_graph(SHIPPED / f"{name}.onnx")


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_has_inputs_of_one_type(name: str) -> None:
    """As a strongly typed network needs it."""
    model = shipped(name)
    to_half(model)
    known = types(model)
    for node in model.graph.node:
        if node.op_type in ("Add", "Concat", "Conv", "ConvTranspose", "Mul", "PatchCorrelation"):
            kinds = {known[source] for source in node.input if source}
            assert len(kinds) == 1, (node.op_type, node.output)


@pytest.mark.parametrize("name", GRAPHS)
def test_convolutions_are_half_but_the_last_and_borders_stay(name: str) -> None:
    model, before = shipped(name), shipped(name)
    to_half(model)
    known = types(model)
    convolutions = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    single = [n.output[0] for n in convolutions if known[n.output[0]] == FLOAT]
    expected = {
        "edge/encoder": ["out", "hyper_out"], "edge/x_decoder": ["out"], "edge/fusion": [],
        "paper/encoder": ["conv2d_34"], "paper/x_decoder": ["convolution_2"],
        "paper/fusion": ["conv2d_9"],
    }  # fmt: skip
    assert len(single) == 2 if name == "paper/decoder" else single == expected[name]
    assert sum(known[n.output[0]] == HALF for n in convolutions) == len(convolutions) - len(single)
    assert list(model.graph.input) == list(before.graph.input)
    assert list(model.graph.output) == list(before.graph.output)
    for value in model.graph.output:
        # What the correlation yields is of its own types.
        if name != "paper/decoder" or value.name not in ("y_syn", "row", "col", "score"):
            assert known[value.name] == value.type.tensor_type.elem_type


def test_pictures_logarithms_and_positions_stay_in_float32() -> None:
    for name in GRAPHS:
        model = shipped(name)
        to_half(model)
        known = types(model)
        for node in model.graph.node:
            if node.op_type in ("Log", "Min", "Clip", "Sub", "Pow", "PatchCorrelation"):
                assert known[node.input[0]] == FLOAT, (name, node.output)


def test_the_trunk_stays_half_where_an_output_branches_off() -> None:
    """Features are an output of the decoder and go on into its last convolution as well."""
    model = shipped("edge/x_decoder")
    half = half_nodes(model.graph)
    sums = [i for i, node in enumerate(model.graph.node) if node.op_type == "Add"]
    assert sums
    assert half.issuperset(sums)


def test_read_graph_folds_casts_of_weights_and_takes_weights_in() -> None:
    model = shipped("edge/encoder")
    assert not [n for n in model.graph.node if n.op_type == "Cast"]
    assert all(t.data_location != TensorProto.EXTERNAL for t in model.graph.initializer)
    assert {t.data_type for t in model.graph.initializer} == {FLOAT}


@pytest.mark.parametrize("name", ["encoder", "x_decoder"])
def test_bytes_are_cast_from_and_to_float32_only(name: str) -> None:
    model = shipped(f"paper/{name}")
    known = types(model)
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    kinds = [(known[n.input[0]], n.attribute[0].i) for n in casts]
    assert [pair for pair in kinds if TensorProto.UINT8 in pair] in (
        [(FLOAT, TensorProto.UINT8)], [(TensorProto.UINT8, FLOAT)],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["encoder", "x_decoder", "fusion"])
def test_half_computes_nearly_the_same(edge_bundle: Path, name: str) -> None:
    """With every tensor really rounded, as the reference evaluator of ONNX does."""
    rng = np.random.default_rng(0)
    model = read_graph(edge_bundle / f"{name}.onnx")
    picture, latent = (1, 3, 64, 64), (1, 8, 4, 4)
    shapes = {"y_hat": latent, "features": (1, 16, 8, 8), "cost": (1, 1, 8, 8)}
    inputs = {
        value.name: rng.uniform(0, 255, shapes.get(value.name, picture)).astype(np.float32)
        for value in model.graph.input
    }
    for small in {"y_hat", "features"} & inputs.keys():
        inputs[small] = (inputs[small] / 255).astype(np.float32)
    if "cost" in inputs:
        inputs["cost"] *= 4096  # beyond what float16 holds
    inputs["rate"] = np.array([1])
    expected = ReferenceEvaluator(model).run(None, inputs)
    to_half(model)
    for output, wanted in zip(ReferenceEvaluator(model).run(None, inputs), expected, strict=True):
        assert output.dtype == np.float32
        assert not np.array_equal(output, wanted)
        np.testing.assert_allclose(output, wanted, atol=4e-3 * float(np.abs(wanted).max()))


def small_graph(weight: float) -> onnx.ModelProto:
    """Two convolutions, one after the other."""
    kernel = numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "kernel")
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["between"]),
        helper.make_node("Conv", ["between", "kernel"], ["y"]),
    ]
    ends = (helper.make_tensor_value_info(n, FLOAT, [1, 1, 8, 8]) for n in ("x", "y"))
    graph = helper.make_graph(nodes, "small", [next(ends)], [next(ends)], [kernel])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    with pytest.raises(ExportError, match="weights kernel do not fit into float16"):
        to_half(small_graph(7e4))
    with pytest.raises(ExportError, match="kernel kernel does not fit into float16"):
        store_as_half(small_graph(7e4))


def test_a_constant_of_both_types_is_kept_in_both() -> None:
    model = small_graph(2)
    to_half(model)
    assert {t.name: t.data_type for t in model.graph.initializer} == {
        "kernel": FLOAT, "kernel.half": HALF,
    }  # fmt: skip


def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(ExportError, match=r"is not an ONNX graph: export it anew$"):
        read_graph(path)


def test_a_graph_with_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    values = {
        name: helper.make_tensor_value_info(name, kind, [1])
        for name, kind in (
            ("x", TensorProto.FLOAT), ("y", TensorProto.FLOAT), ("condition", TensorProto.BOOL)
        )
    }  # fmt: skip
    graph = helper.make_graph([node], "if", [values["x"], values["condition"]], [values["y"]])
    onnx.save(helper.make_model(graph), tmp_path / "if.onnx")
    with pytest.raises(ExportError, match=r"if\.onnx has control flow, which engines cannot be"):
        read_graph(tmp_path / "if.onnx")
