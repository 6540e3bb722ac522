"""Evaluation of frames in order, where codecs that refer to earlier frames can be compared with."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.sources.picture_folders import Pictures
from dsin.runtime.sources.recordings import open_stereo
from dsin.training.comparison import Point
from dsin.training.data import Pair
from dsin.training.video_rivals import VIDEO_RIVALS, VideoRival

_TIMED = 10
"""Frames that our own encoder's time is the mean of."""


def sequence_pairs(
    source: Path | str, side: str | None = None, frames: int | None = None
) -> list[Pair]:
    """The picture files of a stereo recording in order, at most `frames`; `source` and `side` as
    `open_stereo` takes them. Raises FrameError for what is not files of pictures."""
    recording = open_stereo(source, frames, side)
    left, right = recording.left, recording.right
    if not (isinstance(left, Pictures) and isinstance(right, Pictures)):
        raise FrameError(f"{source} is not folders of pictures of one size, left and right")
    return [Pair(x, y) for x, y in zip(left.paths, right.paths, strict=True)]


def refuse_videos(against: Sequence[str]) -> None:
    """Raise DsinError where a list of separate pairs is to be compared with a video codec."""
    for name in against:
        if name in VIDEO_RIVALS:
            raise DsinError(
                f"{name} refers to earlier frames: give frames in order, with --kitti DRIVE or "
                "--source FOLDER, instead of a list of pairs"
            )


def video_curve(rival: VideoRival, pictures: Sequence[Image]) -> list[Point]:
    """One point for each of the rival's settings, with its encoder's time."""
    from dsin.training.evaluate import similarity

    points = []
    for setting in track(rival.settings, description=f"encoding {rival.name}"):
        bits, psnr, ssim, times = [], [], [], []
        for picture, coded in zip(pictures, rival.code(pictures, setting), strict=True):
            bits.append(8 * coded.size / (picture.shape[0] * picture.shape[1]))
            psnr.append(psnr_db(coded.picture, picture))
            ssim.append(similarity(coded.picture, picture))
            times.append(coded.encode_ms)
        known = [value for value in ssim if value is not None]
        mean_ssim = _mean(known) if len(known) == len(ssim) else None
        points.append(Point(setting, _mean(bits), _mean(psnr), mean_ssim, _mean(times)))
    return points


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
