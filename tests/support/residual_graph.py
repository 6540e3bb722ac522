"""A small network with a residual connection and a gain of the rate, and uneven features."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
SPREAD = np.array([1, 0.1, 1.5, 1, 0.2, 1, 0.5, 1])
"""How much larger each feature is than in an ordinary network."""


def residual_graph() -> onnx.ModelProto:
    """x ─► stem ─┬► inner ─► relu ─► depthwise ─► outer ─► + ─► · gain of the rate ─► last ─► y
    └───────────────────────────────────────┘"""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "stem": (8, 3, 1, 1), "inner": (8, 8, 1, 1), "depthwise": (8, 1, 3, 3),
        "outer": (8, 8, 1, 1), "last": (4, 8, 1, 1),
    }  # fmt: skip
    weights: dict[str, Array] = {f"w_{n}": rng.normal(0, 0.3, s) for n, s in shapes.items()}
    weights |= {f"b_{n}": rng.normal(0, 0.1, s[0]) for n, s in shapes.items()}
    weights["gains"] = rng.uniform(0.5, 2, (3, 8, 1, 1))
    # Features of very different size: made so by one layer, taken back by those that read them.
    for makers, readers in ((("stem", "outer"), ("inner", "last")), (("inner",), ("depthwise",)),
                            (("depthwise",), ("outer",))):  # fmt: skip
        size = rng.permutation(SPREAD)
        for name in makers:
            weights[f"w_{name}"] *= size[:, None, None, None]
            weights[f"b_{name}"] *= size
        for name in readers:
            by = size[:, None, None, None] if name == "depthwise" else size[None, :, None, None]
            weights[f"w_{name}"] /= by

    def conv(name: str, source: str, **options: Any) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, f"w_{name}", f"b_{name}"], [name], name, **options)

    nodes = [
        conv("stem", "x"),
        conv("inner", "stem"),
        helper.make_node("Relu", ["inner"], ["relu"], "relu"),
        conv("depthwise", "relu", group=8, pads=[1, 1, 1, 1]),
        conv("outer", "depthwise"),
        helper.make_node("Add", ["stem", "outer"], ["sum"], "sum"),
        helper.make_node("Gather", ["gains", "rate"], ["row"], "row"),
        helper.make_node("Mul", ["sum", "row"], ["gain"], "gain"),
        conv("last", "gain"),
        helper.make_node("Identity", ["last"], ["y"], "y"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", "w"])
    constants = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "residual", [x, rate], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def residual_runs() -> list[dict[str, Array]]:
    """Inputs of it, at each rate."""
    rng = np.random.default_rng(1)
    return [
        {"x": rng.normal(0, 1, (1, 3, 24, 32)).astype(np.float32), "rate": np.array([rate])}
        for rate in (0, 1, 2)
    ]
