"""Video codecs at low delay: pictures refer to earlier ones only, and each is sent at once.

The first picture is intra and all others refer backwards, at a fixed quantiser, 4:2:0 in
limited-range BT.601, without B frames and lookahead. Only what is coded of pictures counts: slices
of H.264 and HEVC, frames of AV1; parameter sets, sequence headers and containers do not. Encoders
have one thread: more would cost bits (slices, wavefronts) and make them depend on the machine.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from dsin.runtime.errors import DsinError
from dsin.runtime.pictures import Image

FRAMES_PER_SECOND = 10
"""What encoders are told; with a fixed quantiser it does not change what they do."""
_START_CODE = b"\0\0\1"
_COLOURS, _RANGE = "ITU601", "MPEG"
_FRAME_UNITS = {3, 4, 6}
"""AV1's units that code pictures: frame header, tile group, frame."""


class CodedPicture(NamedTuple):
    """Bytes of one picture, what it decodes to, and the processor time in milliseconds, of all
    threads together, that encoding took."""

    size: int
    picture: Image
    encode_ms: float


@dataclass(frozen=True)
class VideoRival:
    """One codec. `encoder` and `decoder` are FFmpeg's names, and `options` gives the encoder's for
    a setting; `settings` go from few bytes to many. `size` counts the bytes of a packet."""

    name: str
    encoder: str
    decoder: str
    settings: Sequence[float]
    options: Callable[[float], Mapping[str, str]]
    size: Callable[[bytes], int]

    def code(self, pictures: Sequence[Image], setting: float) -> Iterator[CodedPicture]:
        """Encode pictures of one size in their order, and decode each from what was sent so far.
        Raises DsinError for pictures of several sizes, and for an encoder that keeps pictures
        back."""
        av = _library()
        height, width = pictures[0].shape[:2]
        if any(picture.shape[:2] != (height, width) for picture in pictures):
            raise DsinError(f"{self.name} needs pictures of one size: crop them with --crop HxW")
        encoder, decoder = self._open(av, height, width, setting)
        for number, picture in enumerate(pictures):
            frame = _frame(av, picture, number)
            start_s = time.process_time()
            with _scheduling_kept():
                packets = [bytes(packet) for packet in encoder.encode(frame)]
            encode_ms = 1e3 * (time.process_time() - start_s)
            decoded = [one for packet in packets for one in decoder.decode(av.Packet(packet))]
            if len(decoded) != 1:
                raise DsinError(f"{self.encoder} or {self.decoder} is not of low delay here")
            shown = decoded[0].reformat(
                format="rgb24", src_colorspace=_COLOURS, src_color_range=_RANGE
            )
            seen = np.ascontiguousarray(shown.to_ndarray()[:height, :width])
            yield CodedPicture(sum(map(self.size, packets)), seen, encode_ms)
        encoder.encode(None)

    def _open(self, av: Any, height: int, width: int, setting: float) -> tuple[Any, Any]:
        encoder = av.CodecContext.create(self.encoder, "w")
        # 4:2:0 has whole pairs of rows and columns.
        encoder.height, encoder.width = height + height % 2, width + width % 2
        encoder.pix_fmt = "yuv420p"
        encoder.framerate = Fraction(FRAMES_PER_SECOND)
        encoder.time_base = Fraction(1, FRAMES_PER_SECOND)
        encoder.options = dict(self.options(setting))
        decoder = av.CodecContext.create(self.decoder, "r")
        decoder.thread_count = 1  # with more it keeps pictures back
        return encoder, decoder


def video_rivals(names: Sequence[str]) -> list[VideoRival]:
    """The codecs of those names, all of VIDEO_RIVALS. Raises DsinError without PyAV, or where its
    FFmpeg lacks an encoder."""
    found = [VIDEO_RIVALS[name] for name in names]
    for rival in found:
        av = _library()
        for kind, mode in ((rival.encoder, "w"), (rival.decoder, "r")):
            try:
                av.Codec(kind, mode)
            except ValueError as error:
                raise DsinError(f"{rival.name} needs {kind}, which this PyAV lacks") from error
    return found


def slice_bytes(data: bytes, is_slice: Callable[[int], bool]) -> int:
    """Bytes of those units of an Annex B stream whose first byte says that they are slices."""
    units = data.split(_START_CODE)[1:]
    return sum(len(_START_CODE) + len(unit) for unit in units if is_slice(unit[0]))


def frame_bytes(data: bytes) -> int:
    """Bytes of those units of AV1's low-overhead format that code pictures. Raises DsinError for a
    unit that does not tell its size."""
    total = at = 0
    while at < len(data):
        start, header = at, data[at]
        if not header & 2:
            raise DsinError("an AV1 unit without its size")
        at += 2 if header & 4 else 1
        size = shift = 0
        while True:
            size |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 128:
                break
        at += size
        if header >> 3 & 15 in _FRAME_UNITS:
            total += at - start
    return total


def _library() -> Any:
    # SVT-AV1 writes its settings to the terminal otherwise.
    os.environ.setdefault("SVT_LOG", "0")
    try:
        import av
    except ImportError as error:
        raise DsinError("av is not installed: pip install 'dsin[evaluate]'") from error
    return av


@contextmanager
def _scheduling_kept() -> Iterator[None]:
    """Threads of a process that is scheduled as usual still are when this ends.

    SVT-AV1 that is run by root makes its threads and the one that calls it real-time ones. All
    that the process starts later would be so too, and threads that wait for others awake would
    keep the machine from these.
    """
    usual = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
    try:
        yield
    finally:
        if usual and os.sched_getscheduler(0) != os.SCHED_OTHER:
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def _frame(av: Any, picture: Image, number: int) -> Any:
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=_COLOURS, dst_color_range=_RANGE
    )
    frame.pts = number
    return frame


def _hevc_options(quantiser: float) -> dict[str, str]:
    own = f"qp={quantiser:.0f}:keyint=-1:bframes=0:pools=none:frame-threads=1:info=0:log-level=none"
    return {"preset": "medium", "tune": "zerolatency", "x265-params": own}


def _h264_options(quantiser: float) -> dict[str, str]:
    own = f"qp={quantiser:.0f}:keyint=infinite:bframes=0:threads=1"
    return {"preset": "medium", "tune": "zerolatency", "x264-params": own}


def _av1_options(quantiser: float) -> dict[str, str]:
    own = f"rc=0:qp={quantiser:.0f}:aq-mode=0:pred-struct=1:lookahead=0:keyint=-1:scd=0:lp=1"
    return {"preset": "8", "svtav1-params": own}


VIDEO_RIVALS = {
    rival.name: rival
    for rival in (
        VideoRival(
            "hevc-lowdelay", "libx265", "hevc", (50, 47, 44, 41, 38, 35), _hevc_options,
            lambda data: slice_bytes(data, lambda first: first >> 1 & 63 < 32),
        ),
        VideoRival(
            "av1-lowdelay", "libsvtav1", "libdav1d", (63, 60, 56, 52, 47, 42), _av1_options,
            frame_bytes,
        ),
        VideoRival(
            "h264-lowdelay", "libx264", "h264", (51, 48, 45, 42, 39, 36), _h264_options,
            lambda data: slice_bytes(data, lambda first: 1 <= first & 31 <= 5),
        ),
    )
}  # fmt: skip
"""By name. x265 and x264 at preset medium and tune zerolatency, SVT-AV1 at preset 8."""
