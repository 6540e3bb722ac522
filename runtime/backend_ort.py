"""Graphs on onnxruntime: CPU, or CUDA with nothing silently falling back to the CPU."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from dsin.runtime.backend import Backend
from dsin.runtime.errors import BackendError

_PROVIDERS: dict[Backend, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INSTALL: dict[Backend, str] = {
    "cpu": "pip install 'dsin[cpu]'",
    "cuda": "pip uninstall -y onnxruntime; pip install 'dsin[gpu]'",
}
_ONLY_ERRORS = 3


class OrtSession:
    """An onnxruntime session on exactly the provider that was asked for."""

    def __init__(
        self, path: Path, backend: Backend, threads: int | None, *, exact: bool = False
    ) -> None:
        ort = _onnxruntime(backend)
        wanted = _PROVIDERS[backend]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = _ONLY_ERRORS
        # Spinning threads of an idle session would take the cores from search and entropy coding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [wanted]
        if backend == "cuda":
            providers = [(wanted, {"use_tf32": 0 if exact else 1}), _PROVIDERS["cpu"]]
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # onnxruntime's errors share no base but Exception
            reason = str(error).splitlines()[0]
            raise BackendError(f"onnxruntime cannot load {path}: {reason}") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted:
            raise BackendError(
                f"{path.name} would run on {self.provider} instead of {wanted}: a CUDA or cuDNN "
                "library is missing; pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name."""
        return dict(zip(self._outputs, self._session.run(None, inputs), strict=True))


def _onnxruntime(backend: Backend) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError(f"onnxruntime is not installed: {_INSTALL[backend]}") from error
    if _PROVIDERS[backend] not in ort.get_available_providers():
        raise BackendError(
            f"this onnxruntime {ort.__version__} has no {_PROVIDERS[backend]}: {_INSTALL[backend]}"
        )
    return ort
