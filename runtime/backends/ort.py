"""Graphs on onnxruntime: CPU, or CUDA with nothing silently falling back to the CPU."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dsin.runtime.backends.derived_weights import derived_tensors
from dsin.runtime.errors import BackendError, BundleError
from dsin.runtime.files import is_file
from dsin.runtime.gpu.device_tensor import Tensor, on_host

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_INSTALL = {
    CPU: "pip install 'dsin[cpu]'",
    CUDA: "pip uninstall -y onnxruntime; pip install 'dsin[gpu]'",
}
_ONLY_ERRORS = 3
_AWAKE_US = 150
SHARED_CORES = "DSIN_SHARED_CORES"
"""The environment variable that says with 1 that other processes need the cores too: then threads
never wait awake. 0 is the default."""


class OrtSession:
    """An onnxruntime session on the CPU. `threads` None is one for each core."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._session = ort_session(path, CPU, [CPU], threads)
        self.provider: str = self._session.get_providers()[0]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, **inputs: Tensor) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name."""
        arrays = {name: on_host(tensor) for name, tensor in inputs.items()}
        return dict(zip(self._outputs, self._session.run(None, arrays), strict=True))

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The same."""
        return {**self.run(**inputs)}


def ort_session(path: Path, wanted: str, providers: Sequence[Any], threads: int | None) -> Any:
    """onnxruntime's session of a graph, which runs on the provider `wanted`.

    Raises BackendError where onnxruntime or the provider is missing, or the graph is unusable.
    """
    ort = onnxruntime(wanted)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _ONLY_ERRORS
    # Threads wait awake for the next operator of a run, since to fall asleep and be woken costs a
    # tenth of its time; but not for long, nor after it: search, entropy coding and other processes
    # would lack the core.
    awake = "0" if os.environ.get(SHARED_CORES) == "1" else "1"
    options.add_session_config_entry("session.intra_op.allow_spinning", awake)
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_AWAKE_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = with_derived_weights(ort, path, options, providers)
    except BundleError:
        raise
    except Exception as error:  # onnxruntime's errors share no base but Exception
        reason = str(error).splitlines()[0]
        raise BackendError(f"onnxruntime cannot load {path}: {reason}") from error
    found = session.get_providers()[0]
    if found != wanted:
        raise BackendError(
            f"{path.name} would run on {found} instead of {wanted}: a CUDA or cuDNN "
            "library is missing; pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return session


def with_derived_weights(ort: Any, path: Path, options: Any, providers: Sequence[Any]) -> Any:
    """A session of the module `onnxruntime`, weights included that the graph's bundle does not
    store.

    Raises BundleError where those cannot be derived, and what onnxruntime raises.
    """
    tensors = derived_tensors(path) if is_file(path, BackendError) else {}
    values = [ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
    if tensors:
        options.add_external_initializers(list(tensors), values)
    session = ort.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
    session.derived_weights = tensors, values  # it may go on reading them
    return session


def onnxruntime(wanted: str) -> Any:
    """The module, with that provider. Raises BackendError, with the command that installs it."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(f"onnxruntime is not installed: {_INSTALL[wanted]}") from error
    if wanted not in ort.get_available_providers():
        raise BackendError(
            f"this onnxruntime {ort.__version__} has no {wanted}: {_INSTALL[wanted]}"
        )
    # A program may have imported it before any part of dsin, which tells it to keep quiet.
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        ort.disable_telemetry_events()
    return ort
