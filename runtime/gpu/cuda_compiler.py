"""CUDA source to machine code, by NVRTC when it is first needed, and kept on disk from then on."""

import hashlib
from typing import Any

from dsin.runtime.caches import cache_folder
from dsin.runtime.errors import BackendError, DsinError
from dsin.runtime.files import write_bytes_atomically
from dsin.runtime.gpu.cuda_driver import INSTALL


def cubin(source: str, architecture: int) -> bytes:
    """Machine code of `source` for a compute capability such as 87: from the cache, or compiled.

    Raises BackendError where NVRTC is missing or does not know the architecture.
    """
    kept = cache_folder() / f"{_key(source, architecture)}.cubin"
    try:
        return kept.read_bytes()
    except OSError:
        made = compile_source(source, architecture)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(kept, made)
    except (OSError, DsinError):
        pass  # a read-only home costs a compilation each time, and nothing else
    return made


def compile_source(source: str, architecture: int) -> bytes:
    """The same, without the cache."""
    nvrtc = _nvrtc()
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"dsin.cu", 0, [], []))[0]
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program))[0])
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        reason = bytes(log).decode(errors="replace").strip("\0\n ") or status.name
        raise BackendError(f"NVRTC {version()} cannot compile for sm_{architecture}: {reason}")
    made = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program))[0])
    _checked(nvrtc.nvrtcGetCUBIN(program, made))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(made)


def version() -> str:
    """Of NVRTC, such as 13.0. Raises BackendError where it is missing."""
    return ".".join(map(str, _checked(_nvrtc().nvrtcVersion())))


def _key(source: str, architecture: int) -> str:
    content = f"{version()} sm_{architecture}\n{source}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call returns beside its status."""
    if result[0].value:
        raise BackendError(f"NVRTC failed: {result[0].name}")
    return result[1:]


def _nvrtc() -> Any:
    """NVIDIA's binding, with its library present."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # RuntimeError: the library is not found
        raise BackendError(f"NVRTC is not installed: {INSTALL}") from error
    return nvrtc
