"""Building ONNX graphs node by node."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10
"""What onnxruntime 1.20 still reads."""


Value = tuple[str, int, list[int | str]]
"""Name, element type and shape of an input or output."""


class GraphBuilder:
    """Nodes and constants in the making; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        if all(c.name != name for c in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def int64(self, *values: int) -> str:
        name = "int64_" + "_".join(str(v).replace("-", "m") for v in values)
        return self.constant(name, np.array(values, np.int64))

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def cast(self, name: str, kind: int) -> str:
        return self.add("Cast", [name], f"{name}_as{kind}", to=kind)

    def model(self, name: str, inputs: list[Value], outputs: list[Value]) -> onnx.ModelProto:
        """What was built so far, as a model with these inputs and outputs."""
        taken, given = (
            [helper.make_tensor_value_info(*value) for value in values]
            for values in (inputs, outputs)
        )
        return helper.make_model(
            helper.make_graph(self.nodes, name, taken, given, self.constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="dsin",
        )
