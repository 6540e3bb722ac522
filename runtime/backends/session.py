"""One way to run a graph, whatever runs it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy.typing as npt

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu.device_tensor import Tensor

Backend = Literal["cpu", "cuda", "tensorrt", "tensorrt-fp16", "tensorrt-int8"]
"""onnxruntime on the CPU or by CUDA; engines of TensorRT in float32, float16 or 8 bits."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)
_ENGINES: dict[Backend, Literal["fp32", "fp16", "int8"]] = {
    "tensorrt": "fp32",
    "tensorrt-fp16": "fp16",
    "tensorrt-int8": "int8",
}
"""What their engines compute in."""


class Session(Protocol):
    """A loaded graph. May be run from several threads, and as often as wanted."""

    @property
    def provider(self) -> str:
        """What the graph really runs on, such as CPUExecutionProvider."""

    def run(self, **inputs: Tensor) -> dict[str, npt.NDArray[Any]]:
        """All outputs by name, for all inputs by name; shapes and dtypes are the graph's."""

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        """As `run`, with the outputs left where they were computed: arrays where that is the CPU,
        tensors of the GPU where it is that. They are the caller's."""


Wrap = Callable[[Path, Session], Session]
"""Puts something around the session of the graph at that path."""
_wrap: ContextVar[Wrap | None] = ContextVar("wrap", default=None)


@contextmanager
def wrapped_sessions(wrap: Wrap) -> Iterator[None]:
    """Sessions that `open_session` makes within are handed out as `wrap` returns them, so that
    they can be watched without the codecs knowing."""
    token = _wrap.set(wrap)
    try:
        yield
    finally:
        _wrap.reset(token)


def open_session(
    path: Path, backend: Backend = "cpu", *, threads: int | None = None, exact: bool = False
) -> Session:
    """Load the ONNX graph at `path`. `threads` limits the CPU threads of one run (None: all);
    `exact` keeps to float32 where a backend would round more, as to TensorFloat-32. TensorRT runs
    the graph's engines (`dsin.runtime.backends.engine_files`), which take the sizes they were built
    for. Of several GPUs, $DSIN_GPU chooses one.

    Raises BackendError, with the command that mends it, where the backend is not installed or the
    graph would run on something else than what was asked for.
    """
    if backend not in BACKENDS:
        raise BackendError(f"there is no backend {backend!r}: use {' or '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"a session needs at least 1 thread, not {threads}")
    session: Session
    if backend in _ENGINES:
        from dsin.runtime.backends.tensorrt import TensorRtSession

        session = TensorRtSession(path, "exact" if exact else _ENGINES[backend])
    elif backend == "cuda":
        from dsin.runtime.backends.ort_cuda import OrtCudaSession

        session = OrtCudaSession(path, threads, exact=exact)
    else:
        from dsin.runtime.backends.ort import OrtSession

        session = OrtSession(path, threads)
    wrap = _wrap.get()
    return session if wrap is None else wrap(path, session)
