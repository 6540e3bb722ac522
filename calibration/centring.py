"""Features of an activation shifted to have zero in the middle: 8 bits hold them in finer steps.

    conv, bias + d ─► feature + d ─► pointwise conv, bias - kernel · d

The graph computes what it did. Only what pointwise layers and sums read can be shifted: padding is
zero, and so is the corner of a Relu. A sum has the shifts of what it adds, so along a residual
connection each layer makes up for the difference between the sum before it and the one behind.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dsin.calibration.equalisation import Features, copied, replace_constant
from dsin.calibration.ranges import Extent


def centring_shifts(model: onnx.ModelProto, extents: Mapping[str, Extent]) -> dict[str, Features]:
    """What is added to the features (features,) of tensors; those not in it stay."""
    graph = _Graph(model.graph)
    shifts: dict[str, Features] = {}
    for node in model.graph.node:
        result = node.output[0]
        wanted = None
        if result in extents and graph.can_be_shifted(result):
            wanted = -(extents[result].low + extents[result].high) / 2
        if node.op_type == "Conv" and wanted is not None and graph.has_bias(node):
            shifts[result] = wanted
        elif node.op_type == "Add":
            _shift_sum(graph, node, wanted, shifts)
    return shifts


def _shift_sum(
    graph: "_Graph", node: onnx.NodeProto, wanted: Features | None, shifts: dict[str, Features]
) -> None:
    """By the bias of the layer that it adds to a sum before it, or that to its shift."""
    before, added = node.input
    layer = graph.makers.get(added)
    if layer is None or not graph.is_free_summand(layer):
        return
    if wanted is not None:
        shifts[node.output[0]] = wanted
    elif before not in shifts:
        return
    shifts[added] = (0.0 if wanted is None else wanted) - shifts.get(before, np.zeros(()))


def centred(model: onnx.ModelProto, shifts: Mapping[str, Features]) -> onnx.ModelProto:
    """A copy that computes the same, with these tensors shifted (`centring_shifts`)."""
    out, constants = copied(model)
    for node in out.graph.node:
        if node.op_type != "Conv" or not (node.output[0] in shifts or node.input[0] in shifts):
            continue
        bias = constants[node.input[2]]
        value = numpy_helper.to_array(bias) + shifts.get(node.output[0], 0.0)
        if node.input[0] in shifts:
            kernel = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            value = value - kernel.sum((2, 3)) @ shifts[node.input[0]]
        replace_constant(bias, value)
    return out


class _Graph:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name for tensor in graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def has_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a Conv node has a bias of its own."""
        own = node.input[2] if len(node.input) > 2 else ""
        return own in self._constants and len(self._readers[own]) == 1

    def can_be_shifted(self, name: str) -> bool:
        """Whether pointwise layers alone read a tensor, or sums that go on to such."""
        return name not in self._outputs and all(
            self._is_pointwise(reader)
            or (reader.op_type == "Add" and reader.input[0] == name and self._is_residual(reader))
            for reader in self._readers[name]
        )

    def is_free_summand(self, node: onnx.NodeProto) -> bool:
        """Whether a sum alone reads what a Conv node yields."""
        return (
            node.op_type == "Conv" and self.has_bias(node)
            and [reader.op_type for reader in self._readers[node.output[0]]] == ["Add"]
        )  # fmt: skip

    def _is_residual(self, node: onnx.NodeProto) -> bool:
        layer = self.makers.get(node.input[1])
        return layer is not None and self.is_free_summand(layer)

    def _is_pointwise(self, node: onnx.NodeProto) -> bool:
        values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        return (
            node.op_type == "Conv" and self.has_bias(node)
            and values.get("group", 1) == 1 and not any(values.get("pads", [0]))
        )  # fmt: skip
