"""One camera's recorded pictures, wherever they lie: KITTI, folders, videos, the synthetic rig."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from dsin.runtime.camera_times import read_times, read_timestamps
from dsin.runtime.errors import FrameError
from dsin.runtime.frames import (
    SUFFIXES,
    SYNTHETIC_FRAMES,
    FrameSource,
    Image,
    Pictures,
    Side,
    image_size,
    images_by_stem,
    limited,
    paired_images,
    regular_times,
)
from dsin.runtime.picture_files import read_image
from dsin.runtime.video_file import VIDEO_SUFFIXES, VideoFile

LAYOUTS = (
    "`synthetic`, a video file, a KITTI raw drive (image_02, image_03), a KITTI odometry sequence "
    "(image_2, image_3, times.txt), a KITTI stereo folder (image_2, image_3 or colored_0, "
    "colored_1, with *_10.png), a folder with `left` and `right`, or a folder of pictures"
)
RENDERED = 32
"""45 MB of KITTI's size, and the built-in rig's 20 frames."""
STEREO_MOMENT = "_10"
"""How KITTI's stereo data names the picture of each scene that both cameras' data are about."""


class Recording(Protocol):
    """What one camera took. Frames are asked for by number, cheapest in increasing order."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of all frames."""

    def __len__(self) -> int: ...

    def timestamp_ns(self, number: int) -> int:
        """Capture time in nanoseconds, increasing; the same for both cameras of a rig."""

    def image(self, number: int) -> Image:
        """RGB, H×W×3; FrameError if it cannot be had."""


def open_recording(spec: str, side: Side, frames: int | None = None) -> Recording:
    """One camera's side of whatever `spec` names, by what lies there; the first `frames` frames.

    `spec` is one of LAYOUTS; `synthetic:N` has N frames. Of a stereo recording the other camera's
    folder may be missing. If it is there, both must have the same frames, and the left one tells
    the times, so that both sides agree on them; what comes without times has 10 frames a second.
    A video or a folder of pictures is one camera, whichever side is asked for. Raises FrameError
    for anything that cannot be used.
    """
    kind, _, count = spec.partition(":")
    if kind == "synthetic":
        return _synthetic(spec, count, side, frames)
    path = Path(spec)
    if spec and path.is_dir():
        return _open_folder(path, side, frames)
    if not spec or not path.exists():
        raise FrameError(f"there is no {spec!r}: give {LAYOUTS}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise FrameError(f"{spec} is no folder and no video ({', '.join(VIDEO_SUFFIXES)})")
    return VideoFile(path, frames)


@dataclass(frozen=True)
class OneView:
    """One camera of a source that draws its stereo frames, as a Recording.

    RENDERED pictures are kept: drawing takes ten times as long as reading a file, and recordings
    are often played again and again.
    """

    source: FrameSource
    side: Side

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    def __len__(self) -> int:
        return len(self.source)

    def timestamp_ns(self, number: int) -> int:
        return self.source.timestamp_ns(number)

    def image(self, number: int) -> Image:
        return self._view(number)

    @cached_property
    def _view(self) -> Callable[[int], Image]:
        return lru_cache(RENDERED)(lambda number: self.source.view(number, self.side))


class Scenes(Pictures):
    """Pictures of separate scenes, whose sizes differ by some pixels: cut around the centre.

    KITTI's stereo data mixes drives of 1242x375, 1241x376, 1238x374, 1226x370 and 1224x370; a
    stream has one size. The same cut in both views keeps the geometry.
    """

    def image(self, number: int) -> Image:
        path = self.paths[self._checked(number)]
        picture, (height, width) = read_image(path), self.size
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise FrameError(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}, smaller than the "
                f"{width}x{height} of its source's smallest"
            )
        return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _synthetic(spec: str, count: str, side: Side, frames: int | None) -> Recording:
    from dsin.runtime.synthetic_rig import SyntheticRig

    if count and not (count.isdecimal() and len(count) < 10):
        raise FrameError(f"{spec}: give the number of frames, as in synthetic:60")
    available = int(count) if count else SYNTHETIC_FRAMES if frames is None else frames
    wanted = limited(available, frames, Path(spec))
    return OneView(SyntheticRig(frames=wanted), side)


