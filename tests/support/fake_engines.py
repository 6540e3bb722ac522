"""Engines without TensorRT: each is an ONNX file that onnxruntime computes on the CPU.

`tensorrt_like` has the part of TensorRT's module that the runtime calls. Addresses are taken as
they are: with the driver of `cuda_emulation`, the device's memory is the host's.
"""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from dsin.runtime.backends.engine_files import RULES, Header, Precision, graph_digest, write_engine

VERSION = "10.3.0"
ARCHITECTURE = 90
"""Of the GPU that the stand-in for the driver plays."""

_TYPES = {
    "tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}  # fmt: skip


class Engine:
    """What `deserialize_cuda_engine` gives; `plan` is the path of an ONNX file."""

    def __init__(self, plan: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = plan.decode()
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].type)

    def create_execution_context(self) -> "Context | None":
        return None if NO_ROOM else Context(self)


class Context:
    """Knows shapes and addresses, and gives the stream a call of the host that does the work."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.calls: list[Any] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return name in self.engine.inputs

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        zeros = {
            name: np.zeros(self.shapes[name], _TYPES[value.type])
            for name, value in self.engine.inputs.items()
        }
        (result,) = self.engine.session.run([name], zeros)
        return tuple(result.shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        if FAILS or not stream:
            return False
        addresses, shapes = dict(self.addresses), dict(self.shapes)
        call = _HOST_CALL(lambda _: self._compute(addresses, shapes))
        # A graph that the stream is captured for calls it later.
        self.calls.append(call)
        driver = ctypes.CDLL("libcuda.so.1")
        if WAITS and driver.cuStreamSynchronize(ctypes.c_void_p(stream)):
            LOGGERS[-1].log(_Logger.ERROR, "operation not permitted when stream is capturing")
            return False
        return driver.cuLaunchHostFunc(ctypes.c_void_p(stream), call, None) == 0

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        given = {
            name: _view(addresses[name], shapes[name], _TYPES[value.type]).copy()
            for name, value in self.engine.inputs.items()
        }
        for name, result in zip(
            self.engine.outputs, self.engine.session.run(None, given), strict=True
        ):
            _view(addresses[name], result.shape, result.dtype)[...] = result


_HOST_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NO_ROOM: list[bool] = []
"""Not empty: no context can be made."""
FAILS: list[bool] = []
"""Not empty: nothing can be executed."""
WAITS: list[bool] = []
"""Not empty: engines wait for their stream while they are enqueued, so none can be captured."""
LOADED: list[bytes] = []
"""Plans that were loaded."""
LOGGERS: list[Any] = []


class _Logger:
    INTERNAL_ERROR, ERROR = 0, 1


class _Runtime:
    def __init__(self, logger: Any) -> None:
        LOGGERS.append(logger)

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if plan == b"of no use":
            LOGGERS[-1].log(_Logger.ERROR, "Error Code 1: magic tag\ndoes not match")
            return None
        if plan == b"too large":
            LOGGERS[-1].log(_Logger.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return None
        LOADED.append(plan)
        return Engine(plan)


tensorrt_like = SimpleNamespace(
    __version__=VERSION,
    ILogger=_Logger,
    Runtime=_Runtime,
    TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
    nptype=_TYPES.__getitem__,
)


def _view(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    whole = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(whole, kind).reshape(shape)


def write_fake(
    folder: Path, graph: Path, inputs: dict[str, Any], precision: Precision = "fp32",
    frame: tuple[int, int] = (128, 192), **changed: Any,
) -> Path:  # fmt: skip
    """An engine of a graph, for the GPU and the TensorRT of this module."""
    import hashlib

    plan = changed.pop("plan", str(graph).encode())
    facts: dict[str, Any] = {
        "rules": RULES, "graph": graph.stem, "graph_sha256": graph_digest(graph),
        "precision": precision, "tensorrt": VERSION, "architecture": ARCHITECTURE, "frame": frame,
        "inputs": inputs, "plan_sha256": hashlib.sha256(plan).hexdigest(),
    }  # fmt: skip
    return write_engine(folder, Header(**{**facts, **changed}), plan)
