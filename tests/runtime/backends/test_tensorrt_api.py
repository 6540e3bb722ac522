"""What TensorRT is asked, and what is said of its failures. TensorRT itself is played here."""

import sys
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dsin.runtime.backends.tensorrt_api import MIB, Build, Network, Reasons, check_dla, cure_of
from dsin.runtime.errors import BackendError


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class Config:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.default_device_type = self.DLA_core = None

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b" and more") if data != b"old" else None

    def set_timing_cache(self, cache: Any, of_others: bool) -> bool:
        return not of_others


class Played:
    """A TensorRT of which a test says what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: bytes | None = b"plan"
        self.cores, self.parses, self.fault = 1, True, False
        self.complaints: list[tuple[Severity, str]] = []
        self.errors: list[Any] = []
        self.config = Config()
        module: Any = ModuleType("tensorrt")
        module.__version__ = "10.3.0"
        module.ILogger = type("ILogger", (), dict(Severity.__members__))
        module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=3)
        module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        module.BuilderFlag = SimpleNamespace(TF32="tf32", GPU_FALLBACK="fallback")
        module.DeviceType = SimpleNamespace(DLA="dla")
        module.Builder, module.OnnxParser = self._builder, self._parser
        monkeypatch.setitem(sys.modules, "tensorrt", module)

    def _complain(self, logger: Any) -> None:
        for severity, message in self.complaints:
            logger.log(severity, message)

    def _builder(self, logger: Any) -> Any:
        if self.fault:
            self._complain(logger)
            raise TypeError("a null pointer")

        def build(network: Any, config: Config) -> bytes | None:
            self._complain(logger)
            return self.plan

        inputs = [SimpleNamespace(name="x", shape=(1, 3, -1, -1))]
        return SimpleNamespace(
            num_DLA_cores=self.cores,
            create_network=lambda flags: SimpleNamespace(
                flags=flags, num_inputs=1, get_input=inputs.__getitem__
            ),
            create_builder_config=lambda: self.config,
            create_optimization_profile=Config,
            build_serialized_network=build,
        )

    def _parser(self, network: Any, logger: Any) -> Any:
        def parse(model: bytes) -> bool:
            self._complain(logger)
            return self.parses

        return SimpleNamespace(
            parse=parse, num_errors=len(self.errors), get_error=self.errors.__getitem__
        )


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


PROFILE = {"x": ((1, 3, 64, 64), (1, 3, 128, 64), (1, 3, 128, 128))}


def test_a_build_says_what_is_wanted(trt: Played) -> None:
    network = Network(b"onnx", "a graph")
    assert (network.network.flags, network.shapes()) == (8, {"x": (1, 3, -1, -1)})
    how = Build(exact=True, workspace_mib=5, timing_cache=b"times", dla=True)
    built = network.build(PROFILE, how)
    assert (built.plan, built.timing_cache) == (b"plan", b"times and more")
    *told, (name, profile) = trt.config.told
    assert told == [
        ("clear_flag", "tf32"), ("set_memory_pool_limit", "workspace", 5 * MIB),
        ("set_flag", "fallback"),
    ]  # fmt: skip
    assert (trt.config.default_device_type, trt.config.DLA_core) == ("dla", 0)
    assert (name, profile.told) == ("add_optimization_profile", [("set_shape", "x", *PROFILE["x"])])


def test_a_plain_build_says_nothing(trt: Played) -> None:
    built = Network(b"onnx", "a graph").build({}, Build())
    assert (built.plan, built.timing_cache, trt.config.told) == (b"plan", None, [])


def test_a_timing_cache_of_another_machine_is_refused(trt: Played) -> None:
    with pytest.raises(BackendError, match=r"10\.3\.0 does not take this timing cache: delete it"):
        Network(b"onnx", "a graph").build({}, Build(timing_cache=b"old"))


def test_a_dla_must_be_there(trt: Played) -> None:
    check_dla()
    trt.cores = 0
    with pytest.raises(
        BackendError, match=r"has no DLA, which Jetson AGX Orin, .* leave out --dla"
    ):
        check_dla()
    with pytest.raises(BackendError, match="this machine has no DLA: leave out --dla"):
        Network(b"onnx", "a graph").build({}, Build(dla=True))
    trt.fault = True
    for refused in (check_dla, lambda: Network(b"onnx", "a graph")):
        with pytest.raises(BackendError) as told:
            refused()
        assert str(told.value) == "TensorRT 10.3.0 cannot build here: TensorRT gives no reason"


def test_what_failed_is_told_with_the_first_complaint(trt: Played) -> None:
    network = Network(b"onnx", "a graph")
    trt.plan = None
    trt.complaints = [
        (Severity.WARNING, "slow"), (Severity.ERROR, "out of\nmemory"),
        (Severity.INTERNAL_ERROR, "no plan"),
    ]  # fmt: skip
    room = "end other programs that use the GPU, or take smaller frames"
    for complaints, reason in (
        (trt.complaints, f"out of memory; {room}"), ([], "TensorRT gives no reason")
    ):  # fmt: skip
        trt.complaints = complaints
        with pytest.raises(BackendError) as told:
            network.build({}, Build())
        assert str(told.value) == f"TensorRT 10.3.0 cannot build a graph: {reason}"


def test_what_cannot_be_parsed_is_named(trt: Played) -> None:
    """By the parser's own error where it has one; older ones do not know the operator."""
    trt.parses, trt.complaints = False, [(Severity.ERROR, "no such thing")]
    cases: list[tuple[list[Any], str]] = [
        ([], "no such thing"),
        ([SimpleNamespace(desc=lambda: "not\nknown")], "not known"),
        ([SimpleNamespace(desc=lambda: "odd", node_operator=lambda: "If")], "operator If: odd"),
    ]
    for trt.errors, reason in cases:
        with pytest.raises(BackendError) as told:
            Network(b"onnx", "a graph")
        assert str(told.value) == f"TensorRT 10.3.0 cannot take a graph: {reason}"


def test_complaints_are_told_once(trt: Played) -> None:
    reasons = Reasons()
    reasons.logger.log(Severity.ERROR, "first")
    reasons.logger.log(Severity.ERROR, "second")
    assert [reasons.first(), reasons.first()] == ["first", "TensorRT gives no reason"]


@pytest.mark.parametrize(
    ("reason", "is_memory"),
    [
        ("Cuda Runtime (out of memory)", True),
        ("error code 2: OutOfMemory (Requested size was 4096)", True),
        ("Skipping tactic due to insufficient memory", True),
        ("no implementation for node", False),
    ],
)
def test_room_is_made_where_memory_is_lacking(reason: str, is_memory: bool) -> None:
    room = "end other programs that use the GPU, or take smaller frames"
    assert cure_of(reason, "build it anew") == (room if is_memory else "build it anew")