def _open_folder(folder: Path, side: Side, frames: int | None) -> Recording:
    for names, opened in (
        (("image_02", "image_03"), _raw_drive),
        (("image_2", "image_3"), _odometry_or_scenes),
        (("colored_0", "colored_1"), _scenes),
        (("left", "right"), _folder_pair),
    ):
        left, right = (folder / name for name in names)
        if left.is_dir() or right.is_dir():
            return opened(left, right, side, frames)
    if not any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        raise FrameError(f"{folder} is not a recording: give {LAYOUTS}")
    paths = tuple(images_by_stem(folder).values())
    return _pictures(paths, regular_times(len(paths)), paths, frames)


def _raw_drive(left: Path, right: Path, side: Side, frames: int | None) -> Recording:
    for camera in (left, right):
        if camera.is_dir() and not (camera / "data").is_dir():
            raise FrameError(f"{camera} has no data folder: KITTI raw drives have one")
    paths, reference = _one_side(left / "data", right / "data", side)
    times = read_timestamps(reference[0].parents[1] / "timestamps.txt", len(paths))
    return _pictures(paths, times, reference, frames)


def _odometry_or_scenes(left: Path, right: Path, side: Side, frames: int | None) -> Recording:
    times_file = left.parent / "times.txt"
    own = left if side == "left" else right
    if not times_file.is_file():
        if own.is_dir() and any(own.glob(f"*{STEREO_MOMENT}.*")):
            return _scenes(left, right, side, frames)
        raise FrameError(
            f"{left.parent} has neither times.txt, as KITTI's odometry sequences, nor pictures "
            f"*{STEREO_MOMENT}.png, as KITTI's stereo data"
        )
    paths, reference = _one_side(left, right, side)
    return _pictures(paths, read_times(times_file, len(paths)), reference, frames)


def _scenes(left: Path, right: Path, side: Side, frames: int | None) -> Recording:
    paths, reference = _one_side(left, right, side, STEREO_MOMENT)
    count = limited(len(paths), frames, paths[0].parent)
    sizes = [_picture_size(path) for path in reference[:count]]
    size = min(height for height, _ in sizes), min(width for _, width in sizes)
    return Scenes(paths[:count], regular_times(count), size)


def _folder_pair(left: Path, right: Path, side: Side, frames: int | None) -> Recording:
    paths, reference = _one_side(left, right, side)
    return _pictures(paths, regular_times(len(paths)), reference, frames)


def _one_side(
    left: Path, right: Path, side: Side, ending: str = ""
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The asked camera's pictures, and those of the camera that tells times and sizes."""
    if left.is_dir() and right.is_dir():
        lefts, rights = paired_images(left, right, ending)
        return (lefts if side == "left" else rights), lefts
    own = left if side == "left" else right
    if not own.is_dir():
        raise FrameError(f"there is no {own}: the folder has the other camera only")
    paths = tuple(images_by_stem(own, ending).values())
    return paths, paths


def _pictures(
    paths: tuple[Path, ...],
    times: tuple[int, ...],
    reference: tuple[Path, ...],
    frames: int | None,
) -> Pictures:
    count = limited(len(paths), frames, paths[0].parent)
    return Pictures(paths[:count], times[:count], image_size(reference[0]))


def _picture_size(path: Path) -> tuple[int, int]:
    """Height and width; of a PNG file from its header, since decoding all scenes takes seconds."""
    with path.open("rb") as file:
        header = file.read(24)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        return image_size(path)
    return int.from_bytes(header[20:24], "big"), int.from_bytes(header[16:20], "big")
