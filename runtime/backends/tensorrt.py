"""Graphs as TensorRT engines, which `dsin-export trt` built on this machine.

    arrays ──► pinned memory ──► device memory ─┐                  ┌─► pinned memory ──► arrays
    tensors of a GPU (keep) ────────────────────┴─► engine ────────┴─► tensors of a GPU (keep)

All in one stream of the session's own. An engine is loaded once in a process; each session has its
own execution context. The first run of inputs of some shapes gives the engine its work as usual;
later ones are captured as a CUDA graph, one for each set of addresses, and replayed from then on.
$DSIN_CUDA_GRAPHS=0 switches that off; a capture that fails is an error.

An engine that does not fit this TensorRT, this GPU, this graph or these sizes is an error that says
how to rebuild it.

This has not run on a GPU yet. The tests run it against a stand-in for the driver, with engines
replaced by onnxruntime; TensorRT itself executes nothing in them.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.engine_files import EngineFile, Precision, build_command, find_engines
from dsin.runtime.backends.tensorrt_api import Reasons, architecture, cure_of, tensorrt, version
from dsin.runtime.backends.tensorrt_plugin import register_plugin
from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import Captured, Device, Stream, chosen_device
from dsin.runtime.gpu.device_tensor import DeviceTensor, Staging, Tensor

Arrays = dict[str, npt.NDArray[Any]]
Tensors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

GRAPHS = "DSIN_CUDA_GRAPHS"
"""The environment variable that switches CUDA graphs off: 0, or 1, the default."""
MOST_GRAPHS = 8
"""Sets of addresses whose graphs an execution context keeps."""


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
        self._device = chosen_device()
        self._contexts: dict[Path, _Context] = {}
        self._using = threading.Lock()
        if len(self._files) == 1:
            with self._device.current():
                self._context(self._files[0])

    def run(self, **inputs: Tensor) -> Arrays:
        """All outputs by name. Raises BackendError for sizes that no engine was built for."""
        file = self._file(inputs)
        with self._using, self._device.current():
            return self._context(file).run(inputs)

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        """As `run`, with the outputs left on the GPU."""
        file = self._file(inputs)
        with self._using, self._device.current():
            return {**self._context(file).keep(inputs)}

    def _file(self, inputs: Tensors) -> EngineFile:
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        for file in self._files:
            if file.header.takes(shapes):
                return file
        given = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in sorted(shapes.items()))
        frames = ", ".join("{}x{}".format(*file.header.frame) for file in self._files)
        raise BackendError(
            f"the engine of {self._graph.name} is for frames of {frames}, not for {given}: "
            f"{build_command(self._graph, self._precision)} --frame HEIGHTxWIDTH"
        )

    def _context(self, file: EngineFile) -> "_Context":
        if file.path not in self._contexts:
            rebuild = f"re{build_command(self._graph, self._precision)}"
            engine = _loaded(file, self._device, rebuild)
            self._contexts[file.path] = _Context(engine, self._device)
        return self._contexts[file.path]


class _Engine:
    """A loaded engine; several contexts may run it at once."""

    def __init__(self, file: EngineFile, rebuild: str) -> None:
        self.name = file.path.name
        self.reasons = Reasons()
        # Kept, since the engine reports to its runtime's logger.
        self._runtime = tensorrt().Runtime(self.reasons.logger)
        self.engine = self._runtime.deserialize_cuda_engine(file.read_plan())
        if self.engine is None:
            reason = self.reasons.first()
            raise BackendError(
                f"TensorRT cannot load {file.path} ({reason}): {cure_of(reason, rebuild)}"
            )

    def failure(self, what: str) -> BackendError:
        """An error with TensorRT's reason."""
        return BackendError(f"the engine {self.name} {what}: {self.reasons.first()}")


_LOADED: "weakref.WeakValueDictionary[tuple[str, int], _Engine]" = weakref.WeakValueDictionary()
_LOADING = threading.Lock()


def _loaded(file: EngineFile, device: Device, rebuild: str) -> _Engine:
    """The engine of a file, loaded once in this process as long as a session uses it. The device's
    context is current."""
    key = file.header.plan_sha256, device.index
    with _LOADING:
        engine = _LOADED.get(key)
        if engine is None:
            engine = _LOADED[key] = _Engine(file, rebuild)
        return engine


