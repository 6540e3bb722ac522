"""The machine that a profile was made on: what it is, what is installed, how it is doing.

Everything is read from files and packages that may be absent; then the answer is None, or the key
is missing.
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dsin.runtime.profiling.chip import available_threads

PACKAGES = (
    "dsin",
    "numpy",
    "numba",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
)
_CPU = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")


@dataclass(frozen=True)
class Machine:
    """`threads` are the processors that the process may use; `load_1min` is what was waiting for
    them when the profile began, this process included; `governor` is Linux's for the clocks."""

    name: str
    architecture: str
    system: str
    threads: int
    load_1min: float | None
    governor: str | None


@dataclass(frozen=True)
class Heat:
    """At one moment: events of throttling since the start of the machine, the hottest sensor in
    °C, the slowest clock in MHz. None where the system does not say."""

    throttle_events: int | None
    hottest_c: float | None
    slowest_mhz: float | None


@dataclass(frozen=True)
class Commit:
    """The source's git commit; `modified` if tracked files differ from it."""

    commit: str
    modified: bool


def describe_machine() -> Machine:
    """This machine, now."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    governor = _text(_CPU / "cpu0/cpufreq/scaling_governor")
    system = f"{platform.system()} {platform.release()}"
    return Machine(
        _processor_name(), platform.machine(), system, available_threads(), load, governor
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_heat() -> Heat:
    """What Linux counts and measures."""
    events = _numbers(_CPU, "cpu[0-9]*/thermal_throttle/core_throttle_count")
    temperatures = _numbers(_THERMAL, "thermal_zone*/temp")
    clocks = _numbers(_CPU, "cpu[0-9]*/cpufreq/scaling_cur_freq")
    return Heat(
        throttle_events=sum(events) if events else None,
        hottest_c=max(temperatures) / 1000 if temperatures else None,
        slowest_mhz=min(clocks) / 1000 if clocks else None,
    )


def peak_memory_mib() -> float:
    """The most memory that this process ever had resident, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def source_commit(file: Path = Path(__file__)) -> Commit | None:
    """The commit of the checkout that `file` belongs to; None for an installed copy."""
    path = file.resolve()
    # A copy installed inside a checkout, as in its .venv, is not tracked by it.
    if _git(path.parent, "ls-files", "--error-unmatch", path.name) is None:
        return None
    commit = _git(path.parent, "rev-parse", "HEAD")
    changes = _git(path.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else Commit(commit, bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:  # there is no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor_name() -> str:
    board = _text(Path("/proc/device-tree/model"))
    if board is not None:
        return board
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _numbers(folder: Path, pattern: str) -> list[int]:
    texts = (_text(path) for path in folder.glob(pattern))
    return [int(text) for text in texts if text is not None and text.lstrip("-").isdecimal()]


def _text(path: Path) -> str | None:
    """A small file's text, without what surrounds it."""
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:  # some sensors exist and refuse to be read
        return None
