"""Precision is written into the graph: ONNX in float32 to the same in float16.

Convolutions and what lies between them become float16. These stay float32:

    what comes before the first convolution   pictures (float16 has steps of an eighth above 128),
                                              cost and its logarithm (costs pass float16's 65504)
    the last convolution before an output     what it yields is a picture, or a latent before it is
                                              rounded
    what comes after the last convolution     the same, and sums of pictures and corrections
    PatchCorrelation                          its scores decide between positions

"Last" is a convolution that an output is made of without another one or a residual sum between.
Inputs and outputs keep their names and types.
Entropy models are never converted: their integers are exact in float32 only.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsin.runtime.errors import ExportError

FLOAT, HALF, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
LARGEST = float(np.finfo(np.float16).max)

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_BETWEEN = ("Add", "Concat", "DepthToSpace", "Identity", "LeakyRelu", "Mul", "Relu", "Sub")
"""What may run in float16 between convolutions; all inputs are data."""


def read_graph(path: Path) -> onnx.ModelProto:
    """A graph with its weights inside, each of the type that it is computed in.

    Bundles store kernels as float16 and cast them; here the casts are done. And uint8 goes through
    float32 where it is cast: TensorRT has it at the border only, and casts it to nothing else.
    Raises ExportError for a file that is not an ONNX graph, or has control flow.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's errors share no base but Exception
        raise ExportError(f"{path} is not an ONNX graph: export it anew") from error
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        raise ExportError(f"{path} has control flow, which engines cannot be built from")
    _fold_casts(model.graph)
    _cast_bytes_through_float(model.graph)
    return model


def to_half(model: onnx.ModelProto) -> None:
    """Convert in place, as said above; names and types of inputs and outputs stay.

    Raises ExportError for weights that float16 cannot hold.
    """
    graph = model.graph
    half = half_nodes(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_half = {name for i in half for name in graph.node[i].output}
    others = (node for i, node in enumerate(graph.node) if i not in half)
    needed = {name for node in others for name in node.input}
    needed |= {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    known: set[str] = set()
    for i, node in enumerate(list(graph.node)):
        if i not in half:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if not name:
                continue
            if name not in made_half and name not in known:
                known.add(name)
                if name in constants:
                    graph.initializer.append(_halved(constants[name]))
                else:
                    nodes.append(_cast(name, _half(name), HALF))
            node.input[place] = _half(name)
        (output,) = node.output
        node.output[0] = _half(output)
        nodes.append(node)
        if output in needed:
            nodes.append(_cast(_half(output), output, FLOAT))
    _replace(graph, nodes)
    del graph.value_info[:]


def half_nodes(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes that `to_half` converts."""
    nodes = list(graph.node)
    last = _last_convolutions(graph)
    producer = {name: i for i, node in enumerate(nodes) for name in node.output}
    consumers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.input:
            consumers.setdefault(name, []).append(i)
    convolutions = {i for i, node in enumerate(nodes) if node.op_type in _CONVOLUTIONS}
    half = (convolutions - last) | {i for i, n in enumerate(nodes) if n.op_type in _BETWEEN}

    def fits(i: int) -> bool:
        if i in convolutions:
            return True
        (name,) = nodes[i].output
        taken = consumers.get(name, [])
        return any(producer.get(source) in half for source in nodes[i].input) and any(
            c in half or c in convolutions for c in taken
        )

    while unfit := {i for i in half if not fits(i)}:
        half -= unfit
    return half


def _last_convolutions(graph: onnx.GraphProto) -> set[int]:
    constants = {tensor.name for tensor in graph.initializer}
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    waiting, seen, found = [value.name for value in graph.output], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in producer:
            continue
        seen.add(name)
        node = graph.node[producer[name]]
        if node.op_type in _CONVOLUTIONS:
            found.add(producer[name])
            continue
        computed = [source for source in node.input if source and source not in constants]
        if node.op_type != "Add" or len(computed) < 2:
            waiting.extend(computed)
    return found


def _fold_casts(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type != "Cast" or node.input[0] not in constants:
            nodes.append(node)
            continue
        kind = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
        value = numpy_helper.to_array(constants[node.input[0]]).astype(kind)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    _replace(graph, nodes)


def _cast_bytes_through_float(graph: onnx.GraphProto) -> None:
    byte_inputs = {v.name for v in graph.input if v.type.tensor_type.elem_type == UINT8}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and (
            node.attribute[0].i == UINT8 or node.input[0] in byte_inputs
        ):
            between = f"{node.output[0]}.float"
            nodes.append(_cast(node.input[0], between, FLOAT))
            node.input[0] = between
        nodes.append(node)
    _replace(graph, nodes)


def _replace(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put in the nodes, and drop the constants that none of them uses."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input} | {v.name for v in graph.output}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _half(name: str) -> str:
    return f"{name}.half"


def _cast(source: str, output: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [output], name=f"{output}.cast", to=kind)


def _halved(tensor: TensorProto) -> TensorProto:
    value = numpy_helper.to_array(tensor)
    if value.size and float(np.abs(value).max()) > LARGEST:
        raise ExportError(f"weights {tensor.name} do not fit into float16: use --precision fp32")
    return numpy_helper.from_array(value.astype(np.float16), _half(tensor.name))
