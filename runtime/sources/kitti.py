"""KITTI's folders as recordings: raw drives, odometry sequences, stereo scenes, and their times."""

from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.files import is_file, is_folder
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image, centre_crop
from dsin.runtime.sources.frames import StereoSide, limited, paired_in_time, regular_times
from dsin.runtime.sources.notices import tell
from dsin.runtime.sources.picture_folders import (
    Pictures,
    has_images,
    image_size,
    images_by_stem,
    numbered_pictures,
    one_side,
)

STEREO_MOMENT = "_10"
"""How KITTI's stereo data names the picture of each scene that both cameras' data are about."""

UNSYNCHRONISED = "_extract"
"""How KITTI's folders of raw drives end that were not synchronised."""


@dataclass(frozen=True)
class KittiRawDrive:
    """A drive of the KITTI raw data: image_02 is the left camera, image_03 the right one.

    `folder` holds them, each with data/ (PNG, JPEG or WebP) and timestamps.txt. The grey cameras
    are image_00 and image_01. KITTI-360 has its cameras there, with data_rect/ for `data`. Missing
    frames are gaps in time.
    """

    folder: Path
    names: tuple[str, str] = ("image_02", "image_03")
    data: str = "data"

    @property
    def left(self) -> Path:
        """The left camera's folder."""
        return self.folder / self.names[0]

    @property
    def right(self) -> Path:
        """The right camera's folder."""
        return self.folder / self.names[1]

    def check_both(self) -> None:
        """Raise FrameError unless both cameras are there."""
        if not is_folder(self.folder, FrameError):
            raise FrameError(f"there is no folder {self.folder}")
        for camera in (self.left, self.right):
            if not is_folder(camera / self.data, FrameError):
                raise FrameError(
                    f"{self.folder} has no {camera.name}/{self.data}: give the folder of one KITTI "
                    "raw drive, with image_02 and image_03"
                )

    def camera(self, side: StereoSide, frames: int | None = None) -> Pictures:
        """One camera; the other one may be missing. `frames` takes the first so many.

        The left camera's times count where it is there, as nanoseconds since 1970, UTC. Frames
        that the other camera lacks are left out, and that is told. Raises FrameError for what is
        missing.
        """
        for camera in (self.left, self.right):
            if is_folder(camera, FrameError) and not is_folder(camera / self.data, FrameError):
                raise FrameError(f"{camera} has no {self.data} folder: KITTI raw drives have one")
        if all(is_folder(camera / self.data, FrameError) for camera in (self.left, self.right)):
            pairs = self._pairs()
            reference = tuple(pair[0] for pair in pairs)
            paths = tuple(pair[1] for pair in pairs) if side == "right" else reference
            return numbered_pictures(paths, tuple(pair[2] for pair in pairs), reference, frames)
        paths, reference = one_side(self.left / self.data, self.right / self.data, side)
        return numbered_pictures(paths, self._times(reference), reference, frames)

    def _pairs(self) -> list[tuple[Path, Path, int]]:
        """Left and right pictures of the same moments, and the left ones' times.

        The numbers of drives that were synchronised tell; those of `_extract` drives count each
        camera's pictures for itself, so their times do.
        """
        left_by_stem = images_by_stem(self.left / self.data)
        right_by_stem = images_by_stem(self.right / self.data)
        lefts, rights = tuple(left_by_stem.values()), tuple(right_by_stem.values())
        times = self._times(lefts)
        if self.folder.name.endswith(UNSYNCHRONISED):
            places = paired_in_time(times, self._times(rights))
            pairs = [(lefts[n], rights[m], times[n]) for n, m in places]
        else:
            pairs = [
                (path, right_by_stem[path.stem], time)
                for path, time in zip(lefts, times, strict=True)
                if path.stem in right_by_stem
            ]
        if not pairs:
            raise FrameError(f"{self.folder}: no frame of {self.names[0]} is in {self.names[1]}")
        alone = len(lefts) + len(rights) - 2 * len(pairs)
        if alone:
            tell(f"{self.folder}: {alone} pictures have no partner in the other camera's folder "
                 f"and are left out; {len(pairs)} pairs remain")  # fmt: skip
        return pairs

    def _times(self, pictures: Sequence[Path]) -> tuple[int, ...]:
        return read_timestamps(pictures[0].parents[1] / "timestamps.txt", pictures)


