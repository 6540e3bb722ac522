"""Float graphs rewritten to 8 bits: QuantizeLinear and DequantizeLinear around convolutions.

    x ─► Q ─► DQ ─► Conv ─► (Relu) ─► Q ─► DQ ─► …      weights: int8 with a scale per output ─► DQ

Engines fuse what stands between DQ and Q into one integer kernel. What is not between a pair stays
as it was. `cpu` graphs have unsigned activations with a zero point, which onnxruntime is fast with,
and what a pointwise layer adds to a residual sum is not rounded: its kernel yields float as fast.
`tensorrt` graphs have signed ones around zero and float biases, the only kind that TensorRT takes.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Target = Literal["cpu", "tensorrt"]
Array = NDArray[Any]
LARGEST_WEIGHT = 127
TINY = 1e-8


class Range(NamedTuple):
    """Least and largest value that 8 bits are to hold."""

    low: float
    high: float


class Scale(NamedTuple):
    """What one unit of 8 bits stands for, and the unit that is zero."""

    scale: np.float32
    zero: Array


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the Conv nodes, in order."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def activations(
    model: onnx.ModelProto, layers: Collection[str], target: Target,
    rounded: Collection[str] = (),
) -> list[str]:  # fmt: skip
    """The tensors that must be of 8 bits for these Conv nodes to be: their inputs, and what they
    yield, after the Relu where nothing else sees it before. With target cpu, what sums and gains
    see of a pointwise layer stays in float, but for those in `rounded`."""
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.name in layers:
            found[node.input[0]] = None
            if _is_rounded(model.graph, node, target, rounded):
                found[_result(model.graph, node)] = None
    return list(found)


def _is_rounded(
    graph: onnx.GraphProto, node: onnx.NodeProto, target: Target, rounded: Collection[str]
) -> bool:
    """Whether what a Conv node yields is of 8 bits for all that read it."""
    result = _result(graph, node)
    if target != "cpu" or result in rounded or not is_matrix(graph, node):
        return True
    readers = [other for other in graph.node if result in other.input]
    return bool(readers) and all(
        other.op_type == "Conv" and other.input[0] == result for other in readers
    )


def is_matrix(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a Conv node sees each value once: a pointwise layer, perhaps after space to depth."""
    shape = next(list(t.dims) for t in graph.initializer if t.name == node.input[1])
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    strides = list(attributes.get("strides", [1, 1]))
    return (
        attributes.get("group", 1) == 1 and shape[2:] == strides and not any(
            attributes.get("pads", [0])
        )
    )  # fmt: skip


