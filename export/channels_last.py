"""8-bit graphs with channels last, as onnxruntime's kernels for CPUs have them.

onnxruntime turns integer convolutions to channels last by itself, but not what stands between them:
each then has a transposition in front and one behind, and each residual sum two conversions too
many. Here the whole graph is turned once, at export, and computes the same:

    Q ─► DQ ─► Conv ─► (Relu) ─► Q     QLinearConv, channels last
    pointwise Conv in float            MatMul
    DepthToSpace                       a transposition of whole rows of channels
    element by element                 as it was, in the layout of what it is given
    anything else                      as it was, between transpositions

`graph` is one of `dsin.calibration.qdq` for the target cpu, with its weights inside.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from dsin.runtime.errors import ExportError

MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own operators."""
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
FEW = 4
"""Channels of a picture, at most: pictures stay with channels first."""
ELEMENTWISE = {"Add", "Clip", "Identity", "Log", "Min", "Mul", "Relu", "Sub"}


class _Weights(NamedTuple):
    """Names of 8-bit weights, their scales and zeros."""

    units: str
    scales: str
    zeros: str


def channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, with the same inputs and outputs. Raises ExportError for one that is not as
    described above."""
    turned = _Turned(model.graph)
    for node in model.graph.node:
        turned.take(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(turned.finish())
    used = {name for node in result.graph.node for name in node.input}
    result.graph.initializer.extend(t for n, t in turned.constants.items() if n in used)
    result.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return result


class _Turned:
    """The graph in the making. `constants` are its initialisers by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = [value.name for value in graph.output]
        self._first = {value.name for value in graph.input}
        self._last: dict[str, str] = {}
        self._weights: dict[str, _Weights] = {}
        self._restored: dict[str, onnx.NodeProto] = {}
        self._rows: set[str] = set()
        self._done: set[str] = set()

    def take(self, node: onnx.NodeProto) -> None:
        """The next node of the graph, in its order."""
        if node.output[0] in self._done:
            return
        known: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Gather": self._gather, "QuantizeLinear": self._elementwise,
            "DequantizeLinear": self._restore, "Conv": self._convolve, "Concat": self._concat,
            "DepthToSpace": self._enlarge, **dict.fromkeys(ELEMENTWISE, self._elementwise),
        }  # fmt: skip
        if node.op_type not in known:
            raise ExportError(f"{node.op_type} {node.name} cannot be turned to channels last")
        known[node.op_type](node)

    def finish(self) -> list[onnx.NodeProto]:
        """All nodes, with outputs that have channels first."""
        for name in self._outputs:
            self._with_channels_first(name)
        return self._nodes

    # What a tensor is called in either layout.

    def _with_channels_last(self, name: str) -> str:
        self._dequantise(name)
        if name not in self._last:
            self._add("Transpose", [name], f"{name}_last", perm=LAST)
            self._last[name] = f"{name}_last"
        return self._last[name]

    def _with_channels_first(self, name: str) -> str:
        self._dequantise(name)
        if name not in self._first and name in self._last:
            self._add("Transpose", [self._last[name]], name, perm=FIRST)
            self._first.add(name)
        return name

    def _dequantise(self, name: str) -> None:
        """The float values of an 8-bit tensor, which only now somebody asks for."""
        node = self._restored.get(name)
        if node is None or name in self._first or name in self._last:
            return
        self._elementwise(node)

    # Nodes.

    def _gather(self, node: onnx.NodeProto) -> None:
        """A row of factors for each channel, (rates, C, 1, 1)."""
        rows = self._array(node.input[0])
        turned = self._constant(f"{node.input[0]}_last", rows.transpose(LAST))
        self._add("Gather", [turned, node.input[1]], node.output[0], axis=0)
        self._rows.add(node.output[0])

    def _restore(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self.constants:
            self._weights[node.output[0]] = _Weights(*node.input)
        else:
            self._restored[node.output[0]] = node

    def _elementwise(self, node: onnx.NodeProto) -> None:
        data = [n for n in node.input if n not in self.constants and n not in self._rows]
        for name in data:
            self._dequantise(name)
        rows = len(data) < len([n for n in node.input if n not in self.constants])
        if not rows and not any(name in self._last for name in data):
            self._nodes.append(node)
            self._first.add(node.output[0])
            return
        inputs = [self._with_channels_last(n) if n in data else self._broadcast(n)
                  for n in node.input]  # fmt: skip
        self._copy(node, inputs)

    def _concat(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self._dequantise(name)
        if not all(name in self._last for name in node.input):
            self._nodes.append(helper.make_node(
                "Concat", [self._with_channels_first(name) for name in node.input], node.output,
                name=node.name, axis=1,
            ))  # fmt: skip
            self._first.add(node.output[0])
            return
        self._add("Concat", [self._last[n] for n in node.input], f"{node.output[0]}_last", axis=3)
        self._last[node.output[0]] = f"{node.output[0]}_last"

    def _convolve(self, node: onnx.NodeProto) -> None:
        if node.input[1] in self._weights:
            self._convolve_integers(node)
        elif _is_pointwise(node, self._shape(node.input[1])):
            self._multiply(node)
        else:
            inputs = [self._with_channels_first(node.input[0]), *node.input[1:]]
            self._nodes.append(helper.make_node(
                "Conv", inputs, node.output, name=node.name, **_attributes(node)
            ))  # fmt: skip
            self._first.add(node.output[0])

    def _convolve_integers(self, node: onnx.NodeProto) -> None:
        """With the Relu and the QuantizeLinear behind it, which clips as the Relu does."""
        given = self._restored[node.input[0]]
        rounding = self._only_reader(node.output[0])
        if rounding.op_type == "Relu":
            self._done.add(rounding.output[0])
            rounding = self._only_reader(rounding.output[0])
            if self._array(rounding.input[2]).item() != 0:
                raise ExportError(f"{node.name}: a zero point other than 0 behind a Relu")
        if rounding.op_type != "QuantizeLinear":
            raise ExportError(f"{node.name}: {rounding.op_type} behind an 8-bit convolution")
        self._done.add(rounding.output[0])
        weights = self._weights[node.input[1]]
        bias = [self._weights[node.input[2]].units] if len(node.input) > 2 else []
        output = f"{rounding.output[0]}_last"
        inputs = [
            self._with_channels_last(given.input[0]), *given.input[1:3], *weights,
            *rounding.input[1:3], *bias,
        ]  # fmt: skip
        attributes = {**_attributes(node), "kernel_shape": self._shape(weights.units)[2:]}
        self._nodes.append(helper.make_node(
            "QLinearConv", inputs, [output], name=node.name, domain=MICROSOFT, channels_last=1,
            **attributes,
        ))  # fmt: skip
        self._last[rounding.output[0]] = output

    def _multiply(self, node: onnx.NodeProto) -> None:
        """A pointwise convolution in float."""
        output = f"{node.output[0]}_last"
        kernel = f"{node.name}_kernel"
        order = self._order_for_enlargement(node)
        self._constant(kernel, self._array(node.input[1])[:, :, 0, 0].T[:, order])
        biased = len(node.input) > 2
        product = f"{output}_product" if biased else output
        self._add("MatMul", [self._with_channels_last(node.input[0]), kernel], product)
        if biased:
            bias = self._constant(f"{node.name}_bias_last", self._array(node.input[2])[order])
            self._add("Add", [product, bias], output)
        self._last[node.output[0]] = output

    def _order_for_enlargement(self, node: onnx.NodeProto) -> npt.NDArray[np.intp]:
        """Channels so that a DepthToSpace behind it moves whole rows of them."""
        channels = self._shape(node.input[1])[0]
        readers = self._readers.get(node.output[0], [])
        if not self._moves_rows(readers):
            return np.arange(channels)
        side = int(_attributes(readers[0])["blocksize"])
        places = np.arange(channels).reshape(-1, side, side).transpose(1, 2, 0)
        order: npt.NDArray[np.intp] = places.ravel()
        return order

    def _moves_rows(self, readers: Sequence[onnx.NodeProto]) -> bool:
        if len(readers) != 1 or readers[0].op_type != "DepthToSpace":
            return False
        return not self._is_picture(readers[0])

    def _is_picture(self, node: onnx.NodeProto) -> bool:
        """Whether a DepthToSpace yields few channels."""
        return self._channels(node) // int(_attributes(node)["blocksize"]) ** 2 <= FEW

    def _enlarge(self, node: onnx.NodeProto) -> None:
        """DepthToSpace by columns and rows of each channel (CRD)."""
        if _attributes(node).get("mode", b"DCR") != b"CRD":
            raise ExportError(f"{node.name} is no DepthToSpace channel by channel")
        side, picture = _attributes(node)["blocksize"], self._is_picture(node)
        given = self._restored.get(node.input[0])
        # What is of 8 bits moves as such.
        name = node.input[0] if given is None else given.input[0]
        source = self._with_channels_last(name)
        channels = self._channels(node) // side**2
        moved = f"{node.output[0]}_moved"
        if picture:
            split, perm = (channels, side, side), (0, 3, 1, 4, 2, 5)
        elif self._moves_rows(self._readers[node.input[0]]) and given is None:
            split, perm = (side, side, channels), (0, 1, 3, 2, 4, 5)
        else:
            split, perm = (channels, side, side), (0, 1, 4, 2, 5, 3)
        shape = self._constant(f"{node.name}_split", np.array([0, 0, 0, *split], np.int64))
        self._add("Reshape", [source, shape], f"{moved}_split")
        self._add("Transpose", [f"{moved}_split"], f"{moved}_apart", perm=perm)
        size = self._size(source, node.name, side, channels, picture)
        last = node.output[0] if picture else f"{node.output[0]}_last"
        if given is None:
            self._add("Reshape", [f"{moved}_apart", size], last)
        else:
            self._add("Reshape", [f"{moved}_apart", size], moved)
            self._add("DequantizeLinear", [moved, *given.input[1:3]], last)
        if picture:
            self._first.add(node.output[0])
        else:
            self._last[node.output[0]] = last

    def _size(self, source: str, name: str, side: int, channels: int, picture: bool) -> str:
        """The shape of what DepthToSpace yields, from that of what it is given."""
        parts = [self._constant(f"{name}_{n}", np.array([n], np.int64)) for n in (1, channels)]
        begin, end = (self._constant(f"{name}_at{n}", np.array([n], np.int64)) for n in (1, 3))
        factor = self._constant(f"{name}_side", np.array([side], np.int64))
        self._add("Shape", [source], f"{name}_shape")
        self._add("Slice", [f"{name}_shape", begin, end], f"{name}_small")
        self._add("Mul", [f"{name}_small", factor], f"{name}_large")
        order = [*parts, f"{name}_large"] if picture else [parts[0], f"{name}_large", parts[1]]
        self._add("Concat", order, f"{name}_size", axis=0)
        return f"{name}_size"

    # Smaller parts.

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self._nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{kind} {output}", **attributes)
        )

    def _copy(self, node: onnx.NodeProto, inputs: Sequence[str]) -> None:
        """A node in the layout with channels last."""
        output = f"{node.output[0]}_last"
        self._nodes.append(helper.make_node(
            node.op_type, inputs, [output], name=node.name, **_attributes(node)
        ))  # fmt: skip
        self._last[node.output[0]] = output

    def _broadcast(self, name: str) -> str:
        """A constant beside channels that are last."""
        if name in self._rows or len(self._shape(name)) < 4:
            return name
        return self._constant(f"{name}_last", self._array(name).transpose(LAST))

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _array(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def _shape(self, name: str) -> list[int]:
        return list(self.constants[name].dims)

    def _weight_of(self, node: onnx.NodeProto) -> str:
        name = node.input[1]
        return self._weights[name].units if name in self._weights else str(name)

    def _float_source(self, node: onnx.NodeProto) -> str:
        """Output of the Conv that a DepthToSpace enlarges, be it of 8 bits or not."""
        given = self._restored.get(node.input[0])
        if given is None:
            return str(node.input[0])
        rounding = next(n for n in self._graph.node if n.output[0] == given.input[0])
        return str(rounding.input[0])

    def _channels(self, node: onnx.NodeProto) -> int:
        source = next(n for n in self._graph.node if n.output[0] == self._float_source(node))
        return self._shape(self._weight_of(source))[0]

    def _only_reader(self, name: str) -> onnx.NodeProto:
        readers = self._readers.get(name, [])
        if len(readers) != 1 or name in self._outputs:
            raise ExportError(f"{name} of an 8-bit convolution is read more than once")
        return readers[0]


def _is_pointwise(node: onnx.NodeProto, shape: Sequence[int]) -> bool:
    attributes = _attributes(node)
    plain = attributes.get("group", 1) == 1 and set(attributes.get("strides", [1])) == {1}
    return plain and list(shape[2:]) == [1, 1]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
