"""8-bit graphs with channels last, as onnxruntime's kernels for CPUs have them.

onnxruntime turns integer convolutions to channels last by itself, but not what stands between them:
each then has a transposition in front and one behind, and each residual sum two conversions too
many. Here the whole graph is turned once, at export, and computes the same:

    Q ─► DQ ─► Conv ─► (Relu) ─► Q       QLinearConv, channels last
    Q ─► DQ ─► Conv ─► sums, gains       MatMulIntegerToFloat, with the rate's gain in its scales
    pointwise Conv in float              MatMul
    DepthToSpace                         a transposition of whole rows of channels
    pictures, their sums, differences    8 bits (1, H, W, 3) in whole levels (`level_pictures`)
    element by element                   as it was, in the layout of what it is given
    anything else                        as it was, between transpositions

So inputs and outputs that are pictures become uint8 (1, H, W, 3), and those that the caller names
uint8 with channels last. `graph` is one of `dsin.calibration.qdq` for the target cpu, with its
weights inside.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsin.runtime.errors import ExportError

MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own operators."""
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
COLOURS = 3
ELEMENTWISE = {"Add", "Clip", "Identity", "Log", "Min", "Mul", "Relu", "Sub"}
Floats = npt.NDArray[np.float32]


class _Weights(NamedTuple):
    """Names of 8-bit weights, their scales and zeros."""

    units: str
    scales: str
    zeros: str


class _Gain(NamedTuple):
    """Factors (rates, channels) of what a layer yields, and the name of the rate."""

    rows: Floats
    rate: str


class _Levels(NamedTuple):
    """A picture of 8 bits, (1, H, W, 3), by name, and what stands for 0 in it."""

    units: str
    zero: int


def channels_last(model: onnx.ModelProto, units: Collection[str] = ()) -> onnx.ModelProto:
    """The same graph. Pictures among its inputs and outputs become uint8 (1, H, W, 3), tensors that
    `units` names the 8 bits that layers read of them, uint8 with channels last. Raises ExportError
    for a graph that is not as described above."""
    turned = _Turned(model.graph, units)
    for node in model.graph.node:
        turned.take(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:]
    result.graph.node.extend(turned.finish())
    used = {name for node in result.graph.node for name in node.input}
    result.graph.initializer.extend(t for n, t in turned.constants.items() if n in used)
    for value in (*result.graph.input, *result.graph.output):
        if value.name in turned.bytes_at_border:
            _turn_to_bytes(value)
    result.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return result


