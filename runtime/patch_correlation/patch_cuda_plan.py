"""What the CUDA search is compiled from and launched on: constants, memory, order."""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsin.runtime.patch_correlation.definition import (
    H_SPACE,
    MEAN,
    NO_VARIANCE,
    STD,
    TO_XYZ,
    Measure,
    check_extent,
    tie_of,
)
from dsin.runtime.patch_correlation.patch_search import ROTATION, dct

BUDGET = 15 << 20
"""Bytes of workspace that bands are cut for."""
ORDERS = (3, 1, 1)
"""Highest total order of the DCT coefficients kept in each rotated plane."""
NEAR = 32
"""Windows near its best that are kept of each patch."""
THREADS = 128
GROUP = 4
"""Patches side by side that share a block, and so what is loaded of the windows."""
STRIPES = 8
"""Blocks that share the windows of such a group."""
KERNELS: dict[Measure, tuple[str, ...]] = {
    "pearson": (
        "describe", "guess", "scan", "resolve", "exhaust_best", "exhaust_first", "gather",
    ),
    "l2": ("describe", "guess", "exhaust_best", "exhaust_first", "gather"),
}  # fmt: skip


def source(patch: tuple[int, int], measure: Measure, half: bool) -> str:
    """CUDA source for one size of patch, one measure, and float16 or float32 pictures."""
    numbers: dict[str, Any] = {
        "PH": patch[0],
        "PW": patch[1],
        "K": feature_count(patch),
        "HALF": int(half),
        "THREADS": THREADS,
        "GROUP": GROUP,
        "NEAR": NEAR,
        "TOP_GREY": ORDERS[0],
        "TOP_COLOUR": ORDERS[1],
        "NO_VARIANCE": NO_VARIANCE,
        "TIE": tie_of(measure, patch),
        "LOG_2": math.log(2),
    }
    tables = [
        _table("double", "MEAN", np.array(MEAN)),
        _table("double", "STD", np.array(STD)),
        _table("double", "XYZ", TO_XYZ),
        _table("double", "ROTATION", ROTATION),
        _table("double", "AXIS", ROTATION.sum(1)),
        _table("float", "ROTATED", ROTATION @ H_SPACE / np.array(STD)),
        _table("float", "DOWN", dct(max(ORDERS) + 1, patch[0])),
        _table("float", "ACROSS", dct(max(ORDERS) + 1, patch[1])),
    ]
    defines = [f"#define {name} {value!r}" for name, value in numbers.items()]
    parts = ("common", "pruned" if measure == "pearson" else "l2", "finish")
    folder = Path(__file__).parent
    return "\n".join([*defines, *tables, *((folder / f"patch_{p}.cu").read_text() for p in parts)])


def _table(kind: str, name: str, values: npt.NDArray[Any]) -> str:
    shape = "".join(f"[{length}]" for length in values.shape)
    return f"__constant__ {kind} {name}{shape} = {_braces(values)};"


def _braces(values: npt.NDArray[Any]) -> str:
    each = (_braces(row) for row in values) if values.ndim > 1 else (repr(float(v)) for v in values)
    return "{" + ", ".join(each) + "}"


def feature_count(patch: tuple[int, int]) -> int:
    """DCT coefficients that describe a window."""
    return sum(
        min(most - u + 1, patch[1]) for most in ORDERS for u in range(min(most + 1, patch[0]))
    )


class Job(ctypes.Structure):
    """The kernels' argument."""

    _fields_ = (
        *[
            (name, ctypes.c_void_p)
            for name in (
                "x", "y_dec", "y", "y_syn", "row", "col", "score", "patches", "crowded", "features",
                "inverse", "lab",
            )
        ],
        *[
            (name, ctypes.c_int)
            for name in (
                "height", "width", "down", "across", "first", "last", "pitch", "prior",
                "off_centre", "stretched", "again",
            )
        ],
    )  # fmt: skip


def _patch_bytes(patch: tuple[int, int]) -> int:
    """Size of the source's struct Patch."""

    class Patch(ctypes.Structure):
        _fields_ = (
            ("moments", ctypes.c_double * 3),
            ("wanted", ctypes.c_float * (feature_count(patch) + 1)),
            ("length", ctypes.c_float),
            ("state", ctypes.c_int * 3),
            ("places", ctypes.c_int * NEAR),
            ("upper", ctypes.c_float * NEAR),
        )

    return ctypes.sizeof(Patch)


