"""What NVRTC is asked, and what is said of its refusals. Its binding is played here."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dsin.runtime.errors import BackendError
from dsin.runtime.gpu import cuda_compiler, cuda_driver

GOOD = SimpleNamespace(value=0, name="NVRTC_SUCCESS")


class Nvrtc:
    """Compiles all sources but `bad`, of which it says `log`."""

    nvrtcResult = SimpleNamespace(NVRTC_SUCCESS=GOOD)  # noqa: N815

    def __init__(self, log: bytes = b"dsin.cu(1): error: what is bad\n\0") -> None:
        self.log = log
        self.asked: list[tuple[bytes, list[bytes]]] = []
        self.destroyed = 0
        self.fault: Any = GOOD

    def nvrtcVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return GOOD, 13, 1

    def nvrtcCreateProgram(self, source: bytes, name: bytes, *headers: Any) -> Any:  # noqa: N802
        assert (name, *headers) == (b"dsin.cu", 0, [], [])
        return self.fault, source

    def nvrtcCompileProgram(self, program: bytes, count: int, options: list[bytes]) -> Any:  # noqa: N802
        assert count == len(options)
        self.asked.append((program, options))
        bad = SimpleNamespace(value=6, name="NVRTC_ERROR_COMPILATION")
        return (bad if program == b"bad" else GOOD,)

    def nvrtcGetProgramLogSize(self, program: bytes) -> Any:  # noqa: N802
        return GOOD, len(self.log)

    def nvrtcGetProgramLog(self, program: bytes, log: bytearray) -> Any:  # noqa: N802
        log[:] = self.log
        return (GOOD,)

    def nvrtcGetCUBINSize(self, program: bytes) -> Any:  # noqa: N802
        return GOOD, 4

    def nvrtcGetCUBIN(self, program: bytes, made: bytearray) -> Any:  # noqa: N802
        assert len(made) == 4
        made[:] = b"code"
        return (GOOD,)

    def nvrtcDestroyProgram(self, program: bytes) -> Any:  # noqa: N802
        self.destroyed += 1
        return (GOOD,)


def played(monkeypatch: pytest.MonkeyPatch, nvrtc: Nvrtc) -> Nvrtc:
    bindings: Any = ModuleType("cuda.bindings")
    bindings.nvrtc = nvrtc
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return nvrtc


def test_a_source_is_compiled_for_one_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc = played(monkeypatch, Nvrtc())
    assert cuda_compiler.compile_source("good", 87) == b"code"
    assert nvrtc.asked == [(b"good", [b"--gpu-architecture=sm_87", b"--std=c++17"])]
    assert nvrtc.destroyed == 1
    assert cuda_compiler.version() == "13.1"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (b"dsin.cu(1): error: what is bad\n\0", "dsin.cu(1): error: what is bad"),
        (b"\0", "NVRTC_ERROR_COMPILATION"),
    ],
)
def test_what_the_compiler_says_is_told(
    monkeypatch: pytest.MonkeyPatch, log: bytes, reason: str
) -> None:
    played(monkeypatch, Nvrtc(log))
    with pytest.raises(BackendError) as told:
        cuda_compiler.compile_source("bad", 90)
    assert str(told.value) == f"NVRTC 13.1 cannot compile for sm_90: {reason}"


def test_faults_of_the_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nvrtc = played(monkeypatch, Nvrtc())
    nvrtc.fault = SimpleNamespace(value=1, name="NVRTC_ERROR_OUT_OF_MEMORY")
    with pytest.raises(BackendError, match=r"^NVRTC failed: NVRTC_ERROR_OUT_OF_MEMORY$"):
        cuda_compiler.compile_source("good", 87)
    fault = SimpleNamespace(value=700, name="CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(BackendError, match=r"^the CUDA driver says CUDA_ERROR_ILLEGAL_ADDRESS$"):
        cuda_driver.checked((fault, 3))
    assert cuda_driver.checked((GOOD, 3)) == (3,)
