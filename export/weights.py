"""Weights of graphs as files beside them: each tensor once, float32 or float16."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from dsin.runtime.errors import ExportError

ALIGNMENT = 64
"""Bytes to which each tensor is aligned in a weights file."""
SMALL = 1024
"""Tensors below this many bytes stay in the graph."""
LARGEST = float(np.finfo(np.float16).max)


class WeightsFile:
    """Collects the large tensors of one or more graphs; equal tensors share their bytes.

    A graph refers to the file by name, so both must lie in one directory.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._data = bytearray()
        self._offsets: dict[bytes, int] = {}

    def take(self, graph: onnx.ModelProto) -> None:
        """Move the graph's large tensors here, in place."""
        for tensor in graph.graph.initializer:
            data = numpy_helper.to_array(tensor).tobytes()
            if len(data) < SMALL:
                continue
            location = {"location": self.name, "offset": self._place(data), "length": len(data)}
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            del tensor.external_data[:]
            for key, value in location.items():
                tensor.external_data.add(key=key, value=str(value))
            tensor.data_location = onnx.TensorProto.EXTERNAL

    def _place(self, data: bytes) -> int:
        digest = hashlib.sha256(data).digest()
        if digest not in self._offsets:
            self._data.extend(bytes(-len(self._data) % ALIGNMENT))
            self._offsets[digest] = len(self._data)
            self._data.extend(data)
        return self._offsets[digest]

    def write(self, directory: Path) -> None:
        """Write the file into `directory`."""
        (directory / self.name).write_bytes(self._data)


def save_graphs(
    directory: Path, weights_files: Mapping[str, Mapping[str, onnx.ModelProto]]
) -> None:
    """Write NAME.onnx of each graph, and its large tensors into the weights file that it is listed
    under. The graphs are changed in place."""
    for file_name, graphs in weights_files.items():
        weights = WeightsFile(file_name)
        for name, graph in graphs.items():
            weights.take(graph)
            onnx.save(graph, directory / f"{name}.onnx")
        weights.write(directory)


def store_as_half(graph: onnx.ModelProto) -> None:
    """Keep convolution kernels and matrices as float16 and cast them to float32 in the graph, in
    place.

    Kernels are rounded if they have no float16 values already. onnxruntime folds the casts when it
    loads the graph, so memory and speed are those of float32. Raises ExportError for kernels that
    float16 cannot hold.
    """
    kernels = {
        node.input[1]
        for node in graph.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "MatMul")
    }
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.name not in kernels:
            continue
        name = tensor.name
        kernel = numpy_helper.to_array(tensor)
        if np.abs(kernel).max(initial=0) > LARGEST:
            raise ExportError(f"kernel {name} does not fit into float16")
        half = kernel.astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
