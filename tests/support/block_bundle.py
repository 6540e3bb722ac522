"""A bundle made by hand, small enough to know what it computes.

Symbols are the rounded means of 8×8 blocks, one channel per colour, in steps of 51; x_dec paints
them back; the fusion is the mean of x_dec and y_syn. The context model finds 0 likelier than 5.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dsin.runtime.entropy.context_model import IntegerContextModel

CENTERS = 6
STEP = 255 / (CENTERS - 1)


def write_block_bundle(directory: Path, *, model_id: str = "ab" * 32, **changes: Any) -> Path:
    """Write the bundle; `changes` replace keys of its manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, graph in graphs().items():
        onnx.save(graph, directory / f"{name}.onnx")
    np.savez(directory / "context.npz", **context_model().to_arrays())
    write_manifest(directory, {**manifest(directory, model_id), **changes})
    return directory


def manifest(directory: Path, model_id: str) -> dict[str, Any]:
    return {
        "format": 1,
        "model": "blocks",
        "preset": {},
        "channels": 3,
        "centers": CENTERS,
        "stride": 8,
        "frame_multiple": [40, 24],
        "search": {
            "patch": [20, 24],
            "measure": "pearson",
            "prior": True,
            "stretched_patches": False,
            "off_centre_prior": False,
        },
        "truncate_to_uint8": False,
        "model_id": model_id,
        "rate_points": [{"index": 0, "target_bpp": 0.06}, {"index": 1, "target_bpp": 0.1}],
        "default_rate": 1,
        "graphs": {name: f"{name}.onnx" for name in graphs()},
        "context_tables": "context.npz",
        "files": {file.name: entry(file) for file in directory.iterdir() if file.suffix != ".json"},
        "training": {"data": "none"},
        "weights_licence": "MIT",
    }


def entry(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_manifest(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "bundle.json").read_text())
    return content


def write_manifest(directory: Path, content: Any) -> None:
    (directory / "bundle.json").write_text(json.dumps(content))


def relist(directory: Path) -> None:
    """Bring the manifest's hashes up to date after a file was changed on purpose."""
    content = read_manifest(directory)
    content["files"] = {f.name: entry(f) for f in directory.iterdir() if f.name != "bundle.json"}
    write_manifest(directory, content)


def context_model() -> IntegerContextModel:
    """Two features and no weights: the frequencies are the same everywhere."""
    widths = [1, 2, 2, 2, CENTERS]
    biases = [np.zeros(n, np.int32) for n in widths[1:]]
    biases[3] = np.arange(0, -10 * CENTERS, -10, dtype=np.int32)
    arrays: dict[str, npt.NDArray[Any]] = {
        "bounds": np.array([[0, 255], [0, 255], [-128, 127], [-1000, 1000]], np.int32),
        "skip_shift": np.zeros(2, np.int32),
        "levels": np.arange(-50, 70, 20, dtype=np.int8),
        "exponentials": (2**15 * np.exp(-np.arange(200) / 16)).astype(np.int32),
    }
    for i in range(4):
        arrays[f"weight{i}"] = np.zeros((widths[i + 1], widths[i], 2, 3, 3), np.int8)
        arrays[f"bias{i}"] = biases[i]
        arrays[f"shift{i}"] = np.zeros(widths[i + 1], np.int32)
    return IntegerContextModel.from_arrays(arrays)


def graphs() -> dict[str, onnx.ModelProto]:
    pixels, blocks = [1, 3, "H", "W"], [1, 3, "h", "w"]
    u8, f32 = TensorProto.UINT8, TensorProto.FLOAT
    node = helper.make_node
    kernel = np.full((3, 1, 8, 8), STEP, np.float32)
    constants = {
        "step": np.float32(STEP),
        "zero": np.float32(0),
        "last": np.float32(CENTERS - 1),
        "half": np.float32(0.5),
        "kernel": kernel,
    }
    encoder = [
        node("AveragePool", ["x"], ["mean"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Div", ["mean", "step"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),
        node("Clip", ["rounded", "zero", "last"], ["clipped"]),
        node("Cast", ["clipped"], ["symbols"], to=u8),
    ]
    x_decoder = [
        node("Cast", ["symbols"], ["levels"], to=f32),
        node("ConvTranspose", ["levels", "kernel"], ["x_dec"], strides=[8, 8], group=3),
    ]
    fusion = [
        node("Add", ["x_dec", "y_syn"], ["sum"]),
        node("Mul", ["sum", "half"], ["x_hat"]),
    ]
    same = [node("Identity", ["symbols"], ["same"])]
    symbols = ("symbols", u8, blocks)
    x_dec, y_syn = ("x_dec", f32, pixels), ("y_syn", f32, pixels)
    return {
        "encoder": _graph(encoder, [("x", f32, pixels)], symbols, constants),
        "x_decoder": _graph(x_decoder, [symbols], x_dec, constants),
        "fusion": _graph(fusion, [x_dec, y_syn], ("x_hat", f32, pixels), constants),
        "decoder": _graph(same, [symbols], ("same", u8, blocks), {}),
        "context": _graph(same, [symbols], ("same", u8, blocks), {}),
    }


def _graph(
    nodes: list[onnx.NodeProto],
    inputs: list[tuple[str, int, list[Any]]],
    output: tuple[str, int, list[Any]],
    constants: dict[str, Any],
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
