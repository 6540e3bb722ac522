"""The codecs that people have: encoded with well-kept libraries, counted without containers.

Each setting gives bytes and the picture that they decode to. HEVC is x265, one intra frame, 4:2:0
in limited-range BT.601 with a fixed quantiser, as BPG does it; only slices count. Of AVIF the
`mdat` box counts, of WebP all but its 20 bytes of header.
"""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.video_rivals import VIDEO_RIVALS
from dsin.runtime.pictures import Image

_START_CODE = re.compile(b"\0\0\1")
_FIRST_PARAMETER_SET = 32
"""NAL units of this type and above hold no slices."""
_COLOURS = "ITU601"


@dataclass(frozen=True)
class Rival:
    """One codec; `code(image, setting)` returns its bytes and the decoded picture. `settings` for
    curves and `ladder` for equal bytes go from few bytes to many."""

    name: str
    settings: Sequence[float]
    ladder: Sequence[float] | npt.NDArray[np.float64]
    code: Callable[[Image, float], tuple[int, Image]]


def rivals(names: Sequence[str]) -> list[Rival]:
    """The codecs of these names. Raises DsinError for a name or a library that is not there."""
    unknown = [name for name in names if name not in _RIVALS]
    if unknown:
        known = ", ".join([*_RIVALS, *VIDEO_RIVALS])
        raise DsinError(f"there is no rival {unknown[0]!r}: use {known}")
    for name in names:
        _library("av" if name == "hevc" else "imagecodecs")
    return [_RIVALS[name] for name in names]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DsinError(f"{name} is not installed: pip install 'dsin[evaluate]'") from error


def _hevc(image: Image, quantiser: float) -> tuple[int, Image]:
    av: Any = _library("av")
    # 4:2:0 has whole pairs of rows and columns.
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=_COLOURS, dst_color_range="MPEG"
    )
    context = av.CodecContext.create("libx265", "w")
    context.height, context.width = even.shape[:2]
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.options = {
        "preset": "veryslow",
        "x265-params": f"qp={quantiser:.0f}:keyint=1:info=0:log-level=none",
    }
    data = b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
    decoder = av.CodecContext.create("hevc", "r")
    picture = [*decoder.decode(av.Packet(data)), *decoder.decode(None)][0].reformat(
        format="rgb24", src_colorspace=_COLOURS, src_color_range="MPEG"
    )
    return _slice_bytes(data), picture.to_ndarray()[:height, :width]


def _slice_bytes(data: bytes) -> int:
    starts = [match.start() for match in _START_CODE.finditer(data)]
    return sum(
        end - start
        for start, end in zip(starts, [*starts[1:], len(data)], strict=True)
        if data[start + 3] >> 1 & 63 < _FIRST_PARAMETER_SET
    )


def _avif(image: Image, level: float) -> tuple[int, Image]:
    codecs: Any = _library("imagecodecs")
    data = codecs.avif_encode(image, level=int(level), speed=2, pixelformat="420")
    at = 0
    while data[at + 4 : at + 8] != b"mdat":
        at += int.from_bytes(data[at : at + 4], "big")
    return int.from_bytes(data[at : at + 4], "big") - 8, codecs.avif_decode(data)


def _jpeg2000(image: Image, level: float) -> tuple[int, Image]:
    codecs: Any = _library("imagecodecs")
    data = codecs.jpeg2k_encode(image, level=level, codecformat="j2k")
    return len(data), codecs.jpeg2k_decode(data)


def _webp(image: Image, level: float) -> tuple[int, Image]:
    codecs: Any = _library("imagecodecs")
    data = codecs.webp_encode(image, level=int(level), lossless=False, method=6)
    return len(data) - 20, codecs.webp_decode(data)


def _jpeg(image: Image, level: float) -> tuple[int, Image]:
    codecs: Any = _library("imagecodecs")
    data = codecs.jpeg8_encode(image, level=int(level), optimize=True)
    return len(data), codecs.jpeg8_decode(data)


_RIVALS = {
    rival.name: rival
    for rival in (
        Rival("hevc", (51, 49, 47, 44, 41, 38), range(51, 9, -1), _hevc),
        Rival("avif", (0, 3, 8, 15, 25, 35), range(91), _avif),
        Rival("jpeg2000", (20.5, 22, 23.5, 25, 26, 27), np.arange(12, 45, 0.1), _jpeg2000),
        Rival("webp", (0, 1, 3, 5, 10, 15), range(96), _webp),
        Rival("jpeg", (2, 4, 7, 9, 12, 20), range(1, 96), _jpeg),
    )
}
