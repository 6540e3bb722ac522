"""Features of an activation made alike in size, so that one 8-bit step suits all of them.

    conv ─► feature c · s_c ─► relu, sums, gains ─► feature c · s_c ─► conv with column c / s_c

Kernels have a scale per output and lose nothing by s; the graph computes what it did. Features
that a sum links share their factors, and a gain of the rate takes over the ratio of those on its
two sides; features that leave the graph, or that an operator of another kind sees, keep theirs.
(After Nagel et al., "Data-free quantization through weight equalization and bias correction",
ICCV 2019, here with ranges seen on real inputs.)
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dsin.calibration.ranges import Extent

Array = NDArray[Any]
Features = NDArray[np.float64]

SMALLEST = 1 / 64
"""What features below this share of the largest count as: those that were hardly seen at work may
be larger on other frames, and would be cut off."""


def feature_sizes(extents: Mapping[str, Extent]) -> dict[str, Features]:
    """Largest magnitude (features,) of tensors."""
    return {name: np.maximum(seen.high, -seen.low) for name, seen in extents.items()}


def feature_factors(
    model: onnx.ModelProto, sizes: Mapping[str, Features], free: Collection[str] = ()
) -> dict[str, Features]:
    """Factors (features,) of the tensors that can have some, with which features get one size.

    `sizes` is of `feature_sizes`; tensors that are not in it count for nothing. `free` names
    outputs that may be scaled too.
    """
    found: dict[str, Features] = {}
    for linked in linked_tensors(model.graph, free):
        shares = [sizes[name] / max(sizes[name].max(), 1e-30) for name in linked if name in sizes]
        if shares:
            share = np.maximum(np.max(shares, 0), SMALLEST)
            found.update(dict.fromkeys(linked, 1 / share))
    return found


def equalised(model: onnx.ModelProto, factors: Mapping[str, Features]) -> onnx.ModelProto:
    """A copy that computes the same, with the features of these tensors times their factors, which
    are of `feature_factors`."""
    out, constants = copied(model)
    for node in out.graph.node:
        if node.op_type == "Conv":
            _scale(node, constants, factors)
    for gain in _gains(out.graph):
        rows = constants[gain.rows]
        ratio = factors.get(gain.output, 1.0) / np.asarray(factors.get(gain.source, 1.0))
        if ratio.ndim:
            replace_constant(rows, numpy_helper.to_array(rows) * ratio[:, None, None])
    return out


class _Gain(NamedTuple):
    """A product with a row of a table (rates, features, 1, 1) that nothing else reads."""

    source: str
    rows: str
    output: str


def _gains(graph: onnx.GraphProto) -> list[_Gain]:
    constants = {tensor.name for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    rows = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in constants
        and uses[node.input[0]] == uses[node.output[0]] == 1
    }  # fmt: skip
    return [
        _Gain(next(n for n in node.input if n not in rows), rows[row], node.output[0])
        for node in graph.node
        if node.op_type == "Mul"
        for row in node.input
        if row in rows
    ]


def linked_tensors(graph: onnx.GraphProto, free: Collection[str] = ()) -> list[set[str]]:
    """Sets of tensors whose features can be scaled together, without those that must not be;
    outputs must not, but for those in `free`."""
    uses = Counter(name for node in graph.node for name in node.input)
    constants = {tensor.name: tensor.dims for tensor in graph.initializer}
    rows = {n.output[0] for n in graph.node if n.op_type == "Gather" and n.input[0] in constants}
    sets: dict[str, set[str]] = {}
    fixed = {value.name for value in (*graph.input, *graph.output)} - set(free)
    gains = {gain.output: gain for gain in _gains(graph)}

    def link(names: Iterable[str]) -> None:
        merged = set().union(*(sets.get(name, {name}) for name in names))
        sets.update(dict.fromkeys(merged, merged))

    for node in graph.node:
        tensors = [n for n in (*node.input, *node.output) if n and n not in constants]
        if node.op_type == "Conv":
            own = [name for name in node.input[1:] if name]
            kernel = constants.get(node.input[1], ())
            known = all(name in constants and uses[name] == 1 for name in own)
            link([node.input[0]])
            link([node.output[0]])
            if not known or not _is_plain_or_depthwise(node, kernel):
                fixed.update(tensors)
        elif node.op_type in ("Relu", "Identity") or (
            node.op_type == "Add" and not set(node.input) & constants.keys()
        ):
            link(tensors)
        elif node.output[0] in gains:
            link([gains[node.output[0]].source])
            link(node.output)
        elif node.op_type == "Mul" and set(node.input) & rows:
            link([name for name in tensors if name not in rows])
        elif node.output[0] not in rows:
            fixed.update(tensors)
    unique = {id(members): members for members in sets.values()}
    return [members for members in unique.values() if not members & fixed]


def _groups(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "group"), 1)


def _is_plain_or_depthwise(node: onnx.NodeProto, kernel: Sequence[int]) -> bool:
    return _groups(node) == 1 or (kernel[1] == 1 and _groups(node) == kernel[0])


def _scale(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto],
    factors: Mapping[str, Features],
) -> None:  # fmt: skip
    kernel = constants[node.input[1]]
    weight = numpy_helper.to_array(kernel).astype(np.float64)
    given, made = factors.get(node.input[0]), factors.get(node.output[0])
    if given is not None:
        weight = weight / (given[:, None, None, None] if _groups(node) > 1
                           else given[None, :, None, None])  # fmt: skip
    if made is not None:
        weight = weight * made[:, None, None, None]
        if len(node.input) > 2:
            bias = constants[node.input[2]]
            replace_constant(bias, numpy_helper.to_array(bias) * made)
    replace_constant(kernel, weight)


def copied(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy of a graph, and its initialisers by name."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    return out, {tensor.name: tensor for tensor in out.graph.initializer}


def replace_constant(tensor: onnx.TensorProto, value: Array) -> None:
    """Give an initialiser this value, as float32."""
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
