"""Graphs on onnxruntime by CUDA, with inputs and outputs bound to memory of the GPU.

    arrays ──► pinned memory ──► device memory ─┐                  ┌─► pinned memory ──► arrays
    tensors of a GPU (keep) ────────────────────┴─► graph ─────────┴─► tensors of a GPU (keep)

All in one stream of the session's own, which onnxruntime works in as well. Memory is kept from run
to run. How large the outputs are for inputs of new shapes is learnt from a run whose outputs
onnxruntime allocates.

This has not run on a GPU yet: in the tests, onnxruntime's provider for the CPU takes the place of
that for CUDA, and a stand-in the driver's.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.ort import CPU, CUDA, onnxruntime, ort_session
from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.cuda_driver import Device, Stream, chosen_device
from dsin.runtime.gpu.device_tensor import DeviceTensor, Staging, Tensor

_TYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


class Place:
    """Where onnxruntime computes: by CUDA, in the stream that it is given."""

    provider = CUDA
    memory = "cuda"
    """What onnxruntime calls the memory that addresses are of."""

    def providers(self, device: Device, stream: Stream, *, exact: bool) -> list[Any]:
        """As onnxruntime takes them. What CUDA cannot do, as the arithmetic of shapes, the CPU
        does."""
        options = {
            "device_id": device.index,
            "use_tf32": 0 if exact else 1,
            "user_compute_stream": str(stream.handle),
        }
        return [(CUDA, options), CPU]


class OrtCudaSession:
    """An onnxruntime session on the chosen GPU. May be run from several threads, which take turns.

    `exact` keeps to float32 where TensorFloat-32 would be used. Raises BackendError where
    onnxruntime, its CUDA provider, the driver or the GPU is missing.
    """

    def __init__(
        self, path: Path, threads: int | None, *, exact: bool = False, place: Place | None = None
    ) -> None:
        where = place or Place()
        onnxruntime(where.provider)
        self._name, self._memory = path.name, where.memory
        self._device = chosen_device()
        with self._device.current():
            self._stream = Stream(self._device)
            self._staging = Staging(self._device, self._stream)
            providers = where.providers(self._device, self._stream, exact=exact)
            self._session = ort_session(path, where.provider, providers, threads)
        self.provider: str = where.provider
        outputs = self._session.get_outputs()
        self._types = {
            value.name: np.dtype(_TYPES[value.type])
            for value in (*self._session.get_inputs(), *outputs)
        }
        self._outputs: Shapes = {value.name: () for value in outputs}
        self._shapes: Shapes = {}
        self._own: dict[str, DeviceTensor] = {}
        self._using = threading.Lock()

    def run(self, **inputs: Tensor) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name, on the host."""
        with self._using, self._device.current():
            given = self._given(inputs)
            outputs = {name: self._room(name, shape) for name, shape in self._outputs.items()}
            self._compute(given, outputs)
            return self._staging.fetch(outputs)

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        """As `run`, with the outputs left on the GPU."""
        with self._using, self._device.current():
            given = self._given(inputs)
            outputs: dict[str, Tensor] = {}
            for name, shape in self._outputs.items():
                outputs[name] = DeviceTensor(self._device, shape, self._types[name])
            self._compute(given, outputs)
            self._stream.synchronise()
            return outputs

    def _given(self, inputs: Mapping[str, Tensor]) -> dict[str, DeviceTensor]:
        """The inputs on the GPU; sizes of the outputs are known from here on."""
        given = {}
        for name, tensor in inputs.items():
            if tensor.dtype != self._types[name]:
                raise BackendError(
                    f"{self._name}: {name} is {tensor.dtype}, and the graph takes "
                    f"{self._types[name]}"
                )
            if isinstance(tensor, DeviceTensor):
                given[name] = tensor
            else:
                given[name] = self._room(name, tensor.shape)
                self._staging.upload(name, tensor, given[name].address)
        shapes = {name: tensor.shape for name, tensor in inputs.items()}
        if shapes != self._shapes:
            self._shapes = {}
            self._outputs = self._learnt(given)
            self._shapes = shapes
        return given

    def _learnt(self, inputs: Mapping[str, DeviceTensor]) -> Shapes:
        binding = self._binding(inputs)
        for name in self._outputs:
            binding.bind_output(name, self._memory, self._device.index)
        self._execute(binding)
        found = binding.get_outputs()
        return {
            name: tuple(value.shape()) for name, value in zip(self._outputs, found, strict=True)
        }

    def _compute(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, Tensor]) -> None:
        binding = self._binding(inputs)
        for name, tensor in outputs.items():
            assert isinstance(tensor, DeviceTensor)
            binding.bind_output(name, *self._where(tensor))
        self._execute(binding)

    def _binding(self, inputs: Mapping[str, DeviceTensor]) -> Any:
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, *self._where(tensor))
        return binding

    def _where(self, tensor: DeviceTensor) -> tuple[Any, ...]:
        index = self._device.index
        return self._memory, index, tensor.dtype, tensor.shape, tensor.address

    def _execute(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors share no base but Exception
            reason = str(error).splitlines()[0]
            raise BackendError(f"onnxruntime cannot run {self._name}: {reason}") from error

    def _room(self, name: str, shape: tuple[int, ...]) -> DeviceTensor:
        """Memory of the session's own, for an array of the host."""
        if name not in self._own or self._own[name].shape != shape:
            self._own[name] = DeviceTensor(self._device, shape, self._types[name])
        return self._own[name]
