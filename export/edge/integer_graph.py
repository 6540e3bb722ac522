"""Integer layers as ONNX graphs of float32 operators that have no rounding.

A dense 3x3 convolution becomes nine shifted copies and a pointwise one: libraries compute it by
Winograd's algorithm otherwise, whose sums are only nearly integers.

    hyper graph   z (1, hyper, h, w), rate int64 (1,)  ─►  features (1, context, 4h, 4w)
    step graph    features, decoded (1, latent, h, w)  ─►  mean, raw (1, latent, h, w)

All but the rate are integers in float32, in the units of `dsin.calibration.integer_entropy`.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from dsin.export.graph_builder import GraphBuilder
from dsin.runtime.entropy.integer_network import IntegerLayer

FLOAT = TensorProto.FLOAT


def hyper_graph(layers: Sequence[IntegerLayer]) -> onnx.ModelProto:
    """The hyper-decoder: whole numbers z to features."""
    graph = GraphBuilder()
    features = _layers(graph, layers, "z", "rate")
    graph.add("Identity", [features], "features")
    channels = layers[0].weight.shape[1]
    return graph.model(
        "hyper",
        [("z", FLOAT, [1, channels, "h", "w"]), ("rate", TensorProto.INT64, [1])],
        [("features", FLOAT, [1, _channels(layers[-1]), "H", "W"])],
    )


def step_graph(layers: Sequence[IntegerLayer]) -> onnx.ModelProto:
    """One context step: features, and what is decoded so far, to means and raw scales."""
    graph = GraphBuilder()
    latent = len(layers[-1].weight) // 2
    known = layers[0].weight.shape[1] - latent
    both = graph.add("Concat", ["features", "decoded"], "both", axis=1)
    out = _layers(graph, layers, both)
    graph.nodes.append(
        onnx.helper.make_node("Split", [out], ["mean", "raw"], "split", axis=1, num_outputs=2)
    )
    shape: list[int | str] = [1, latent, "h", "w"]
    return graph.model(
        "step",
        [("features", FLOAT, [1, known, "h", "w"]), ("decoded", FLOAT, shape)],
        [("mean", FLOAT, shape), ("raw", FLOAT, shape)],
    )


def _channels(layer: IntegerLayer) -> int:
    return len(layer.weight) // layer.shuffle**2


def _layers(
    graph: GraphBuilder, layers: Sequence[IntegerLayer], source: str, rate: str | None = None
) -> str:
    for n, layer in enumerate(layers):
        source = _layer(graph, layer, f"layer{n}", source, rate)
    return source


def _layer(
    graph: GraphBuilder, layer: IntegerLayer, name: str, source: str, rate: str | None
) -> str:
    weight = layer.weight.astype(np.float32)
    size = weight.shape[2]
    if size > 1 and layer.groups == 1:
        source = _shifted(graph, name, source, size)
        # (outputs, inputs, k, k) to (outputs, shift by shift)
        weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)
    margin = weight.shape[2] // 2
    sums = graph.add(
        "Conv", [source, graph.constant(f"{name}_weight", weight)], f"{name}_products",
        group=layer.groups, pads=[margin] * 4,
    )  # fmt: skip
    bias = _of_rate(graph, f"{name}_bias", layer.bias, rate)
    factor = _of_rate(graph, f"{name}_multiplier", layer.multiplier, rate)
    total = graph.add("Add", [sums, bias], f"{name}_sums")
    # Sums are whole already; without this step engines multiply the factor into the weights, whose
    # products then round. It also mends what Winograd's algorithm would leave of a half.
    total = graph.add("Round", [total], f"{name}_whole")
    whole = graph.add("Floor", [graph.add("Mul", [total, factor], f"{name}_scaled")], f"{name}_int")
    low, high = (
        graph.constant(f"{name}_{end}", np.array(value, np.float32))
        for end, value in (("low", layer.low), ("high", layer.high))
    )
    out = graph.add("Clip", [whole, low, high], f"{name}_out")
    if layer.shuffle == 1:
        return out
    return graph.add("DepthToSpace", [out], f"{name}_large", blocksize=layer.shuffle, mode="CRD")


def _of_rate(
    graph: GraphBuilder, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    rate: str | None,
) -> str:  # fmt: skip
    """(rates, outputs) as (1, outputs, 1, 1) of the rate that is asked for."""
    rows = graph.constant(name, values.astype(np.float32)[:, :, None, None])
    if len(values) == 1 or rate is None:
        return rows
    return graph.add("Gather", [rows, rate], f"{name}_of_rate", axis=0)


def _shifted(graph: GraphBuilder, name: str, source: str, size: int) -> str:
    """The neighbours of every place, (1, size² · channels, h, w), with zeros around."""
    margin = size // 2
    pads = graph.int64(0, 0, margin, margin, 0, 0, margin, margin)
    padded = graph.add("Pad", [source, pads], f"{name}_padded")
    parts = []
    for r in range(size):
        for c in range(size):
            # Ends count from the end; beyond it for the last shift.
            ends = [k + 1 - size if k + 1 < size else np.iinfo(np.int64).max for k in (r, c)]
            parts.append(
                graph.add(
                    "Slice",
                    [padded, graph.int64(r, c), graph.int64(*map(int, ends)), graph.int64(2, 3)],
                    f"{name}_shift{r}{c}",
                )
            )
    return graph.add("Concat", parts, f"{name}_neighbours", axis=1)
