"""`dsin doctor`: what this machine has of extras, backends, cameras, video codecs and caches.

Nothing is opened but libraries: no camera is started, no socket, and nothing is downloaded.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from dsin.runtime import caches
from dsin.runtime.codec.bundle import open_bundle, shipped_bundles
from dsin.runtime.codec.precision import computes_int8_fast
from dsin.runtime.diagnosis.extras import (
    CPU_RUNTIME,
    GPU_RUNTIME,
    extras,
    install_line,
    installed_version,
)
from dsin.runtime.errors import DsinError
from dsin.runtime.files import check_target, is_file, write_json
from dsin.runtime.profiling.machine import Machine, describe_machine, versions
from dsin.runtime.progress import ProgressLine
from dsin.runtime.sources.picture_folders import natural_order

FORMAT = 1
"""Version of the JSON."""
Status = Literal["there", "missing", "broken"]
_WIDEST = 110
"""Letters of a detail that the table shows; the JSON has all."""
_DEVICES = Path("/dev")
_SYSFS = Path("/sys/class/video4linux")
_VIDEO_CODECS = {
    "decoding h264": ("r", "h264"),
    "decoding hevc": ("r", "hevc"),
    "decoding av1": ("r", "libdav1d"),
    "decoding vp9": ("r", "vp9"),
    "decoding mjpeg": ("r", "mjpeg"),
    "encoding hevc": ("w", "libx265"),
}
"""What video files and `--against hevc` need, and the codec of FFmpeg that does it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for. `detail` says what was found, `remedy` what would bring or
    mend it, where there is such a line."""

    section: str
    name: str
    status: Status
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Everything; `to_json` is what `dsin doctor --json` writes."""

    machine: Machine
    versions: dict[str, str]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {"dsin_doctor": FORMAT, **asdict(self)}

    def table(self) -> str:
        """The findings for a person, without a newline at the end."""
        machine, marks = self.machine, {"there": "yes", "missing": "no", "broken": "BROKEN"}
        lines = [
            f"{machine.name}, {machine.architecture}, {machine.threads} threads, {machine.system}",
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        section = ""
        for found in self.findings:
            if found.section != section:
                section = found.section
                lines += ["", section]
            detail = shorten(found.detail, _WIDEST, placeholder=" …")
            lines.append(f"  {marks[found.status]:7}{found.name:22}{detail}")
            if found.remedy:
                lines.append(f"  {'':29}→ {found.remedy}")
        return "\n".join(lines)


def run_doctor(json_path: Path | None = None) -> Diagnosis:
    """Look at everything, print it, write it to `json_path`. Raises DsinError for a file that
    cannot be written; what is missing on the machine is no error."""
    check_target(json_path)
    with ProgressLine() as progress:
        diagnosis = diagnose(progress.show)
    print(diagnosis.table())
    if json_path is not None:
        write_json(json_path, diagnosis.to_json())
    return diagnosis


def diagnose(tell: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Look at everything; `tell` gets what is being looked at."""
    found: list[Finding] = []
    for section, look in _SECTIONS.items():
        tell(f"looking at {section}")
        found += look(section)
    return Diagnosis(describe_machine(), versions(), tuple(found))


def _extras(section: str) -> Iterator[Finding]:
    for extra in extras():
        if extra.missing:
            detail = f"without {', '.join(extra.missing)}"
            yield Finding(section, extra.name, "missing", detail, install_line(extra.name))
        else:
            shown = ", ".join(f"{name} {version}" for name, version in extra.installed.items())
            yield Finding(section, extra.name, "there", shown)
    if installed_version(CPU_RUNTIME) and installed_version(GPU_RUNTIME):
        yield Finding(
            section, CPU_RUNTIME, "broken", f"and {GPU_RUNTIME} overwrite each other's files",
            f"pip uninstall -y {CPU_RUNTIME} {GPU_RUNTIME}; pip install 'dsin[gpu]'",
        )  # fmt: skip


def _backends(section: str) -> Iterator[Finding]:
    for name, probe in (("cpu", _cpu), ("cuda", _cuda), ("tensorrt", _tensorrt)):
        yield _probed(section, name, probe)
    fast = computes_int8_fast()
    detail = "this processor has fast and right 8-bit products" if fast else "float is used instead"
    yield Finding(section, "8-bit networks", "there" if fast else "missing", detail)


def _cpu() -> str:
    from dsin.runtime.backends.ort import CPU, onnxruntime

    return f"onnxruntime {onnxruntime(CPU).__version__}"


def _cuda() -> str:
    from dsin.runtime.backends.ort import CUDA, onnxruntime

    return f"onnxruntime {onnxruntime(CUDA).__version__}, {_gpu()}"


def _tensorrt() -> str:
    from dsin.runtime.backends.tensorrt_api import version

    return f"TensorRT {version()}, {_gpu()}"


def _gpu() -> str:
    from dsin.runtime.gpu.cuda_driver import chosen_device

    return f"GPU with sm_{chosen_device().architecture}"


def _cameras(section: str) -> Iterator[Finding]:
    devices = sorted(_DEVICES.glob("video[0-9]*"), key=natural_order)
    for device in devices:
        title = _SYSFS / device.name / "name"
        name = title.read_text(errors="replace").strip() if is_file(title) else "no name"
        if os.access(device, os.R_OK | os.W_OK):
            yield Finding(section, str(device), "there", name)
        else:
            detail, remedy = f"{name}, may not be opened", "sudo usermod -aG video $USER"
            yield Finding(section, str(device), "broken", detail, remedy)
    if not devices:
        yield Finding(section, "USB and CSI cameras", "missing", "no /dev/video*")
    yield _gstreamer(section)


def _gstreamer(section: str) -> Finding:
    program, install = shutil.which("gst-launch-1.0"), "apt install gstreamer1.0-tools"
    if program is None:
        return Finding(section, "GStreamer", "missing", "no gst-launch-1.0", install)
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Finding(section, "GStreamer", "broken", f"{program} fails", install)
    return Finding(section, "GStreamer", "there", " ".join(done.stdout.split("\n")[:2]).strip())


def _video(section: str) -> Iterator[Finding]:
    try:
        av: Any = import_module("av")
    except ImportError as error:
        absent = f"PyAV: {error}"
        yield Finding(section, "video files", "missing", absent, install_line("video"))
        return
    for name, (mode, codec) in _VIDEO_CODECS.items():
        yield _probed(section, name, partial(_codec, av, mode, codec))


def _codec(av: Any, mode: str, codec: str) -> str:
    try:
        return f"{av.Codec(codec, mode).long_name}, PyAV {av.__version__}"
    except ValueError as error:
        raise DsinError(
            f"this PyAV {av.__version__} has no {codec}: use a wheel of PyAV"
        ) from error


def _compilers(section: str) -> Iterator[Finding]:
    from dsin.runtime.caches import has_kernels

    kept = has_kernels()
    detail = "compiled by an earlier run" if kept else "the first run compiles, up to a minute"
    yield Finding(section, "kernels of the CPU", "there" if kept else "missing", detail)
    yield _probed(section, "NVRTC", _nvrtc)
    yield Finding(section, "cache", "there", str(caches.cache_folder()))


def _nvrtc() -> str:
    from dsin.runtime.gpu.cuda_compiler import version

    return f"NVRTC {version()} compiles kernels for the GPU"


def _bundles(section: str) -> Iterator[Finding]:
    for name in shipped_bundles():
        try:
            yield Finding(section, name, "there", _bundle(name))
        except DsinError as error:
            yield Finding(section, name, "broken", str(error), "install dsin again")


def _bundle(name: str) -> str:
    bundle = open_bundle(name)
    megabytes = sum(bundle.file_bytes.values()) / 1e6
    return f"whole, {megabytes:.1f} MB, codec id {bundle.codec_id.hex()}"


def _probed(section: str, name: str, probe: Callable[[], str]) -> Finding:
    """What a probe tells; the error of one that fails ends in the remedy, after a colon."""
    try:
        return Finding(section, name, "there", probe())
    except DsinError as error:
        detail, _, remedy = str(error).rpartition(": ")
        return Finding(section, name, "missing", detail or remedy, remedy if detail else None)
    except Exception as error:  # a library that is there and fails, in whatever way
        return Finding(section, name, "broken", f"{type(error).__name__}: {error}".splitlines()[0])


_SECTIONS: dict[str, Callable[[str], Iterator[Finding]]] = {
    "extras": _extras,
    "backends": _backends,
    "cameras": _cameras,
    "video codecs": _video,
    "compilers and caches": _compilers,
    "bundles": _bundles,
}
