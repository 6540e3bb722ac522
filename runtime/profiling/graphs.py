"""What each graph of a bundle has to compute, how long it takes alone, and what the chip could do.

Sessions are wrapped as they are opened (`SessionRecorder`); the inputs of one frame are kept, each
graph is then run alone on them. Multiplications are counted in what onnxruntime executed: its trace
of a run with all optimisations off has the shapes of every node, those inside functions and loops
included.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from dsin.runtime.backends.ort import CPU, onnxruntime, with_derived_weights
from dsin.runtime.backends.session import Session
from dsin.runtime.errors import BackendError, DsinError
from dsin.runtime.gpu.device_tensor import Tensor, on_host
from dsin.runtime.profiling.chip import ChipSpeed
from dsin.runtime.profiling.statistics import Statistics

Inputs = dict[str, Tensor]

ALONE_RUNS = 20
"""At most so many runs of a graph alone, and not many more than fit into ALONE_SECONDS."""
ALONE_SECONDS = 2.0
_BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int8": 1, "uint8": 1, "int32": 4}
_NAMES = {"float": "float32", "double": "float64"}
_PRODUCTS = (
    "Conv", "ConvTranspose", "MatMul", "Gemm", "ConvInteger", "MatMulInteger", "QLinearConv",
    "MatMulIntegerToFloat",
)  # fmt: skip
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
_INT8 = "int8 (QDQ)"
NO_INT8_BOUND = "the chip's speed is measured in float32, and 8-bit products may be faster"


class GraphCost(NamedTuple):
    """Of one run: multiply-accumulates / 1e9; MB (1e6 bytes) that its convolutions and matrix
    products read and write; what they are computed in."""

    gmac: float
    mbytes: float
    precision: str


@dataclass(frozen=True)
class GraphProfile:
    """One graph alone on the inputs of one frame.

    `bound_ms` is the least time in which the chip, as measured, can multiply that much and move
    that much; `limited_by` is which of the two it is; `share_of_bound` is bound_ms over the
    graph's median, 1 at best. All three are None where `bound_absent` says why.
    `runs_per_frame` counts device, side and server together.
    """

    graph: str
    runs_per_frame: int
    ms: Statistics
    gmac: float
    mbytes: float
    precision: str
    achieved_gmacs: float
    bound_ms: float | None
    limited_by: str | None
    share_of_bound: float | None
    bound_absent: str | None


class _Bound(NamedTuple):
    ms: float
    limited_by: str


class RecordedSession:
    """A session that can keep the inputs of its next runs; otherwise it only passes them on."""

    def __init__(self, path: Path, session: Session) -> None:
        self.path = path
        self.recording = False
        self.inputs: list[Inputs] = []
        self._session = session

    @property
    def provider(self) -> str:
        return self._session.provider

    def run(self, **inputs: Tensor) -> dict[str, npt.NDArray[Any]]:
        """As the session that is wrapped."""
        self._record(inputs)
        return self._session.run(**inputs)

    def keep(self, **inputs: Tensor) -> dict[str, Tensor]:
        """As the session that is wrapped."""
        self._record(inputs)
        return self._session.keep(**inputs)

    def _record(self, inputs: Inputs) -> None:
        if self.recording:
            self.inputs.append(inputs)


class SessionRecorder:
    """Give it to `wrapped_sessions`; it knows every session that was opened."""

    def __init__(self) -> None:
        self._sessions: list[RecordedSession] = []

    def __call__(self, path: Path, session: Session) -> Session:
        recorded = RecordedSession(path, session)
        self._sessions.append(recorded)
        return recorded

    @property
    def providers(self) -> dict[str, str]:
        """What each graph really runs on, by its name."""
        return {session.path.stem: session.provider for session in self._sessions}

    def record(self, on: bool) -> None:
        """Begin or end to keep inputs."""
        for session in self._sessions:
            session.recording = on

    def by_graph(self) -> dict[str, list[RecordedSession]]:
        """The sessions that kept inputs, by graph, in the order in which they were opened."""
        found: dict[str, list[RecordedSession]] = {}
        for session in self._sessions:
            if session.inputs:
                found.setdefault(session.path.stem, []).append(session)
        return found


def profile_graphs(recorder: SessionRecorder, chip: ChipSpeed) -> tuple[GraphProfile, ...]:
    """Every graph that the recorded frame ran. Raises DsinError where the trace is unreadable."""
    return tuple(_profile(name, of, chip) for name, of in recorder.by_graph().items())


def absent_reason(backend: str) -> str | None:
    """Why there can be no rooflines on a backend, or None where there can."""
    if backend != "cpu":
        return f"the chip's speed is measured on the CPU only, and the graphs ran on {backend}"
    try:
        onnxruntime(CPU)
    except BackendError:
        return "operations are counted by onnxruntime: pip install 'dsin[cpu]'"
    return None


def count_operations(path: Path, inputs: Inputs) -> GraphCost:
    """What one run of the ONNX graph at `path` takes. Raises DsinError for an unknown trace."""
    nodes = _traced(path, inputs)
    products = [node for node in nodes if node["op_name"] in _PRODUCTS]
    try:
        macs = sum(map(_macs, products))
        moved = sum(map(_moved_bytes, products))
        kinds = sorted({_dtype(node["input_type_shape"][0]) for node in products})
    except (KeyError, IndexError, ValueError) as error:
        raise DsinError(f"onnxruntime's trace of {path.name} cannot be read: {error}") from error
    quantised = any(node["op_name"] in _QUANTISED for node in nodes) or {"int8", "uint8"} & {*kinds}
    precision = _INT8 if quantised else " and ".join(kinds) or "no products"
    return GraphCost(macs / 1e9, moved / 1e6, precision)


def _profile(name: str, sessions: Sequence[RecordedSession], chip: ChipSpeed) -> GraphProfile:
    session = sessions[0]
    times = Statistics.of(_alone_ms(session, session.inputs[0]))
    cost = count_operations(session.path, session.inputs[0])
    bound = None if cost.precision == _INT8 else _bound(cost, chip)
    return GraphProfile(
        graph=name,
        runs_per_frame=sum(len(s.inputs) for s in sessions),
        ms=times,
        gmac=round(cost.gmac, 6),
        mbytes=round(cost.mbytes, 4),
        precision=cost.precision,
        achieved_gmacs=round(1000 * cost.gmac / times.p50, 3),
        bound_ms=round(bound.ms, 4) if bound else None,
        limited_by=bound.limited_by if bound else None,
        share_of_bound=round(bound.ms / times.p50, 4) if bound else None,
        bound_absent=None if bound else NO_INT8_BOUND,
    )


def _bound(cost: GraphCost, chip: ChipSpeed) -> _Bound:
    compute_ms = 1000 * cost.gmac / chip.gmacs
    memory_ms = cost.mbytes / chip.gbytes
    return _Bound(*max((compute_ms, "compute"), (memory_ms, "memory")))


def _alone_ms(session: Session, inputs: Inputs) -> list[float]:
    session.run(**inputs)
    times: list[float] = []
    while len(times) < ALONE_RUNS and sum(times) < 1000 * ALONE_SECONDS:
        start = time.perf_counter_ns()
        session.run(**inputs)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def _traced(path: Path, inputs: Inputs) -> list[dict[str, Any]]:
    """What onnxruntime says of each node that it executed, on the CPU and as exported."""
    ort = onnxruntime(CPU)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # A weight that was packed is gone from the trace.
        options.add_session_config_entry("session.disable_prepacking", "1")
        session = with_derived_weights(ort, path, options, [CPU])
        session.run(None, {name: on_host(tensor) for name, tensor in inputs.items()})
        events = json.loads(Path(session.end_profiling()).read_text())
    return [
        event["args"] for event in events
        if event.get("cat") == "Node" and "input_type_shape" in event.get("args", {})
    ]  # fmt: skip


def _macs(node: dict[str, Any]) -> int:
    """Of a convolution or a matrix product, from the shapes that it had."""
    inputs, kind = node["input_type_shape"], node["op_name"]
    # QLinearConv has scale and zero point of x in between.
    x, weight = _shape(inputs[0]), _shape(inputs[3 if kind == "QLinearConv" else 1])
    out = _shape(node["output_type_shape"][0])
    if kind == "ConvTranspose":
        return x[0] * prod(x[2:]) * prod(weight)
    if "Conv" in kind:
        # Each value, wherever its channels are, sums over the inputs and places of one kernel.
        return prod(out) * prod(weight[1:])
    # Gemm may transpose x: of its inner length only what the product of sizes tells is sure.
    inner = prod(x) // out[0] if kind == "Gemm" else x[-1]
    return prod(out) * inner


def _moved_bytes(node: dict[str, Any]) -> int:
    tensors = [*node["input_type_shape"], *node["output_type_shape"]]
    return sum(prod(_shape(tensor)) * _BYTES[_kind(tensor)] for tensor in tensors)


def _kind(tensor: dict[str, list[int]]) -> str:
    (kind,) = tensor
    return kind


def _dtype(tensor: dict[str, list[int]]) -> str:
    return _NAMES.get(_kind(tensor), _kind(tensor))


def _shape(tensor: dict[str, list[int]]) -> list[int]:
    return tensor[_kind(tensor)]
