"""The attributes of a PatchCorrelation node, as the fields of a TensorRT plugin.

A field is an array with a name: one int32 for a number, int8 for text, which ends in a zero.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import BundleError
from dsin.runtime.patch_correlation.definition import Measure
from dsin.runtime.patch_correlation.options import SearchOptions

NAME = "PatchCorrelation"

_INTEGERS = {
    "patch_height": range(1, 2**31),
    "patch_width": range(1, 2**31),
    "prior": range(2),
    "stretched": range(2),
    "off_centre": range(2),
}


@dataclass(frozen=True)
class Attributes:
    """The attributes of the ONNX node; switches are 0 or 1, as they are there."""

    patch_height: int
    patch_width: int
    prior: int
    stretched: int
    off_centre: int
    measure: Measure

    @property
    def search(self) -> SearchOptions:
        """The same as options of the search."""
        return SearchOptions(
            (self.patch_height, self.patch_width), self.measure, bool(self.prior),
            bool(self.stretched), bool(self.off_centre),
        )  # fmt: skip

    @classmethod
    def from_fields(cls, fields: Mapping[str, npt.NDArray[Any]]) -> "Attributes":
        """Raises BundleError where a field is missing or has no meaning."""
        numbers = {name: _integer(name, fields) for name in _INTEGERS}
        return cls(measure=_measure(fields), **numbers)

    def to_fields(self) -> dict[str, npt.NDArray[Any]]:
        """The reverse of `from_fields`."""
        fields: dict[str, npt.NDArray[Any]] = {
            name: np.array([value], np.int32)
            for name, value in asdict(self).items()
            if name in _INTEGERS
        }
        return {**fields, "measure": np.frombuffer(self.measure.encode() + b"\0", np.int8)}


def _field(name: str, fields: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if name not in fields or not fields[name].size:
        raise _unfit(f"{name} is missing")
    return fields[name]


def _integer(name: str, fields: Mapping[str, npt.NDArray[Any]]) -> int:
    value, allowed = _field(name, fields), _INTEGERS[name]
    if value.dtype != np.int32 or value.size != 1 or int(value.flat[0]) not in allowed:
        wanted = "0 or 1" if allowed == range(2) else "a positive integer"
        raise _unfit(f"{name} is {', '.join(map(str, value.flat))}, not {wanted}")
    return int(value.flat[0])


def _measure(fields: Mapping[str, npt.NDArray[Any]]) -> Measure:
    text = _field("measure", fields).tobytes().split(b"\0")[0].decode(errors="replace")
    known: tuple[Measure, ...] = get_args(Measure)
    for measure in known:
        # Under NumPy 2, the bindings of TensorRT 10 repeat the first element of every field.
        if text in (measure, measure[0] * len(measure), measure[0] * (len(measure) + 1)):
            return measure
    raise _unfit(f"measure is {text!r}, not {' or '.join(known)}")


def _unfit(problem: str) -> BundleError:
    return BundleError(f"the node {NAME} is unusable: {problem}; export the model anew")
