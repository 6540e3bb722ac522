"""TensorRT 10.3 (JetPack 6.2) to 11: the calls that dsin makes, and all that differs between them.

Networks are strongly typed: the only kind that 11 builds, and one that 10 builds as well. Precision
is what the ONNX graph says, and no builder flag changes it; TensorFloat-32 is the exception, which
`Build.exact` switches off. What else differs:

    the flag that asks for strong typing   deprecated in 11 and to go: passed where it is known
    the operator that failed to parse      known from 10.0 on; absent from parsers for RTX
    the timing cache                       TensorRT for RTX makes none

TensorRT says why something failed to its logger and nowhere else, so there is one that keeps it.
"""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dsin.runtime.errors import BackendError

INSTALL = "pip install 'dsin[tensorrt]', or on a Jetson apt install python3-libnvinfer"
"""What brings TensorRT."""
MIB = 2**20

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""For each input of any size its smallest, usual and largest shape."""


def tensorrt() -> Any:
    """The module. Raises BackendError where it is not installed, or its libraries are missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise BackendError(f"tensorrt is not installed: {INSTALL}") from error
    return tensorrt


def version() -> str:
    """Of TensorRT, such as 10.3.0. Raises BackendError."""
    return str(tensorrt().__version__)


def architecture() -> int | None:
    """Compute capability of the chosen GPU, such as 87; None on a machine without a CUDA driver.

    Raises BackendError where there is a driver that cannot be used.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    from dsin.runtime.gpu.cuda_driver import chosen_device

    return chosen_device().architecture


@contextmanager
def chosen_gpu() -> Iterator[None]:
    """Builders made within are for the GPU that $DSIN_GPU chooses; without a driver, for none.

    Raises BackendError where it cannot be used.
    """
    if architecture() is None:
        yield
        return
    from dsin.runtime.gpu.cuda_driver import chosen_device

    with chosen_device().current():
        yield


def cure_of(reason: str, otherwise: str) -> str:
    """What to do about a failure with TensorRT's reason: what `otherwise` says, or make room."""
    told = reason.lower().replace(" ", "")
    if "outofmemory" in told or "insufficientmemory" in told:
        return "end other programs that use the GPU, or take smaller frames"
    return otherwise


class Reasons:
    """What TensorRT complains of, kept for error messages; make one for each builder or runtime."""

    def __init__(self) -> None:
        base = tensorrt().ILogger
        kept: list[str] = []

        def log(logger: Any, severity: Any, message: str) -> None:
            if severity in (base.INTERNAL_ERROR, base.ERROR):
                kept.append(message)

        made = {"__init__": lambda logger: base.__init__(logger), "log": log}
        self._kept = kept
        self.logger: Any = type("Logger", (base,), made)()
        """For TensorRT."""

    def first(self) -> str:
        """The first complaint since the last call, which is mostly the cause, in one line."""
        reason = " ".join(self._kept[0].split()) if self._kept else "TensorRT gives no reason"
        self._kept.clear()
        return reason


@dataclass(frozen=True)
class Build:
    """How one engine is built. `exact` rounds nothing beyond float32; `workspace_mib` bounds what
    a layer may use while it runs (None: the GPU's memory); `timing_cache` has measurements of
    earlier builds; `dla` puts layers on the deep-learning accelerator where they fit."""

    exact: bool = False
    workspace_mib: int | None = None
    timing_cache: bytes | None = None
    dla: bool = False


@dataclass(frozen=True)
class Built:
    """A serialised engine, and the timing cache with what was measured for it (None: not asked
    for)."""

    plan: bytes
    timing_cache: bytes | None


class Network:
    """A parsed graph. `what` names it in errors.

    Raises BackendError where TensorRT cannot be used or the graph has what it does not know.
    """

    def __init__(self, model: bytes, what: str) -> None:
        trt = tensorrt()
        self._what = what
        self._reasons = Reasons()
        try:
            self._builder = trt.Builder(self._reasons.logger)
        except (TypeError, RuntimeError) as error:  # pybind11 and a null pointer: no GPU
            raise BackendError(
                f"TensorRT {version()} cannot build here: {self._reasons.first()}"
            ) from error
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self.network = self._builder.create_network(0 if flag is None else 1 << int(flag))
        # The network refers to weights that the parser holds.
        self._parser = trt.OnnxParser(self.network, self._reasons.logger)
        if not self._parser.parse(model):
            raise BackendError(
                f"TensorRT {version()} cannot take {what}: {_problem(self._parser, self._reasons)}"
            )

    def shapes(self) -> dict[str, Shape]:
        """Of the inputs, by name; -1 where any length goes."""
        inputs = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        return {tensor.name: tuple(tensor.shape) for tensor in inputs}

    def build(self, profile: Profile, how: Build) -> Built:
        """Compile. Raises BackendError where that fails, or for a DLA that is not there."""
        trt, builder = tensorrt(), self._builder
        config = builder.create_builder_config()
        if how.exact:
            config.clear_flag(trt.BuilderFlag.TF32)
        if how.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, how.workspace_mib * MIB)
        if how.dla:
            _use_dla(config, builder)
        cache = None if how.timing_cache is None else _timing_cache(config, how.timing_cache)
        if profile:
            self._add_profile(config, profile)
        plan = builder.build_serialized_network(self.network, config)
        if plan is None:
            reason = self._reasons.first()
            cure = cure_of(reason, "")
            raise BackendError(
                f"TensorRT {version()} cannot build {self._what}: {reason}{cure and '; ' + cure}"
            )
        return Built(bytes(plan), None if cache is None else bytes(cache.serialize()))

    def _add_profile(self, config: Any, profile: Profile) -> None:
        made = self._builder.create_optimization_profile()
        for name, (smallest, usual, largest) in profile.items():
            made.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(made)


def check_dla() -> None:
    """Raise BackendError where this machine has no deep-learning accelerator."""
    reasons = Reasons()
    try:
        cores = tensorrt().Builder(reasons.logger).num_DLA_cores
    except (TypeError, RuntimeError) as error:
        raise BackendError(f"TensorRT {version()} cannot build here: {reasons.first()}") from error
    if cores < 1:
        raise BackendError(
            "this machine has no DLA, which Jetson AGX Orin, Orin NX and Xavier have: "
            "leave out --dla"
        )


def _use_dla(config: Any, builder: Any) -> None:
    trt = tensorrt()
    if builder.num_DLA_cores < 1:
        raise BackendError("this machine has no DLA: leave out --dla")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _timing_cache(config: Any, data: bytes) -> Any:
    cache = config.create_timing_cache(data)
    # False: one of another GPU or TensorRT is refused.
    if cache is None or not config.set_timing_cache(cache, False):
        raise BackendError(
            f"TensorRT {version()} does not take this timing cache: delete it, or leave out "
            "--timing-cache"
        )
    return cache


def _problem(parser: Any, reasons: Reasons) -> str:
    """What the parser stumbled over, in one line."""
    if not parser.num_errors:
        return reasons.first()
    error = parser.get_error(0)
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    text = " ".join(str(error.desc()).split())
    return f"operator {operator}: {text}" if operator else text
