"""Graphs as TensorRT engines, which `dsin-export trt` built on this machine.

    inputs ─► pinned memory ─► device memory ─► engine ─► device memory ─► pinned memory ─► outputs

All in one stream of the session's own; memory is kept from run to run. An engine that does not fit
this TensorRT, this GPU, this graph or these sizes is an error that says how to rebuild it.

This has not run on a GPU yet. The tests run it against a stand-in for the driver, with engines
replaced by onnxruntime; TensorRT itself executes nothing in them.
"""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.cuda_driver import Device, Memory, PinnedMemory, Stream
from dsin.runtime.engine_files import EngineFile, Precision, build_command, find_engines
from dsin.runtime.errors import BackendError
from dsin.runtime.tensorrt_api import Reasons, architecture, tensorrt, version
from dsin.runtime.tensorrt_plugin import register_plugin

Arrays = dict[str, npt.NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]


class TensorRtSession:
    """The engines of one graph, for the sizes that they were built for.

    A single engine is loaded at once, of several each when it is first needed. Raises BackendError
    where TensorRT, the GPU or a fitting engine is missing.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        self._graph, self._precision = path, precision
        self.provider = f"TensorRT {version()}"
        gpu = architecture()
        if gpu is None:
            raise BackendError("there is no CUDA driver here: install NVIDIA's")
        self._files = find_engines(path, precision, version(), gpu)
        register_plugin()
        self._device = Device(0)
        self._reasons = Reasons()
        self._runtime = tensorrt().Runtime(self._reasons.logger)
        self._loaded: dict[Path, _Engine] = {}
        self._using = threading.Lock()
        if len(self._files) == 1:
            with self._device.current():
                self._engine(self._files[0])

    def run(self, **inputs: npt.NDArray[Any]) -> Arrays:
        """All outputs by name. Raises BackendError for sizes that no engine was built for."""
        file = self._file({name: array.shape for name, array in inputs.items()})
        with self._using, self._device.current():
            return self._engine(file).run(inputs)

    def _file(self, shapes: Shapes) -> EngineFile:
        for file in self._files:
            if file.header.takes(shapes):
                return file
        given = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in sorted(shapes.items()))
        frames = ", ".join("{}x{}".format(*file.header.frame) for file in self._files)
        raise BackendError(
            f"the engine of {self._graph.name} is for frames of {frames}, not for {given}: "
            f"{build_command(self._graph, self._precision)} --frame HEIGHTxWIDTH"
        )

    def _engine(self, file: EngineFile) -> "_Engine":
        if file.path not in self._loaded:
            engine = self._runtime.deserialize_cuda_engine(file.read_plan())
            if engine is None:
                raise BackendError(
                    f"TensorRT cannot load {file.path} ({self._reasons.first()}): re"
                    f"{build_command(self._graph, self._precision)}"
                )
            self._loaded[file.path] = _Engine(engine, self._device, self._reasons, file.path.name)
        return self._loaded[file.path]


class _Room:
    """Memory for one tensor on both sides."""

    def __init__(self, device: Device, size: int) -> None:
        self.host, self.device = PinnedMemory(device, size), Memory(device, size)


class _Engine:
    """A loaded engine with its stream and memory; the device's context is current for calls."""

    def __init__(self, engine: Any, device: Device, reasons: Reasons, what: str) -> None:
        trt = tensorrt()
        self._engine, self._device, self._reasons, self._what = engine, device, reasons, what
        self._context = engine.create_execution_context()
        if self._context is None:
            raise self._failure("has no room on the GPU or cannot start")
        self._stream = Stream(device)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = trt.TensorIOMode.INPUT
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == given]
        self._outputs: Shapes = {name: () for name in names if name not in self._inputs}
        self._rooms: dict[str, _Room] = {}
        self._shapes: Shapes = {}

    def run(self, inputs: Arrays) -> Arrays:
        for name, array in inputs.items():
            if array.dtype != self._types[name]:
                raise BackendError(
                    f"{self._what}: {name} is {array.dtype}, and the engine takes "
                    f"{self._types[name]}"
                )
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            self._shapes = {}
            self._arrange(shapes)
            self._shapes = shapes
        for name, array in inputs.items():
            room = self._rooms[name]
            room.host.array(array.shape, array.dtype)[...] = array
            self._stream.upload(room.device, room.host, array.nbytes)
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failure("failed")
        for name, shape in self._outputs.items():
            room = self._rooms[name]
            self._stream.download(room.host, room.device, self._size(name, shape))
        self._stream.synchronise()
        # Copies: the next run writes over the pinned memory.
        return {
            name: self._rooms[name].host.array(shape, self._types[name]).copy()
            for name, shape in self._outputs.items()
        }

    def _arrange(self, shapes: Shapes) -> None:
        """Sizes and addresses for inputs of these shapes."""
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._failure(f"does not take {name} of {shape}")
        self._outputs = {
            name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs
        }
        for name, shape in {**shapes, **self._outputs}.items():
            size = self._size(name, shape)
            if name not in self._rooms or self._rooms[name].host.size < size:
                self._rooms.pop(name, None)
                self._rooms[name] = _Room(self._device, size)
            if not self._context.set_tensor_address(name, self._rooms[name].device.address):
                raise self._failure(f"does not take the address of {name}")

    def _size(self, name: str, shape: tuple[int, ...]) -> int:
        return math.prod(shape) * int(self._types[name].itemsize)

    def _failure(self, what: str) -> BackendError:
        return BackendError(f"the engine {self._what} {what}: {self._reasons.first()}")
