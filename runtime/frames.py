"""Where frames come from: image files, KITTI folders, the synthetic rig."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dsin.runtime.camera_times import read_timestamps
from dsin.runtime.errors import FrameError
from dsin.runtime.picture_files import read_image

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


class Timed(Protocol):
    """Whatever has numbered moments: frame sources and recordings."""

    def __len__(self) -> int: ...

    def timestamp_ns(self, number: int) -> int:
        """Nanoseconds, increasing with the number."""


def frames_per_second(source: Timed) -> float:
    """The rate at which a source's frames were taken, from its timestamps."""
    count = len(source)
    span = source.timestamp_ns(count - 1) - source.timestamp_ns(0)
    return 1e9 * (count - 1) / span if span > 0 else 1e9 / FRAME_INTERVAL_NS


@dataclass(frozen=True)
class Pictures:
    """Image files of one camera, all of one size (height, width), with a timestamp each."""

    paths: tuple[Path, ...]
    timestamps_ns: tuple[int, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def timestamp_ns(self, number: int) -> int:
        """Capture time in nanoseconds; FrameError if there is no such frame."""
        return self.timestamps_ns[self._checked(number)]

    def image(self, number: int) -> Image:
        """A frame's picture, H×W×3; FrameError if it cannot be read or has another size."""
        path = self.paths[self._checked(number)]
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


class ImagePairs:
    """Pairs of image files with a timestamp each, all of the size of the first left one."""

    def __init__(
        self, left: tuple[Path, ...], right: tuple[Path, ...], timestamps_ns: tuple[int, ...]
    ) -> None:
        self.size = image_size(left[0])
        self._left = Pictures(left, timestamps_ns, self.size)
        self._right = Pictures(right, timestamps_ns, self.size)

    def __len__(self) -> int:
        return len(self._left)

    def __iter__(self) -> Iterator[StereoFrame]:
        for number in range(len(self)):
            yield StereoFrame(
                number,
                self.timestamp_ns(number),
                self.view(number, "left"),
                self.view(number, "right"),
            )

    def timestamp_ns(self, number: int) -> int:
        return self._left.timestamp_ns(number)

    def view(self, number: int, side: Side) -> Image:
        return (self._left if side == "left" else self._right).image(number)


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
        left, right = paired_images(drive / "image_02" / "data", drive / "image_03" / "data")
        times = read_timestamps(drive / "image_02" / "timestamps.txt", len(left))
        count = limited(len(left), frames, drive)
        super().__init__(left[:count], right[:count], times[:count])


class FolderPair(ImagePairs):
    """Two folders of images whose file names agree up to the suffix, at 10 frames a second.

    Raises FrameError for a missing folder or partner.
    """

    def __init__(self, left: Path, right: Path, frames: int | None = None) -> None:
        for folder in (left, right):
            if not folder.is_dir():
                raise FrameError(f"there is no folder {folder}")
        lefts, rights = paired_images(left, right)
        count = limited(len(lefts), frames, left)
        super().__init__(lefts[:count], rights[:count], regular_times(count))


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


def paired_images(
    left: Path, right: Path, ending: str = ""
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Images of two folders whose names agree up to the suffix, sorted by name.

    With `ending`, only those whose names, less the suffix, end so. Raises FrameError if there are
    none, or one has no partner.
    """
    lefts, rights = images_by_stem(left, ending), images_by_stem(right, ending)
    alone = sorted(lefts.keys() ^ rights.keys())
    if alone:
        lacking, partner = (right, lefts) if alone[0] in lefts else (left, rights)
        raise FrameError(f"{partner[alone[0]]} has no partner in {lacking}")
    return tuple(lefts.values()), tuple(rights.values())


def images_by_stem(folder: Path, ending: str = "") -> dict[str, Path]:
    """Images of a folder by their names less the suffix, sorted; `ending` as in paired_images.

    Raises FrameError if there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stem):
        if path.suffix.lower() not in SUFFIXES or not path.stem.endswith(ending):
            continue
        if path.stem in found:
            raise FrameError(f"{path} and {found[path.stem].name} are the same frame: keep one")
        found[path.stem] = path
    if not found:
        names = ", ".join(f"*{ending}{suffix}" if ending else suffix for suffix in SUFFIXES)
        raise FrameError(f"{folder} holds no images ({names})")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file; raises FrameError for one that cannot be read."""
    height, width = read_image(path).shape[:2]
    return height, width


def limited(available: int, wanted: int | None, source: Path) -> int:
    """How many frames to take; FrameError if `wanted` are more than there are, or none."""
    if wanted is not None and wanted < 1:
        raise FrameError(f"{wanted} frames: ask for at least one")
    if wanted is not None and wanted > available:
        raise FrameError(f"{source} has {available} frames, not {wanted}: ask for fewer")
    return available if wanted is None else wanted


def regular_times(count: int) -> tuple[int, ...]:
    """Timestamps of frames that came without any, in nanoseconds from 0."""
    return tuple(number * FRAME_INTERVAL_NS for number in range(count))
