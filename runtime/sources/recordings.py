"""One camera's recorded pictures, wherever they lie: KITTI, folders, videos, the synthetic rig."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsin.runtime.errors import FrameError
from dsin.runtime.files import exists, is_folder
from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import SYNTHETIC_FRAMES, StereoSide, limited, regular_times
from dsin.runtime.sources.kitti import KittiRawDrive, open_odometry_or_stereo, open_stereo_scenes
from dsin.runtime.sources.picture_folders import (
    has_images,
    images_by_stem,
    numbered_pictures,
    one_side,
)
from dsin.runtime.sources.video_file import VIDEO_SUFFIXES, VideoFile

if TYPE_CHECKING:
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

LAYOUTS = (
    "`synthetic`, a video file, a KITTI raw drive (image_02, image_03), a KITTI odometry sequence "
    "(image_2, image_3, times.txt), a KITTI stereo folder (image_2, image_3 or colored_0, "
    "colored_1, with *_10.png), a folder with `left` and `right`, or a folder of pictures"
)
RENDERED = 32
"""45 MB of KITTI's size, and the built-in rig's 20 frames."""


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


def open_recording(spec: str, side: StereoSide, frames: int | None = None) -> Recording:
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
    if spec and is_folder(path, FrameError):
        return _open_folder(path, side, frames)
    if not spec or not exists(path, FrameError):
        raise FrameError(f"there is no {spec!r}: give {LAYOUTS}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise FrameError(f"{spec} is no folder and no video ({', '.join(VIDEO_SUFFIXES)})")
    return VideoFile(path, frames)


@dataclass(frozen=True)
class RenderedView:
    """One camera of the synthetic rig, which draws its frames, as a Recording.

    RENDERED pictures are kept: drawing takes ten times as long as reading a file, and recordings
    are often played again and again.
    """

    rig: "SyntheticRig"
    side: StereoSide

    @property
    def size(self) -> tuple[int, int]:
        return self.rig.size

    def __len__(self) -> int:
        return len(self.rig)

    def timestamp_ns(self, number: int) -> int:
        return self.rig.timestamp_ns(number)

    def image(self, number: int) -> Image:
        return self._view(number)

    @cached_property
    def _view(self) -> Callable[[int], Image]:
        return lru_cache(RENDERED)(lambda number: self.rig.view(number, self.side))


@dataclass(frozen=True)
class StereoRecording:
    """Both cameras of a rig: two recordings with the same times."""

    left: Recording
    right: Recording

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.left.size

    def __len__(self) -> int:
        return len(self.left)

    def timestamp_ns(self, number: int) -> int:
        """Capture time of a frame in nanoseconds."""
        return self.left.timestamp_ns(number)

    def view(self, number: int, side: StereoSide) -> Image:
        """One camera's picture of a frame, H×W×3; FrameError if it cannot be had."""
        return (self.left if side == "left" else self.right).image(number)


def open_stereo(kitti: Path | None = None, frames: int | None = None) -> StereoRecording:
    """A KITTI raw drive, or the synthetic rig if there is none; the first `frames` frames.

    Raises FrameError for a drive that cannot be used.
    """
    if frames is not None and frames < 1:
        raise FrameError(f"{frames} frames: ask for at least one")
    if kitti is not None:
        drive = KittiRawDrive(kitti)
        drive.check_both()
        count = limited(len(drive.camera("left")), frames, kitti)
        return StereoRecording(drive.camera("left", count), drive.camera("right", count))
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    rig = SyntheticRig(frames=frames or SYNTHETIC_FRAMES)
    return StereoRecording(RenderedView(rig, "left"), RenderedView(rig, "right"))


def _synthetic(spec: str, count: str, side: StereoSide, frames: int | None) -> Recording:
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    if count and not (count.isdecimal() and len(count) < 10):
        raise FrameError(f"{spec}: give the number of frames, as in synthetic:60")
    available = int(count) if count else SYNTHETIC_FRAMES if frames is None else frames
    wanted = limited(available, frames, Path(spec))
    return RenderedView(SyntheticRig(frames=wanted), side)


def _open_folder(folder: Path, side: StereoSide, frames: int | None) -> Recording:
    for names, opened in (
        (("image_02", "image_03"), _raw_drive),
        (("image_2", "image_3"), open_odometry_or_stereo),
        (("colored_0", "colored_1"), open_stereo_scenes),
        (("left", "right"), _folder_pair),
    ):
        left, right = (folder / name for name in names)
        if is_folder(left, FrameError) or is_folder(right, FrameError):
            return opened(left, right, side, frames)
    if not has_images(folder):
        raise FrameError(f"{folder} is not a recording: give {LAYOUTS}")
    paths = tuple(images_by_stem(folder).values())
    return numbered_pictures(paths, regular_times(len(paths)), paths, frames)


def _raw_drive(left: Path, right: Path, side: StereoSide, frames: int | None) -> Recording:
    return KittiRawDrive(left.parent).camera(side, frames)


def _folder_pair(left: Path, right: Path, side: StereoSide, frames: int | None) -> Recording:
    paths, reference = one_side(left, right, side)
    return numbered_pictures(paths, regular_times(len(paths)), reference, frames)
