"""Where frames come from: image files, KITTI folders, the synthetic rig."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import FrameError

Image = npt.NDArray[np.uint8]
"""RGB, H×W×3, 0..255."""
Side = Literal["left", "right"]
"""The left view is x, to be coded; the right view is y, the side information."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SYNTHETIC_FRAMES = 20
"""Frames of the synthetic rig if nobody says how many."""
FRAME_INTERVAL_NS = 100_000_000
"""Between frames of sources without timestamps: 10 per second, as KITTI's cameras."""


class StereoFrame(NamedTuple):
    """One moment seen by both cameras; images H×W×3 RGB of the same size."""

    number: int
    timestamp_ns: int
    left: Image
    right: Image
    disparity: npt.NDArray[np.float32] | None = None
    """Of the left view, H×W in pixels, where it is known."""


class FrameSource(Protocol):
    """Numbered stereo frames. A device asks for left views only, a server for right views only."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[StereoFrame]: ...

    def timestamp_ns(self, number: int) -> int:
        """Capture time of a frame in nanoseconds."""

    def view(self, number: int, side: Side) -> Image:
        """One camera's picture of a frame, H×W×3; FrameError if it cannot be had."""


def frames_per_second(source: FrameSource) -> float:
    """The rate at which a source's frames were taken, from its timestamps."""
    count = len(source)
    span = source.timestamp_ns(count - 1) - source.timestamp_ns(0)
    return 1e9 * (count - 1) / span if span > 0 else 1e9 / FRAME_INTERVAL_NS


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An 8-bit colour image as RGB, H×W×3.

    Raises FrameError for a file that is missing, no image, grey, or of 16 bits.
    """
    if not path.is_file():
        raise FrameError(f"there is no image {path}")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise FrameError(f"{path} is not an image that OpenCV reads")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        shape = "x".join(map(str, image.shape))
        raise FrameError(f"{path} is {shape} {image.dtype}: an 8-bit colour image is needed")
    return np.ascontiguousarray(image[:, :, ::-1])


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of image files with a timestamp each.

    All images have the size of the first left one. Raises FrameError if there is no pair.
    """

    left: tuple[Path, ...]
    right: tuple[Path, ...]
    timestamps_ns: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.left)

    def __iter__(self) -> Iterator[StereoFrame]:
        for number, timestamp in enumerate(self.timestamps_ns):
            yield StereoFrame(
                number, timestamp, self.view(number, "left"), self.view(number, "right")
            )

    def timestamp_ns(self, number: int) -> int:
        return self.timestamps_ns[self._checked(number)]

    def view(self, number: int, side: Side) -> Image:
        path = (self.left if side == "left" else self.right)[self._checked(number)]
        image = read_image(path)
        if image.shape[:2] != self.size:
            (height, width), (first_height, first_width) = image.shape[:2], self.size
            raise FrameError(
                f"{path} is {width}x{height}, but the first frame is {first_width}x{first_height}: "
                "all frames of a source need one size"
            )
        return image

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise FrameError(f"there is no frame {number}: the source has {len(self)}")
        return number


class KittiRawDrive(ImagePairs):
    """A drive of the KITTI raw data: image_02 is the left camera, image_03 the right one.

    `drive` is the folder that holds image_02 and image_03, each with data/ (PNG, JPEG or WebP)
    and timestamps.txt; the left camera's times count, as nanoseconds since 1970, UTC.
    `frames` takes the first so many. Raises FrameError for what is missing or does not match.
    """

    def __init__(self, drive: Path, frames: int | None = None) -> None:
        if not drive.is_dir():
            raise FrameError(f"there is no folder {drive}")
        for camera in ("image_02", "image_03"):
            if not (drive / camera / "data").is_dir():
                raise FrameError(
                    f"{drive} has no {camera}/data: give the folder of one KITTI raw drive, "
                    "with image_02 and image_03"
                )
        left, right = _paired(drive / "image_02" / "data", drive / "image_03" / "data")
        times = _read_timestamps(drive / "image_02" / "timestamps.txt", len(left))
        count = _limited(len(left), frames, drive)
        super().__init__(left[:count], right[:count], times[:count], _size_of(left[0]))


class FolderPair(ImagePairs):
    """Two folders of images whose file names agree up to the suffix, at 10 frames a second.

    Raises FrameError for a missing folder or partner.
    """

    def __init__(self, left: Path, right: Path, frames: int | None = None) -> None:
        for folder in (left, right):
            if not folder.is_dir():
                raise FrameError(f"there is no folder {folder}")
        lefts, rights = _paired(left, right)
        count = _limited(len(lefts), frames, left)
        times = tuple(number * FRAME_INTERVAL_NS for number in range(count))
        super().__init__(lefts[:count], rights[:count], times, _size_of(lefts[0]))


def open_source(kitti: Path | None = None, frames: int | None = None) -> FrameSource:
    """A KITTI raw drive, or the synthetic rig if there is none; the first `frames` frames.

    Raises FrameError for a drive that cannot be used.
    """
    if frames is not None and frames < 1:
        raise FrameError(f"{frames} frames: ask for at least one")
    if kitti is not None:
        return KittiRawDrive(kitti, frames)
    from dsin.runtime.synthetic_rig import SyntheticRig

    return SyntheticRig(frames=frames or SYNTHETIC_FRAMES)


def _paired(left: Path, right: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Images of two folders with the same stem, sorted by it."""
    lefts, rights = _images_by_stem(left), _images_by_stem(right)
    if not lefts:
        raise FrameError(f"{left} holds no images ({', '.join(SUFFIXES)})")
    alone = sorted(lefts.keys() ^ rights.keys())
    if alone:
        lacking, partner = (right, lefts) if alone[0] in lefts else (left, rights)
        raise FrameError(f"{partner[alone[0]]} has no partner in {lacking}")
    order = sorted(lefts)
    return tuple(lefts[stem] for stem in order), tuple(rights[stem] for stem in order)


def _images_by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise FrameError(f"{path} and {found[path.stem].name} are the same frame: keep one")
        found[path.stem] = path
    return found


def _size_of(path: Path) -> tuple[int, int]:
    height, width = read_image(path).shape[:2]
    return height, width


def _limited(available: int, wanted: int | None, source: Path) -> int:
    if wanted is not None and wanted > available:
        raise FrameError(f"{source} has {available} frames, not {wanted}: ask for fewer")
    return available if wanted is None else wanted


def _read_timestamps(path: Path, count: int) -> tuple[int, ...]:
    """KITTI's timestamps, one `2011-09-26 13:02:25.103400000` a line, as ns since 1970."""
    if not path.is_file():
        raise FrameError(f"there is no {path}: KITTI raw drives have one")
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FrameError(f"{path} is not a list of timestamps") from error
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        time = _timestamp_ns(line.strip())
        if time is None:
            raise FrameError(
                f"{path}, line {number}: {line.strip()[:40]!r} is not a time like "
                "2011-09-26 13:02:25.103400000"
            )
        if times and time <= times[-1]:
            raise FrameError(f"{path}, line {number}: the time is not after the one before it")
        times.append(time)
    if len(times) != count:
        raise FrameError(f"{path} has {len(times)} times for {count} frames")
    return tuple(times)


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