class Launch(NamedTuple):
    """One kernel over one band of rows of windows. `again`: for crowded patches only."""

    kernel: str
    blocks: tuple[int, int]
    band: range
    again: bool


@dataclass(frozen=True)
class Plan:
    """Where things lie in the workspace, in bytes from its beginning, and what is launched."""

    height: int
    width: int
    patch: tuple[int, int]
    measure: Measure
    band_rows: int
    features: int
    inverse: int
    size: int

    @property
    def down(self) -> int:
        """Rows of patches."""
        return -(-self.height // self.patch[0])

    @property
    def across(self) -> int:
        """Columns of patches."""
        return -(-self.width // self.patch[1])

    @property
    def columns(self) -> int:
        """Windows in a row."""
        return self.width - self.patch[1] + 1

    @property
    def pitch(self) -> int:
        """The same, made even: two windows are loaded at a time."""
        return self.columns + self.columns % 2

    def bands(self) -> list[range]:
        """Rows of windows that are described at a time."""
        rows = self.height - self.patch[0] + 1
        return [range(r, min(r + self.band_rows, rows)) for r in range(0, rows, self.band_rows)]

    def launches(self) -> Iterator[Launch]:
        """In their order, in one stream."""
        bands, patches = self.bands(), (self.across, self.down)
        one = len(bands) == 1
        if self.measure == "pearson":
            groups = self.down * -(-self.across // GROUP), STRIPES
            yield from self._over(bands, "guess", patches)
            yield from self._over(bands, "scan", groups, described=one)
            yield Launch("resolve", patches, bands[0], False)
            yield from self._over(bands, "exhaust_best", patches, described=one, again=True)
        else:
            yield Launch("guess", patches, range(0, bands[-1].stop), False)
            yield from self._over(bands, "exhaust_best", patches)
        yield from self._over(bands, "exhaust_first", patches, described=one, again=True)
        yield Launch("gather", (-(-self.width // THREADS), self.height), bands[0], False)

    def _over(
        self,
        bands: list[range],
        kernel: str,
        blocks: tuple[int, int],
        *,
        described: bool = False,
        again: bool = False,
    ) -> Iterator[Launch]:
        """A kernel for each band, after the windows of the band are described."""
        pearson = self.measure == "pearson"
        across = -(-(self.columns if pearson else self.width) // THREADS)
        for band in bands:
            if not described:
                rows = len(band) if pearson else len(band) + self.patch[0] - 1
                yield Launch("describe", (across, rows), band, again)
            yield Launch(kernel, blocks, band, again)


def plan(height: int, width: int, patch: tuple[int, int], measure: Measure) -> Plan:
    """For pictures of one size; FrameError where they are smaller than a patch."""
    check_extent("the picture", (height, width), patch)
    patches = -(-height // patch[0]) * -(-width // patch[1])
    start = 16 + patches * _patch_bytes(patch)
    start += -start % 16
    rows, pitch = height - patch[0] + 1, (width - patch[1] + 2) // 2 * 2
    if measure == "pearson":
        # Features in float16 and an inverse norm in float32 for each window.
        row_bytes, extra = pitch * (2 * (feature_count(patch) + 1) + 4), 0
    else:
        # L*a*b* in float64 for each pixel.
        row_bytes, extra = 24 * width, patch[0] - 1
    band = min(rows, max((BUDGET - start) // row_bytes - extra, 1))
    inverse = start + band * pitch * 2 * (feature_count(patch) + 1)
    return Plan(
        height, width, patch, measure, band, start, inverse, start + (band + extra) * row_bytes
    )


def workspace_bytes(batch: int, height: int, width: int, patch: tuple[int, int]) -> int:
    """Bytes of workspace for pictures of this size: below 16 MiB for patches of 20×24 up to 4K.

    The images of a batch use it in turn.
    """
    measures: tuple[Measure, ...] = ("pearson", "l2")
    return max(plan(height, width, patch, measure).size for measure in measures)