class Scenes(Pictures):
    """Pictures of separate scenes, whose sizes differ by some pixels: cut around the centre.

    KITTI's stereo data mixes drives of 1242x375, 1241x376, 1238x374, 1226x370 and 1224x370; a
    stream has one size. The same cut in both views keeps the geometry.
    """

    def image(self, number: int) -> Image:
        path = self.paths[self._checked(number)]
        picture, (height, width) = read_image(path), self.size
        if picture.shape[0] < height or picture.shape[1] < width:
            raise FrameError(
                f"{path} is {picture.shape[1]}x{picture.shape[0]}, smaller than the "
                f"{width}x{height} of its source's smallest"
            )
        return np.ascontiguousarray(centre_crop(picture, self.size))


def open_odometry_or_stereo(
    left: Path, right: Path, side: StereoSide, frames: int | None
) -> Pictures:
    """One camera of an odometry sequence, which has times.txt, or of a stereo data folder.

    Raises FrameError for what is neither.
    """
    times_file = left.parent / "times.txt"
    own = left if side == "left" else right
    if not is_file(times_file, FrameError):
        if has_images(own, STEREO_MOMENT):
            return open_stereo_scenes(left, right, side, frames)
        raise FrameError(
            f"{left.parent} has neither times.txt, as KITTI's odometry sequences, nor pictures "
            f"*{STEREO_MOMENT}.png, as KITTI's stereo data"
        )
    paths, reference = one_side(left, right, side)
    return numbered_pictures(paths, read_times(times_file, reference), reference, frames)


def open_stereo_scenes(left: Path, right: Path, side: StereoSide, frames: int | None) -> Pictures:
    """One camera of KITTI's stereo data: separate scenes, 10 a second, cut to one size.

    Raises FrameError for what cannot be used.
    """
    paths, reference = one_side(left, right, side, STEREO_MOMENT)
    count = limited(len(paths), frames)
    sizes = [_picture_size(path) for path in reference[:count]]
    size = min(height for height, _ in sizes), min(width for _, width in sizes)
    return Scenes(paths[:count], regular_times(count), size)


def read_timestamps(path: Path, frames: Sequence[Path]) -> tuple[int, ...]:
    """The times of these pictures of a KITTI raw drive, one `2011-09-26 13:02:25.103400000` a line.

    In nanoseconds since 1970, UTC, increasing. Raises FrameError for any other file.
    """
    return _read(path, frames, "KITTI raw drives", "2011-09-26 13:02:25.103400000", _timestamp_ns)


def read_times(path: Path, frames: Sequence[Path]) -> tuple[int, ...]:
    """The times of these pictures of a KITTI odometry sequence, one `1.036224e-01` a line, in
    seconds.

    In nanoseconds since the sequence's start, increasing. Raises FrameError for any other file.
    """
    return _read(path, frames, "KITTI odometry sequences", "1.036224e-01", _seconds_ns)


def _read(
    path: Path,
    frames: Sequence[Path],
    owners: str,
    example: str,
    parse: Callable[[str], int | None],
) -> tuple[int, ...]:
    if not is_file(path, FrameError):
        raise FrameError(f"there is no {path}: {owners} have one")
    try:
        lines = path.read_bytes().removeprefix(BOM_UTF8).decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FrameError(f"{path} is not a list of timestamps") from error
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        time = parse(line.strip())
        if time is None:
            raise FrameError(
                f"{path}, line {number}: {line.strip()[:40]!r} is not a time like {example}"
            )
        if times and time <= times[-1]:
            raise FrameError(f"{path}, line {number}: the time is not after the one before it")
        times.append(time)
    if len(times) == len(frames):
        return tuple(times)
    # Frames may be missing, but not their times: a picture's number is the line of its time.
    numbers = [int(frame.stem) for frame in frames if frame.stem.isdecimal()]
    if len(numbers) < len(frames) or max(numbers) >= len(times):
        raise FrameError(f"{path} has {len(times)} times for {len(frames)} frames")
    return tuple(times[number] for number in numbers)


def _timestamp_ns(text: str) -> int | None:
    """Nanoseconds since 1970, or None; datetime alone would keep only microseconds."""
    seconds, _, fraction = text.partition(".")
    if len(fraction) > 9 or not (fraction or "0").isdecimal():
        return None
    try:
        moment = datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _seconds_ns(text: str) -> int | None:
    try:
        seconds = Decimal(text)
        # The bound (30 years) also keeps 1e999999 from becoming an integer of a million digits.
        return int(seconds * 1_000_000_000) if 0 <= seconds < 1_000_000_000 else None
    except InvalidOperation:  # no number, or "nan"
        return None


def _picture_size(path: Path) -> tuple[int, int]:
    """Height and width; of a PNG file from its header, since decoding all scenes takes seconds."""
    with path.open("rb") as file:
        header = file.read(24)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        return image_size(path)
    return int.from_bytes(header[20:24], "big"), int.from_bytes(header[16:20], "big")
