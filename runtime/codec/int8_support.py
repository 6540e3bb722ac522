"""Does this processor run 8-bit graphs correctly?

Their unsigned activations times signed weights, summed in pairs, do not fit into the 16 bits that
x86 has without VNNI: such processors silently saturate the sums, and pictures get worse.
"""

import platform
from pathlib import Path

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.errors import BackendError

CPU_FACTS = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


def check_int8(bundle: Bundle) -> None:
    """Raise BackendError where a bundle calibrated for CPUs is opened on an x86 without VNNI."""
    calibration = bundle.training.get("calibration")
    if not isinstance(calibration, dict) or calibration.get("target") != "cpu":
        return
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    flags = cpu_flags()
    if flags and not flags & VNNI:
        raise BackendError(
            f"bundle {bundle.path.name} has 8-bit networks, which this processor computes "
            "wrongly (it has no VNNI): use the float ones"
        )


def cpu_flags() -> set[str]:
    """What the first processor can do, as Linux names it; empty where that is unknown."""
    try:
        text = CPU_FACTS.read_text()
    except OSError:
        return set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