def _result(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """What a Conv node yields, after the Relu where nothing else sees it before."""
    readers = [other for other in graph.node if node.output[0] in other.input]
    alone = len(readers) == 1 and all(node.output[0] != value.name for value in graph.output)
    relu = alone and readers[0].op_type == "Relu"
    return str(readers[0].output[0] if relu else node.output[0])


def quantised(
    model: onnx.ModelProto, ranges: Mapping[str, Range], layers: Collection[str], target: Target,
    rounded: Collection[str] = (),
) -> onnx.ModelProto:  # fmt: skip
    """A copy in which these Conv nodes and the tensors they need are of 8 bits.

    `ranges` has one of each of `activations(model, layers, target, rounded)`. Raises KeyError for
    one that is missing.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    names = activations(model, layers, target, rounded)
    scales = {name: activation_scale(ranges[name], target) for name in names}
    _Rewriter(out.graph, scales, target, rounded).rewrite(layers)
    return out


def activation_scale(range_: Range, target: Target) -> Scale:
    """The scale of a range, which zero is always part of."""
    low, high = min(range_.low, 0.0), max(range_.high, 0.0)
    if target == "tensorrt":
        return Scale(np.float32(max(-low, high, TINY) / LARGEST_WEIGHT), np.array(0, np.int8))
    scale = np.float32(max(high - low, TINY) / 255)
    return Scale(scale, np.array(np.clip(np.rint(-low / scale), 0, 255), np.uint8))


def weight_scales(weight: Array) -> NDArray[np.float32]:
    """(outputs,): the largest weight of each output is 127."""
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    return np.asarray(np.maximum(largest, TINY) / LARGEST_WEIGHT, np.float32)


def weight_units(weight: Array) -> tuple[Array, NDArray[np.float32]]:
    """A weight in whole units of its scales, and these (outputs,)."""
    scales = weight_scales(weight)
    return np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))), scales


class _Rewriter:
    def __init__(
        self, graph: onnx.GraphProto, scales: Mapping[str, Scale], target: Target,
        rounded: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.graph = graph
        self.scales = scales
        self.target = target
        self.rounded = rounded
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.added: dict[str, list[onnx.NodeProto]] = {}

    def rewrite(self, layers: Collection[str]) -> None:
        nodes = list(self.graph.node)
        chosen = [node for node in nodes if node.op_type == "Conv" and node.name in layers]
        results = {
            _result(self.graph, node)
            for node in chosen
            if _is_rounded(self.graph, node, self.target, self.rounded)
        }
        for node in chosen:
            self._weights(node)
        for name, scale in self.scales.items():
            # What a layer yields is of 8 bits for all. Other tensors, such as sums along residual
            # connections, are so for layers only: rounded for each other, errors would add up.
            self._activation(name, scale, nodes, None if name in results else layers)
        made = {name: node for node in nodes for name in node.output}
        placed = []
        for name in self.scales:
            if name not in made:
                placed.extend(self.added.pop(name))
        for node in nodes:
            placed.extend(self.added.pop(f"weights of {node.name}", []))
            placed.append(node)
            for output in node.output:
                placed.extend(self.added.pop(output, []))
        del self.graph.node[:]
        self.graph.node.extend(placed)
        self._drop_unused()

    def _activation(
        self, name: str, scale: Scale, nodes: list[onnx.NodeProto], readers: Collection[str] | None
    ) -> None:
        """`readers` are the names of the nodes that are given the 8 bits (None: all)."""
        parts = [f"{name}_scale", f"{name}_zero"]
        self._constant(parts[0], np.array(scale.scale))
        self._constant(parts[1], scale.zero)
        self.added[name] = [
            helper.make_node("QuantizeLinear", [name, *parts], [f"{name}_q"], f"{name}_q"),
            helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [f"{name}_dq"],
                             f"{name}_dq"),
        ]  # fmt: skip
        for node in nodes:
            if readers is not None and not (node.op_type == "Conv" and node.name in readers):
                continue
            for index, source in enumerate(node.input):
                if source == name:
                    node.input[index] = f"{name}_dq"

    def _weights(self, node: onnx.NodeProto) -> None:
        weight = self.constants[node.input[1]]
        units, scales = weight_units(weight)
        place = f"weights of {node.name}"
        self.added[place] = [
            self._dequantised(node.input[1], units.astype(np.int8), scales, np.int8)
        ]
        source = node.input[0]
        node.input[1] = f"{node.input[1]}_dq"
        if len(node.input) > 2 and self.target == "cpu":
            unit = scales.astype(np.float64) * float(self.scales[source].scale)
            limit = 2.0**31 - 1
            bias = np.clip(np.rint(self.constants[node.input[2]] / unit), -limit, limit)
            self.added[place].append(
                self._dequantised(
                    node.input[2], bias.astype(np.int32), unit.astype(np.float32), np.int32
                )
            )
            node.input[2] = f"{node.input[2]}_dq"

    def _dequantised(
        self, name: str, units: Array, scales: NDArray[np.float32], kind: type[np.generic]
    ) -> onnx.NodeProto:
        parts = [f"{name}_units", f"{name}_scales", f"{name}_zeros"]
        self._constant(parts[0], units)
        self._constant(parts[1], scales)
        self._constant(parts[2], np.zeros(len(scales), kind))
        return helper.make_node("DequantizeLinear", parts, [f"{name}_dq"], f"{name}_dq", axis=0)

    def _constant(self, name: str, value: Array) -> None:
        if name not in self.constants:
            self.constants[name] = value
            self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _drop_unused(self) -> None:
        used = {name for node in self.graph.node for name in node.input}
        for tensor in [t for t in self.graph.initializer if t.name not in used]:
            self.graph.initializer.remove(tensor)


def multiplications(model: onnx.ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Of each Conv node, for outputs of these shapes."""
    weights = {t.name: t.dims for t in model.graph.initializer}
    return {
        node.name: int(np.prod(weights[node.input[1]]) * np.prod(sizes[node.output[0]][2:]))
        for node in model.graph.node
        if node.op_type == "Conv"
    }