class _Context:
    """An execution context with its stream and memory; the device's context is current for
    calls."""

    def __init__(self, loaded: _Engine, device: Device) -> None:
        trt, engine = tensorrt(), loaded.engine
        self._loaded, self._device = loaded, device
        self._context = engine.create_execution_context()
        if self._context is None:
            raise loaded.failure("has no room on the GPU or cannot start")
        self._stream = Stream(device)
        self._staging = Staging(device, self._stream)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = trt.TensorIOMode.INPUT
        self._types = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == given]
        self._outputs: Shapes = {name: () for name in names if name not in self._inputs}
        self._shapes: Shapes = {}
        self._own: dict[str, DeviceTensor] = {}
        """Where arrays of the host go to and come from."""
        self._bound: dict[str, int] = {}
        self._warm = False
        self._capturing = _captures()
        self._graphs: OrderedDict[tuple[int, ...], Captured] = OrderedDict()

    def run(self, inputs: Tensors) -> Arrays:
        """Outputs on the host."""
        self._arrange(inputs)
        outputs = {name: self._room(name, shape) for name, shape in self._outputs.items()}
        self._compute(inputs, outputs)
        return self._staging.fetch(outputs)

    def keep(self, inputs: Tensors) -> dict[str, DeviceTensor]:
        """Outputs in memory of their own."""
        self._arrange(inputs)
        outputs = {
            name: DeviceTensor(self._device, shape, self._types[name])
            for name, shape in self._outputs.items()
        }
        self._compute(inputs, outputs)
        self._stream.synchronise()
        return outputs

    def _compute(self, inputs: Tensors, outputs: dict[str, DeviceTensor]) -> None:
        """All but the outputs' way to the host."""
        given = {}
        for name, tensor in inputs.items():
            if isinstance(tensor, DeviceTensor):
                given[name] = tensor
            else:
                given[name] = self._room(name, tensor.shape)
                self._staging.upload(name, tensor, given[name].address)
        self._bind({name: tensor.address for name, tensor in {**given, **outputs}.items()})
        if not (self._capturing and self._warm):
            self._enqueue()
            self._warm = True
        else:
            self._stream.replay(self._graph())

    def _graph(self) -> Captured:
        """The work on the addresses that are bound."""
        key = tuple(self._bound.values())
        if key not in self._graphs:
            try:
                self._graphs[key] = self._stream.capture(self._enqueue)
            except BackendError as error:
                raise BackendError(
                    f"{self._loaded.name} cannot be captured as a CUDA graph ({error}): set "
                    f"{GRAPHS}=0"
                ) from error
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._loaded.failure("failed")

    def _bind(self, addresses: dict[str, int]) -> None:
        """In the order of the engine's tensors, so that equal sets are equal keys."""
        for name in self._types:
            address = addresses[name]
            known = self._bound.get(name) == address
            if not known and not self._context.set_tensor_address(name, address):
                raise self._loaded.failure(f"does not take the address of {name}")
        self._bound = {name: addresses[name] for name in self._types}

    def _arrange(self, inputs: Tensors) -> None:
        """Sizes for inputs of these shapes and types."""
        for name, tensor in inputs.items():
            if tensor.dtype != self._types[name]:
                raise BackendError(
                    f"{self._loaded.name}: {name} is {tensor.dtype}, and the engine takes "
                    f"{self._types[name]}"
                )
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        if shapes == self._shapes:
            return
        self._shapes = {}
        # They are of the old shapes. After a change, TensorRT needs one run that is no capture.
        self._graphs.clear()
        self._warm = False
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._loaded.failure(f"does not take {name} of {shape}")
        self._outputs = {
            name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs
        }
        self._shapes = shapes

    def _room(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        if name not in self._own or self._own[name].shape != shape:
            self._own[name] = DeviceTensor(self._device, shape, self._types[name])
        return self._own[name]


def _captures() -> bool:
    """Whether CUDA graphs are wanted. Raises BackendError for a setting other than 0 or 1."""
    wanted = os.environ.get(GRAPHS) or "1"
    if wanted not in ("0", "1"):
        raise BackendError(f"{GRAPHS} is {wanted!r}: set it to 0 or 1")
    return wanted == "1"
