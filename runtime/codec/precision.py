"""Which of a bundle's networks are opened: float ones, or those of 8 bits.

8 bits are about twice as fast on processors that multiply and add 8-bit numbers in one step, and
cost about one per cent of bits. Packets of either are read by the other.
"""

import dataclasses
import platform

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import FAITHFUL, Bundle
from dsin.runtime.codec.int8_support import VNNI, check_int8, cpu_flags
from dsin.runtime.errors import BackendError, BundleError


def at_precision(bundle: Bundle, backend: Backend) -> Bundle:
    """The bundle with the networks that its `precision` asks for on that backend, and no others.

    "auto" takes 8 bits where the bundle has them, the backend is the CPU, and the CPU has the
    instructions for it. Raises BundleError for networks that the bundle lacks, BackendError for
    8-bit ones on another backend, or on a CPU that computes them wrongly.
    """
    name, wanted = bundle.path.name, bundle.precision
    if not bundle.int8:
        calibrated = "calibration" in bundle.training
        if wanted == "int8" and not calibrated:
            raise BundleError(
                f"bundle {name} has no 8-bit networks: make them with dsin calibrate, or ask for "
                "float"
            )
        if wanted == "float" and calibrated:
            raise BundleError(f"bundle {name} has 8-bit networks only: ask for int8")
        return bundle
    if wanted == "int8" and backend != "cpu":
        raise BackendError(
            f"the 8-bit networks of bundle {name} are for the CPU, not for {backend}: ask for "
            "float there (TensorRT has 8 bits of its own: dsin-export trt --precision int8)"
        )
    if wanted == "float" or (wanted == "auto" and not (backend == "cpu" and computes_int8_fast())):
        return float_networks(bundle)
    chosen = dataclasses.replace(
        bundle,
        graphs={**bundle.graphs, **bundle.int8["graphs"]},
        training={**bundle.training, "calibration": bundle.int8},
        int8={},
        precision="int8",
    )
    check_int8(chosen)
    return chosen


def float_networks(bundle: Bundle) -> Bundle:
    """The bundle without the 8-bit networks beside its own, for what compares with the latter."""
    return dataclasses.replace(bundle, int8={}, precision="float") if bundle.int8 else bundle


def computes_int8_fast() -> bool:
    """Whether this processor has instructions for 8-bit products, and right ones."""
    machine, flags = platform.machine(), cpu_flags()
    if machine in ("x86_64", "AMD64"):
        return bool(flags & VNNI)
    return machine in ("aarch64", "arm64") and "asimddp" in flags


def precision_of(bundle: Bundle) -> str:
    """What the networks of a bundle compute in, for a person."""
    if bundle.int8:
        return "float and 8 bits"
    return "8 bits" if "calibration" in bundle.training else "float"


def exact_name(bundle: Bundle) -> str:
    """What `open_bundle` opens as this bundle in another process, with the same choices."""
    choices: list[str] = [bundle.precision] if bundle.precision != "auto" else []
    if bundle.look != FAITHFUL:
        choices.append(bundle.look)
    return "@".join([str(bundle.path.resolve()), *choices])
