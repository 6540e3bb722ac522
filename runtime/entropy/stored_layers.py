"""Integer layers read back from their graphs, which is where a bundle has them."""

from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsin.runtime.backends.onnx_weight_files import StoredGraph, read_graph
from dsin.runtime.entropy.integer_network import EXACT, IntegerLayer
from dsin.runtime.errors import BundleError

_LAYER = ["Conv", "Add", "Round", "Mul", "Floor", "Clip"]
"""What a graph does for each layer; the rest puts inputs together and takes outputs apart."""
_BESIDE = {"Pad", "Slice", "Concat", "Gather", "Identity", "Split"}


def read_layers(path: Path, inputs: int) -> tuple[IntegerLayer, ...]:
    """The layers of a hyper graph or step graph of that many inputs, as `dsin.export` wrote it.

    Raises BundleError for any other graph.
    """
    graph = read_graph(path)
    layers: list[IntegerLayer] = []
    operators = [each for each in graph.operators if each not in _BESIDE]
    while operators:
        if operators[: len(_LAYER)] != _LAYER:
            raise BundleError(f"{path} computes something else than integer layers: export anew")
        del operators[: len(_LAYER)]
        enlarges = operators[:1] == ["DepthToSpace"]
        del operators[:enlarges]
        try:
            layers.append(_layer(graph, len(layers), inputs, 2 if enlarges else 1))
        except (KeyError, ValueError, IndexError) as error:
            raise BundleError(f"{path}: layer {len(layers)} is damaged: export anew") from error
        inputs = len(layers[-1].weight) // layers[-1].shuffle ** 2
    return tuple(layers)


def _layer(graph: StoredGraph, number: int, inputs: int, shuffle: int) -> IntegerLayer:
    weight, bias, multiplier, low, high = (
        graph.weights[f"layer{number}_{part}"]
        for part in ("weight", "bias", "multiplier", "low", "high")
    )
    outputs, per_output, size, _ = weight.shape
    if not min(outputs, per_output, size, inputs):
        raise ValueError("a layer has no weights")
    groups = 1
    if size > 1:
        groups = max(inputs // per_output, 1)
    elif per_output > inputs:
        # A dense convolution, as its shifted copies: see `dsin.export.edge.integer_graph`.
        size = isqrt(per_output // inputs)
        weight = weight.reshape(outputs, size, size, inputs).transpose(0, 3, 1, 2)
    lowest, highest = (int(_whole(end, np.int32).item()) for end in (low, high))
    return IntegerLayer(
        _whole(weight, np.int16),
        _whole(bias[:, :, 0, 0], np.int32),
        np.ascontiguousarray(multiplier[:, :, 0, 0]),
        lowest,
        highest,
        groups=groups,
        shuffle=shuffle,
    )


def _whole(values: NDArray[np.float32], dtype: type[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Raises ValueError for what is not whole, or too large for that type."""
    limits = np.iinfo(dtype)
    if not np.all((np.abs(values) < EXACT) & (values == np.rint(values))):
        raise ValueError("a number is not whole")
    if values.min() < limits.min or values.max() > limits.max:
        raise ValueError("a number is too large")
    return np.ascontiguousarray(values, dtype)
