"""Features of an activation made alike in size, so that one 8-bit step suits all of them.

    conv ─► feature c · s_c ─► relu, sums, gains ─► feature c · s_c ─► conv with column c / s_c

Kernels have a scale per output and lose nothing by s; the graph computes what it did. Features
that a sum or a gain links share their factors; those that leave the graph, or that an operator of
another kind sees, keep theirs. (After Nagel et al., "Data-free quantization through weight
equalization and bias correction", ICCV 2019, here with ranges seen on real inputs.)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
Floats = NDArray[np.floating]

SMALLEST = 1 / 64
"""What features below this share of the largest count as: those that were hardly seen at work may
be larger on other frames, and would be cut off."""


def feature_sizes(
    runs: Iterable[Mapping[str, Array]], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Largest magnitude (features,) of the named tensors (1, features, h, w) over all runs."""
    sizes: dict[str, NDArray[np.float64]] = {}
    for run in runs:
        for name in names:
            if run[name].ndim == 4:
                largest = np.abs(run[name]).max((0, 2, 3)).astype(np.float64)
                sizes[name] = np.maximum(sizes.get(name, largest), largest)
    return sizes


def equalised(model: onnx.ModelProto, sizes: Mapping[str, NDArray[np.float64]]) -> onnx.ModelProto:
    """A copy that computes the same with features of one size, as far as that is possible.

    `sizes` is of `feature_sizes`; tensors that are not in it count for nothing.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    factors = _factors(out.graph, sizes)
    constants = {tensor.name: tensor for tensor in out.graph.initializer}
    for node in out.graph.node:
        if node.op_type == "Conv":
            _scale(node, constants, factors)
    return out


def _factors(
    graph: onnx.GraphProto, sizes: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Of every tensor that has some."""
    found: dict[str, NDArray[np.float64]] = {}
    for linked in linked_tensors(graph):
        shares = [sizes[name] / max(sizes[name].max(), 1e-30) for name in linked if name in sizes]
        if shares:
            share = np.maximum(np.max(shares, 0), SMALLEST)
            found.update(dict.fromkeys(linked, 1 / share))
    return found


def linked_tensors(graph: onnx.GraphProto) -> list[set[str]]:
    """Sets of tensors whose features can be scaled together, without those that must not be."""
    uses: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    constants = {tensor.name: tensor.dims for tensor in graph.initializer}
    rows = {n.output[0] for n in graph.node if n.op_type == "Gather" and n.input[0] in constants}
    sets: dict[str, set[str]] = {}
    fixed = {value.name for value in (*graph.input, *graph.output)}

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
    factors: Mapping[str, NDArray[np.float64]],
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
            _replace(bias, numpy_helper.to_array(bias) * made)
    _replace(kernel, weight)


def _replace(tensor: onnx.TensorProto, value: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
