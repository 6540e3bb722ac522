"""The integer context model as an ONNX graph of ordinary float convolutions.

Weights and activations are integers of 8 bits and no sum reaches 2**24, so float32 holds every
value exactly and any order of summation agrees. Each sum is rounded before it is rescaled, which
also absorbs kernels that are slightly off on integers (Winograd). The softmax is a table of
integers and an integer division.

    symbols (1, C, h, w) ─► level table ─► pad ─► conv0 ─► conv1 ─► conv2 (+ conv0) ─► logits
                                                                                         │
    frequencies (1, C, h, w, L) ◄─ shares of 2**16 ◄─ exponential table ◄─ best - logit ◄┘
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from dsin.export.graph_builder import GraphBuilder
from dsin.runtime.entropy.context_model import IntegerContextModel
from dsin.runtime.entropy.rans import TOTAL


def context_graph(model: IntegerContextModel) -> onnx.ModelProto:
    """ONNX model: `symbols` uint8 (1, C, h, w), each below L, to `frequencies` int32
    (1, C, h, w, L), the same integers as
    `dsin.runtime.entropy.context_model.frequencies_reference`.
    """
    graph = GraphBuilder()
    x = _padded_levels(graph, model)
    hidden = _layer(graph, model, 0, x)
    inner = _layer(graph, model, 1, hidden)
    summed = _layer(graph, model, 2, inner, skip=_skip(graph, model, hidden))
    logits = _layer(graph, model, 3, summed)
    _frequencies(graph, model, logits)
    count = model.symbols_per_alphabet
    return graph.model(
        "context",
        [("symbols", TensorProto.UINT8, [1, "C", "h", "w"])],
        [("frequencies", TensorProto.INT32, [1, "C", "h", "w", count])],
    )


def _padded_levels(graph: GraphBuilder, model: IntegerContextModel) -> str:
    """Levels (1, 1, C + 4, h + 8, w + 8)."""
    table = graph.constant("levels", model.levels.astype(np.float32))
    index = graph.cast("symbols", TensorProto.INT32)
    levels = graph.add("Gather", [table, index], "level")
    volume = graph.add("Unsqueeze", [levels, graph.int64(1)], "volume")
    padding = graph.constant("pad_level", model.levels[0].astype(np.float32))
    return graph.add("Pad", [volume, graph.int64(0, 0, 4, 4, 4, 0, 0, 0, 4, 4), padding], "padded")


def _layer(
    graph: GraphBuilder,
    model: IntegerContextModel,
    index: int,
    source: str,
    skip: str | None = None,
) -> str:
    """Convolution, rounding, floor of a power-of-two share, clip."""
    name = f"conv{index}"
    weight = graph.constant(f"weight{index}", model.weights[index].astype(np.float32))
    bias = graph.constant(f"bias{index}", model.biases[index].astype(np.float32))
    total = graph.add("Conv", [source, weight, bias], name)
    if skip is not None:
        total = graph.add("Add", [total, skip], f"{name}_skip")
    scale = graph.constant(f"scale{index}", _per_channel(np.exp2(-model.shifts[index])))
    low = graph.constant(f"low{index}", model.bounds[index, 0].astype(np.float32))
    high = graph.constant(f"high{index}", model.bounds[index, 1].astype(np.float32))
    rounded = graph.add("Round", [total], f"{name}_rounded")
    share = graph.add("Mul", [rounded, scale], f"{name}_share")
    floor = graph.add("Floor", [share], f"{name}_floor")
    return graph.add("Clip", [floor, low, high], f"{name}_clipped")


def _skip(graph: GraphBuilder, model: IntegerContextModel, hidden: str) -> str:
    """The first layer's output at the third's positions, in units of its sums."""
    centre = graph.add(
        "Slice",
        [hidden, graph.int64(2, 2, 2), graph.int64(2**62, -2, -2), graph.int64(2, 3, 4)],
        "centre",
    )
    scale = graph.constant("skip_scale", _per_channel(np.exp2(model.skip_shift)))
    return graph.add("Mul", [centre, scale], "skip")


def _frequencies(graph: GraphBuilder, model: IntegerContextModel, logits: str) -> str:
    """Shares of 2**16 from logits (1, L, C, h, w); what is left goes to the first of the best."""
    count, last = model.symbols_per_alphabet, graph.int64(-1)
    logits = graph.add("Transpose", [logits], "logits", perm=[0, 2, 3, 4, 1])
    largest = graph.add("ReduceMax", [logits, last], "largest")
    below = graph.cast(graph.add("Sub", [largest, logits], "below"), TensorProto.INT32)
    end = graph.constant("table_end", np.array(model.exponentials.size - 1, np.int32))
    index = graph.add("Min", [below, end], "table_index")
    table = graph.constant("exponentials", model.exponentials)
    weight = graph.add("Gather", [table, index], "weight")
    total = graph.add("ReduceSum", [weight, last], "weight_sum")
    # Weights are at most 2**15, so the product stays below 2**31.
    rest = graph.constant("rest", np.array(TOTAL - count, np.int32))
    scaled = graph.add("Mul", [weight, rest], "scaled")
    share = graph.add("Div", [scaled, total], "share")
    share = graph.add("Add", [share, graph.constant("one", np.array(1, np.int32))], "share_1")
    used = graph.add("ReduceSum", [share, last], "used")
    left = graph.add("Sub", [graph.constant("total", np.array(TOTAL, np.int32)), used], "left")
    best = graph.add("ArgMax", [logits], "best", axis=-1, keepdims=1)
    own = graph.constant("symbol", np.arange(count, dtype=np.int64))
    chosen = graph.cast(graph.add("Equal", [best, own], "chosen"), TensorProto.INT32)
    gift = graph.add("Mul", [chosen, left], "gift")
    return graph.add("Add", [share, gift], "frequencies")


def _per_channel(values: NDArray[np.floating]) -> NDArray[np.float32]:
    return values.astype(np.float32).reshape(1, -1, 1, 1, 1)
