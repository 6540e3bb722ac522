"""Frames in order, where codecs that refer to earlier frames can be compared with."""

import time
from collections.abc import Iterator, Sequence

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import DsinError
from dsin.runtime.evaluation.comparison import Point, mean_point
from dsin.runtime.evaluation.video_rivals import VIDEO_RIVALS, VideoRival
from dsin.runtime.pictures import Image
from dsin.runtime.progress import track

_TIMED = 10
"""Frames that our own encoder's time is the mean of."""


def refuse_videos(against: Sequence[str]) -> None:
    """Raise DsinError where a list of separate pairs is to be compared with a video codec."""
    for name in against:
        if name in VIDEO_RIVALS:
            raise DsinError(
                f"{name} refers to earlier frames: give frames in order, with --kitti DRIVE or "
                "--source SOURCE, instead of a list of pairs"
            )


def video_curve(rival: VideoRival, pictures: Sequence[Image]) -> list[Point]:
    """One point for each of the rival's settings, with its encoder's time; `pictures` are of one
    size and in order."""
    points = []
    for setting in track(rival.settings, description=f"encoding {rival.name}"):
        spent_ms: list[float] = []
        point = mean_point(setting, pictures, _timed(rival, pictures, setting, spent_ms))
        points.append(point._replace(encode_ms=sum(spent_ms) / len(spent_ms)))
    return points


def _timed(
    rival: VideoRival, pictures: Sequence[Image], setting: float, spent_ms: list[float]
) -> Iterator[tuple[int, Image]]:
    for coded in rival.code(pictures, setting):
        spent_ms.append(coded.encode_ms)
        yield coded.size, coded.picture


def with_encoder_times(
    points: Sequence[Point], bundle: Bundle, pictures: Sequence[Image], backend: Backend
) -> list[Point]:
    """Points of a bundle's rates with the processor time of its encoder, after a first frame."""
    timed: list[Point] = []
    with Encoder(bundle, backend) as encoder:
        for rate, point in enumerate(points):
            encoder.encode(pictures[0], rate)
            some = pictures[:_TIMED]
            start_s = time.process_time()
            for picture in some:
                encoder.encode(picture, rate)
            spent_ms = 1e3 * (time.process_time() - start_s)
            timed.append(point._replace(encode_ms=spent_ms / len(some)))
    return timed