class _Turned:
    """The graph in the making. `constants` are its initialisers by name; `bytes_at_border` names
    the inputs and outputs that have become uint8."""

    def __init__(self, graph: onnx.GraphProto, units: Collection[str]) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        pictures = {value.name for value in graph.input if _colours(value) == COLOURS}
        given = {value.name for value in graph.input}
        self.bytes_at_border = pictures | set(units)
        self._graph = graph
        self._units = set(units)
        self._nodes: list[onnx.NodeProto] = []
        self._makers = {node.output[0]: node for node in graph.node}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = [value.name for value in graph.output]
        self._first = given - self.bytes_at_border
        self._last: dict[str, str] = {}
        self._levels = {name: _Levels(name, 0) for name in pictures}
        self._joined: dict[str, list[str]] = {}
        self._weights = {
            node.output[0]: _Weights(*node.input)
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants
        }
        self._restored: dict[str, onnx.NodeProto] = {}
        self._rows: set[str] = set()
        self._gained: set[str] = set()
        self._done: set[str] = set()
        self._names: dict[str, str] = {}

    def take(self, node: onnx.NodeProto) -> None:
        """The next node of the graph, in its order."""
        if node.output[0] in self._done:
            return
        known: dict[str, Callable[[onnx.NodeProto], None]] = {
            **dict.fromkeys(ELEMENTWISE, self._elementwise),
            "Gather": self._gather, "QuantizeLinear": self._quantise,
            "DequantizeLinear": self._restore, "Conv": self._convolve, "Concat": self._concat,
            "DepthToSpace": self._enlarge,
        }  # fmt: skip
        if node.op_type not in known:
            raise ExportError(f"{node.op_type} {node.name} cannot be turned to channels last")
        known[node.op_type](node)

    def finish(self) -> list[onnx.NodeProto]:
        """All nodes that are needed, with outputs that have channels first or are of 8 bits."""
        for name in self._outputs:
            if name in self._levels:
                self._as_output(self._levels[name].units, name)
            elif name in self._units:
                self._as_output(self._last[f"{name}_q"], name)
            else:
                self._with_channels_first(name)
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    names[place] = self._names.get(name, name)
        return _needed(self._nodes, self._outputs)

    def _as_output(self, tensor: str, name: str) -> None:
        self._names[tensor] = name
        self.bytes_at_border.add(name)

    # What a tensor is called in either layout.

    def _with_channels_last(self, name: str) -> str:
        self._dequantise(name)
        if name not in self._last:
            self._require_float(name)
            self._add("Transpose", [name], f"{name}_last", perm=LAST)
            self._last[name] = f"{name}_last"
        return self._last[name]

    def _with_channels_first(self, name: str) -> str:
        self._dequantise(name)
        if name not in self._first and name in self._last:
            self._add("Transpose", [self._last[name]], name, perm=FIRST)
            self._first.add(name)
        self._require_float(name)
        return name

    def _require_float(self, name: str) -> None:
        if name in self._levels or name in self._units - self._first - set(self._last):
            raise ExportError(f"{name} has become 8 bits, which its readers cannot take")

    def _dequantise(self, name: str) -> None:
        """The float values of an 8-bit tensor, which only now somebody asks for."""
        node = self._restored.get(name)
        if node is None or name in self._first or name in self._last:
            return
        self._plain(node)

    # Nodes.

    def _gather(self, node: onnx.NodeProto) -> None:
        """A row of factors for each channel, (rates, C, 1, 1)."""
        rows = self._array(node.input[0])
        turned = self._constant(f"{node.input[0]}_last", rows.transpose(LAST))
        self._add("Gather", [turned, node.input[1]], node.output[0], axis=0)
        self._rows.add(node.output[0])

    def _restore(self, node: onnx.NodeProto) -> None:
        if node.input[0] not in self.constants:
            self._restored[node.output[0]] = node

    def _quantise(self, node: onnx.NodeProto) -> None:
        source, target = node.input[0], node.output[0]
        parts = self._joined.get(source, [source])
        if all(name in self._levels for name in parts):
            self._joined[target] = [self._whole_levels(name, node) for name in parts]
        elif source in self._joined:
            units = [self._units_of(name, node) for name in parts]
            self._add("Concat", units, f"{target}_last", axis=3)
            self._last[target] = f"{target}_last"
        else:
            self._plain(node)

    def _whole_levels(self, name: str, node: onnx.NodeProto) -> str:
        levels = self._levels[name]
        scale, zero = (self._array(part).item() for part in node.input[1:3])
        if scale != 1 or zero != levels.zero:
            raise ExportError(f"{node.name} does not keep the whole levels of {name}")
        return levels.units

    def _units_of(self, name: str, node: onnx.NodeProto) -> str:
        """One part of what a QuantizeLinear is given, in 8 bits with channels last."""
        if name in self._units:
            return name
        units = f"{name}_part"
        self._add("QuantizeLinear", [self._with_channels_last(name), *node.input[1:3]], units)
        return units

    def _elementwise(self, node: onnx.NodeProto) -> None:
        if node.input[0] in self._levels:
            self._combine_levels(node)
        elif node.output[0] in self._gained:
            (data,) = (name for name in node.input if name not in self._rows)
            self._last[node.output[0]] = self._last[data]
        else:
            self._plain(node)

    def _combine_levels(self, node: onnx.NodeProto) -> None:
        """Differences and sums of pictures, which 8 bits bound by themselves."""
        inputs = [self._levels.get(name) for name in node.input[:2]]
        zeros = [levels.zero if levels else None for levels in inputs]
        middle = 128
        if node.op_type == "Clip" and zeros[0] == 0 and self._clips_to_levels(node):
            self._levels[node.output[0]] = self._levels[node.input[0]]
            return
        if (node.op_type, zeros) == ("Sub", [0, 0]):
            sign, zero = -1.0, middle
        elif (node.op_type, zeros) == ("Add", [0, middle]):
            sign, zero = 1.0, 0
        else:
            raise ExportError(f"{node.op_type} {node.name} cannot be done on pictures in 8 bits")
        one = self._constant("one_level", np.float32(1))
        signed = self._constant(f"signed_level{sign:+.0f}", np.float32(sign))
        first, second = (self._levels[name] for name in node.input)
        parts = [
            first.units, one, self._unit(first.zero), second.units, signed,
            self._unit(second.zero), one, self._unit(zero),
        ]  # fmt: skip
        output = f"{node.output[0]}_levels"
        self._nodes.append(
            helper.make_node("QLinearAdd", parts, [output], name=node.name, domain=MICROSOFT)
        )
        self._levels[node.output[0]] = _Levels(output, zero)

    def _clips_to_levels(self, node: onnx.NodeProto) -> bool:
        return [self._array(end).item() for end in node.input[1:]] == [0, 255]

    def _unit(self, value: int) -> str:
        return self._constant(f"unit{value}", np.uint8(value))

    def _plain(self, node: onnx.NodeProto) -> None:
        data = [n for n in node.input if n not in self.constants and n not in self._rows]
        for name in data:
            self._dequantise(name)
            self._require_float(name)
        rows = len(data) < len([n for n in node.input if n not in self.constants])
        if not rows and not any(name in self._last for name in data):
            self._nodes.append(_copied(node))
            self._first.add(node.output[0])
            return
        inputs = [self._with_channels_last(n) if n in data else self._broadcast(n)
                  for n in node.input]  # fmt: skip
        output = f"{node.output[0]}_last"
        self._nodes.append(helper.make_node(
            node.op_type, inputs, [output], name=node.name, **_attributes(node)
        ))  # fmt: skip
        self._last[node.output[0]] = output

    def _concat(self, node: onnx.NodeProto) -> None:
        if [reader.op_type for reader in self._readers[node.output[0]]] == ["QuantizeLinear"]:
            self._joined[node.output[0]] = list(node.input)
            return
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
            if self._is_rounded(node):
                self._convolve_integers(node)
            else:
                self._multiply_integers(node)
        elif _side_of_matrix(node, self._shape(node.input[1])) == 1:
            self._multiply(node)
        else:
            inputs = [self._with_channels_first(node.input[0]), *node.input[1:]]
            self._nodes.append(helper.make_node(
                "Conv", inputs, node.output, name=node.name, **_attributes(node)
            ))  # fmt: skip
            self._first.add(node.output[0])

    def _is_rounded(self, node: onnx.NodeProto) -> bool:
        """Whether an 8-bit layer yields 8 bits, and does not have to yield float."""
        readers = self._readers.get(node.output[0], [])
        if len(readers) == 1 and readers[0].op_type == "Relu":
            readers = self._readers.get(readers[0].output[0], [])
        if [reader.op_type for reader in readers] == ["QuantizeLinear"]:
            # It may read along with others, of a tensor that is no layer's result alone.
            return True
        if _side_of_matrix(node, self._shape(self._weights[node.input[1]].units)) is None:
            raise ExportError(f"{node.output[0]} of an 8-bit convolution is read more than once")
        return False

    def _convolve_integers(self, node: onnx.NodeProto) -> None:
        """With the Relu and the QuantizeLinear behind it, which clips as the Relu does."""
        (rounding,) = self._readers[node.output[0]]
        if rounding.op_type == "Relu":
            self._done.add(rounding.output[0])
            (rounding,) = self._readers[rounding.output[0]]
            if self._array(rounding.input[2]).item() != 0:
                raise ExportError(f"{node.name}: a zero point other than 0 behind a Relu")
        self._done.add(rounding.output[0])
        order = self._order_for_enlargement(self._readers_of_units(rounding))
        weights, bias = self._ordered(node, order)
        output = f"{rounding.output[0]}_last"
        inputs = [*self._source(node), *weights, *rounding.input[1:3], *bias]
        attributes = {**_attributes(node), "kernel_shape": self._shape(weights.units)[2:]}
        self._nodes.append(helper.make_node(
            "QLinearConv", inputs, [output], name=node.name, domain=MICROSOFT, channels_last=1,
            **attributes,
        ))  # fmt: skip
        self._last[rounding.output[0]] = output

    def _readers_of_units(self, rounding: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        return [
            reader
            for restored in self._readers.get(rounding.output[0], [])
            for reader in self._readers.get(restored.output[0], [])
        ]

    def _ordered(
        self, node: onnx.NodeProto, order: npt.NDArray[np.intp] | None
    ) -> tuple[_Weights, list[str]]:
        """An 8-bit layer's weights and bias, with its outputs in that order."""
        weights = self._weights[node.input[1]]
        bias = [self._weights[node.input[2]].units] if len(node.input) > 2 else []
        if order is None:
            return weights, bias
        turned = [self._constant(f"{name}_ordered", self._array(name)[order])
                  for name in (*weights, *bias)]  # fmt: skip
        return _Weights(*turned[:3]), turned[3:]

    def _source(self, node: onnx.NodeProto) -> list[str]:
        """What an 8-bit layer reads: the tensor, its scale and its zero."""
        given = self._restored[node.input[0]]
        return [self._units_last(given.input[0])[0], *given.input[1:3]]

    def _units_last(self, name: str) -> list[str]:
        """Parts of an 8-bit tensor, which lie side by side."""
        if name in self._joined:
            return self._joined[name]
        return [self._with_channels_last(name)]

    def _multiply_integers(self, node: onnx.NodeProto) -> None:
        """An 8-bit layer that sums or gains read: float, with the rate's gain in the scales."""
        given, weights = self._restored[node.input[0]], self._weights[node.input[1]]
        order = self._order_for_enlargement(self._readers.get(node.output[0], []))
        units, scales = self._array(weights.units), self._array(weights.scales)
        bias = np.zeros(len(units), np.float32)
        if len(node.input) > 2:
            parts = self._weights[node.input[2]]
            bias = self._array(parts.units) * self._array(parts.scales)
        if order is not None:
            units, scales, bias = units[order], scales[order], bias[order]
        side = units.shape[2]
        sources = self._units_last(given.input[0])
        kernels = [
            part.transpose(2, 3, 1, 0).reshape(-1, len(units))
            for part in np.split(units, len(sources), axis=1)
        ]
        kernel = self._constant(f"{node.name}_kernel", np.concatenate(kernels))
        rows = [self._reduced(source, node.name, side) for source in sources]
        data = rows[0]
        if len(rows) > 1:
            data = f"{node.name}_read"
            self._add("Concat", rows, data, axis=2 if side > 1 else 3)
        scale, offset = self._gained_parts(node, scales, bias)
        zeros = self._constant(f"{node.name}_zeros", np.zeros(len(units), np.int8))
        output = f"{node.output[0]}_last"
        product = f"{output}_product" if side > 1 else output
        inputs = [data, kernel, given.input[1], scale, given.input[2], zeros, offset]
        self._nodes.append(helper.make_node(
            "MatMulIntegerToFloat", inputs, [product], name=node.name, domain=MICROSOFT
        ))  # fmt: skip
        if side > 1:
            self._add("Unsqueeze", [product, self._axes(0)], output)
        self._last[node.output[0]] = output

    def _gained_parts(self, node: onnx.NodeProto, scales: Floats, bias: Floats) -> tuple[str, str]:
        """Names of a layer's scales and bias, with the gain behind it."""
        gain = self._gain_behind(node.output[0])
        both = [(f"{node.name}_scales", scales), (f"{node.name}_offsets", bias)]
        if gain is None:
            first, second = (self._constant(name, v.astype(np.float32)) for name, v in both)
            return first, second
        for name, values in both:
            rows = self._constant(f"{name}_rows", (gain.rows * values).astype(np.float32))
            # One row, without the axis of rates.
            self._add("Gather", [rows, gain.rate], f"{name}_row", axis=0)
            self._add("Squeeze", [f"{name}_row", self._axes(0)], name)
        return both[0][0], both[1][0]

    def _gain_behind(self, name: str) -> _Gain | None:
        """The rate's factors for what a layer yields, if all of it is multiplied by them."""
        readers = self._readers.get(name, [])
        if len(readers) != 1 or name in self._outputs:
            return None
        (reader,) = readers
        output = reader.output[0]
        if reader.op_type == "DepthToSpace":
            gain = self._gain_behind(output)
            side = int(_attributes(reader)["blocksize"])
            return gain and gain._replace(rows=np.tile(gain.rows, (1, side * side)))
        if reader.op_type == "Add" and all(self._is_integer_product(n) for n in reader.input):
            return self._gain_behind(output)
        if reader.op_type != "Mul":
            return None
        (row,) = (self._makers[n] for n in reader.input if n != name)
        if row.op_type != "Gather":
            return None
        self._gained.add(output)
        return _Gain(self._array(row.input[0])[:, :, 0, 0], row.input[1])

    def _is_integer_product(self, name: str) -> bool:
        """Whether a tensor comes of a layer that `_multiply_integers` does, for one reader."""
        maker = self._makers.get(name)
        return (
            maker is not None and maker.op_type == "Conv" and maker.input[1] in self._weights
            and len(self._readers[name]) == 1
        )  # fmt: skip

    def _reduced(self, source: str, name: str, side: int) -> str:
        """Space to depth: (1, H, W, C) to (H / side, W / side, side · side · C), rows of the kernel
        first."""
        if side == 1:
            return source
        shapes = ([0, 0, -1, side * self._width(source)], [-1, side, 0, 0], [0, 0, -1])
        flat, split, small = (
            self._constant(f"{source}_{name}_shape{n}", np.array(shape, np.int64))
            for n, shape in enumerate(shapes)
        )
        parts = [f"{source}_{name}_{what}" for what in ("flat", "split", "moved", "small")]
        self._add("Reshape", [source, flat], parts[0])
        self._add("Reshape", [parts[0], split], parts[1])
        self._add("Transpose", [parts[1]], parts[2], perm=(0, 2, 1, 3))
        self._add("Reshape", [parts[2], small], parts[3])
        return parts[3]

    def _width(self, source: str) -> int:
        """Channels of an 8-bit tensor that a layer with a stride reads."""
        pictures = {levels.units for levels in self._levels.values()}
        if source in pictures:
            return COLOURS
        reader = next(
            n for n in self._graph.node
            if n.op_type == "Conv" and n.input[0] in self._restored
            and self._last.get(self._restored[n.input[0]].input[0]) == source
        )  # fmt: skip
        return self._shape(self._weights[reader.input[1]].units)[1]

    def _multiply(self, node: onnx.NodeProto) -> None:
        """A pointwise convolution in float."""
        output = f"{node.output[0]}_last"
        kernel = f"{node.name}_kernel"
        order = self._order_for_enlargement(self._readers.get(node.output[0], []))
        weight = self._array(node.input[1])[:, :, 0, 0]
        self._constant(kernel, (weight if order is None else weight[order]).T)
        biased = len(node.input) > 2
        product = f"{output}_product" if biased else output
        self._add("MatMul", [self._with_channels_last(node.input[0]), kernel], product)
        if biased:
            bias = self._array(node.input[2])
            name = self._constant(f"{node.name}_bias_last", bias if order is None else bias[order])
            self._add("Add", [product, name], output)
        self._last[node.output[0]] = output

    def _order_for_enlargement(
        self, readers: Sequence[onnx.NodeProto]
    ) -> npt.NDArray[np.intp] | None:
        """Channels so that a DepthToSpace behind them moves whole rows; None without one."""
        enlarging = [reader for reader in readers if reader.op_type == "DepthToSpace"]
        if not enlarging:
            return None
        if len(readers) > 1:
            raise ExportError(f"{enlarging[0].name} is not alone in what it reads")
        channels, side = self._enlarged_channels(enlarging[0])
        order: npt.NDArray[np.intp] = (
            np.arange(channels * side * side).reshape(channels, side, side).transpose(1, 2, 0)
            .ravel()
        )  # fmt: skip
        return order

    def _enlarge(self, node: onnx.NodeProto) -> None:
        """DepthToSpace by columns and rows of each channel (CRD), whose channels come in
        `_order_for_enlargement`."""
        given = self._restored.get(node.input[0])
        source = self._with_channels_last(node.input[0] if given is None else given.input[0])
        channels, side = self._enlarged_channels(node)
        picture = given is not None and channels == COLOURS
        if given is not None and not (picture and self._array(given.input[1]).item() == 1):
            raise ExportError(f"{node.name} enlarges 8 bits that are no picture in whole levels")
        shapes = ([0, 0, side, side * channels], [1, -1, 0, side * channels], [0, 0, -1, channels])
        split, merged, whole = (
            self._constant(f"{node.name}_shape{n}", np.array(shape, np.int64))
            for n, shape in enumerate(shapes)
        )
        parts = [f"{node.output[0]}_{what}" for what in ("flat", "split", "moved", "rows", "last")]
        self._add("Squeeze", [source, self._axes(0)], parts[0])
        self._add("Reshape", [parts[0], split], parts[1])
        self._add("Transpose", [parts[1]], parts[2], perm=(0, 2, 1, 3))
        self._add("Reshape", [parts[2], merged], parts[3])
        self._add("Reshape", [parts[3], whole], parts[4])
        if given is None:
            self._last[node.output[0]] = parts[4]
        else:
            self._levels[node.output[0]] = _Levels(parts[4], self._array(given.input[2]).item())

    def _enlarged_channels(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Channels of what a DepthToSpace yields, and the side of its blocks."""
        if _attributes(node).get("mode", b"DCR") != b"CRD":
            raise ExportError(f"{node.name} is no DepthToSpace channel by channel")
        side = int(_attributes(node)["blocksize"])
        maker = self._makers[node.input[0]]
        while maker.op_type in ("DequantizeLinear", "QuantizeLinear"):
            maker = self._makers[maker.input[0]]
        if maker.op_type != "Conv":
            raise ExportError(f"{node.name} does not enlarge what a convolution yields")
        name = maker.input[1]
        channels = self._shape(self._weights[name].units if name in self._weights else name)[0]
        return channels // side**2, side

    # Smaller parts.

    def _add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self._nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{kind} {output}", **attributes)
        )

    def _axes(self, axis: int) -> str:
        return self._constant(f"axis{axis}", np.array([axis], np.int64))

    def _broadcast(self, name: str) -> str:
        """A constant beside channels that are last."""
        if name in self._rows or len(self._shape(name)) < 4:
            return name
        return self._constant(f"{name}_last", self._array(name).transpose(LAST))

    def _constant(self, name: str, values: npt.ArrayLike) -> str:
        self.constants[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name

    def _array(self, name: str) -> npt.NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def _shape(self, name: str) -> list[int]:
        return list(self.constants[name].dims)


def _side_of_matrix(node: onnx.NodeProto, shape: Sequence[int]) -> int | None:
    """Side of the kernel of a convolution that sees each value once; None for another."""
    attributes = _attributes(node)
    alone = attributes.get("group", 1) == 1 and not any(attributes.get("pads", [0]))
    strides = list(attributes.get("strides", [1, 1]))
    return int(shape[2]) if alone and list(shape[2:]) == strides else None


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Without those whose outputs nobody reads."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _colours(value: onnx.ValueInfoProto) -> int:
    """Channels of an input that has four axes, or 0."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 4 else 0


def _turn_to_bytes(value: onnx.ValueInfoProto) -> None:
    shape = value.type.tensor_type.shape
    dims = [dim.dim_param or dim.dim_value for dim in shape.dim]
    turned = helper.make_tensor_value_info(
        value.name, TensorProto.UINT8, [dims[axis] for axis in LAST]
    )
    value.CopyFrom(turned)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
