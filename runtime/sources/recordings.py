"""One camera's recorded pictures, wherever they are: KITTI, folders, videos, the synthetic rig."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsin.runtime.errors import FrameError
from dsin.runtime.files import exists, is_folder
from dsin.runtime.pictures import Image
from dsin.runtime.sources.bag_spec import EXAMPLE, is_bag, parse_bag_spec
from dsin.runtime.sources.euroc import open_euroc
from dsin.runtime.sources.frames import SYNTHETIC_FRAMES, StereoSide, limited, regular_times
from dsin.runtime.sources.kitti import KittiRawDrive, open_odometry_or_stereo, open_stereo_scenes
from dsin.runtime.sources.notices import tell
from dsin.runtime.sources.picture_folders import (
    Pictures,
    has_images,
    images_by_stem,
    numbered_pictures,
    one_side,
)
from dsin.runtime.sources.resized import ResizedRecording
from dsin.runtime.sources.video_file import VIDEO_SUFFIXES, VideoFile

if TYPE_CHECKING:
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

LAYOUTS = (
    "`synthetic`, a video file, a KITTI raw drive (image_02, image_03), a KITTI odometry sequence "
    "(image_2, image_3, times.txt), a KITTI stereo folder (image_2, image_3 or colored_0, "
    "colored_1, with *_10.png), KITTI's grey cameras, a KITTI-360 drive, an EuRoC folder "
    "(mav0/cam0/data, cam1), a "
    f"folder with `left` and `right`, a folder of pictures, or topics of a ROS bag ({EXAMPLE})"
)
RENDERED = 32
"""45 MB of KITTI's size, and the built-in rig's 20 frames."""


class Recording(Protocol):
    """What one camera has recorded. Frames are asked for by number, in increasing order at best."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, of all frames."""

    def __len__(self) -> int: ...

    def timestamp_ns(self, number: int) -> int:
        """Capture time in nanoseconds, increasing; the same for both cameras of a rig."""

    def image(self, number: int) -> Image:
        """The picture of a frame, RGB, H×W×3. Raises FrameError if it cannot be read."""


def open_recording(spec: str, side: StereoSide, frames: int | None = None) -> Recording:
    """One camera's side of whatever `spec` names, by what lies there; at most `frames` frames.

    `spec` is one of LAYOUTS; `synthetic:N` has N frames. Of a stereo recording the other camera's
    folder may be missing. If it is there, both must have the same frames, and the left one tells
    the times, so that both sides agree on them; what comes without times has 10 frames a second.
    A video or a folder of pictures is one camera, whichever side is asked for. Raises FrameError
    for anything that cannot be used.
    """
    kind, _, count = spec.partition(":")
    if kind == "synthetic":
        return _synthetic(spec, count, side, frames)
    if is_bag(spec):
        from dsin.runtime.sources.bag_recording import open_bag

        return open_bag(spec, side, frames)
    path = Path(spec)
    if spec and is_folder(path, FrameError):
        return _open_folder(path, side, frames)
    if not spec or not exists(path, FrameError):
        raise FrameError(f"there is no {spec!r}: give {LAYOUTS}")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise FrameError(f"{spec} is neither a folder nor a video ({', '.join(VIDEO_SUFFIXES)})")
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

    def draw_ahead(self) -> None:
        """Draw now what is kept, from the first frame on."""
        for number in range(min(len(self), RENDERED)):
            self.image(number)

    @cached_property
    def _view(self) -> Callable[[int], Image]:
        return lru_cache(RENDERED)(lambda number: self.rig.view(number, self.side))


def draw_ahead(recording: Recording) -> None:
    """Before time counts, draw pictures of a recording that draws them: a camera would not do so
    at the cost of what is measured."""
    if isinstance(recording, RenderedView):
        recording.draw_ahead()


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
        """One camera's picture of a frame, H×W×3. Raises FrameError if it cannot be read."""
        return (self.left if side == "left" else self.right).image(number)


def open_stereo(
    source: Path | str | None = None, frames: int | None = None, side: str | None = None
) -> StereoRecording:
    """Both cameras of what `open_recording` takes, or of the synthetic rig; at most `frames`.

    `side` names the right camera where it lies elsewhere; its pictures are brought to the size of
    the left camera's. A source that is a Path is a KITTI raw drive. Raises FrameError for what
    cannot be used, and for one camera alone.
    """
    if isinstance(source, Path):
        KittiRawDrive(source).check_both()
    if source is None and side is None:
        source = f"synthetic:{SYNTHETIC_FRAMES if frames is None else frames}"
    spec = "synthetic" if source is None else str(source)
    _refuse_live(spec, side)
    left = open_recording(spec, "left", frames)
    right = open_recording(side or spec, "right", frames)
    if side is None and _is_one_camera(spec, left, right):
        raise FrameError(f"{spec} is one camera: name the other one {_other(spec)}")
    count = min(len(left), len(right))
    if count < max(len(left), len(right)):
        left = open_recording(spec, "left", count)
        right = open_recording(side or spec, "right", count)
    if right.size != left.size:
        (height, width), (own_height, own_width) = left.size, right.size
        tell(f"{side or spec}: camera y has {own_width}x{own_height}, and is brought to camera x's "
             f"{width}x{height}")  # fmt: skip
        right = ResizedRecording(right, left.size)
    return StereoRecording(left, right)


def _refuse_live(*specs: str | None) -> None:
    from dsin.runtime.sources.capture_device import is_live, shown_name

    for spec in specs:
        if spec is not None and is_live(spec):
            raise FrameError(
                f"{shown_name(spec)} is a live camera, and a recording is needed here: "
                "dsin stream and dsin serve take live cameras"
            )


def _other(spec: str) -> str:
    return "too, as in " + EXAMPLE if is_bag(spec) else "with --side"


def _is_one_camera(spec: str, left: Recording, right: Recording) -> bool:
    if is_bag(spec):
        return None in parse_bag_spec(spec)
    if isinstance(left, Pictures) and isinstance(right, Pictures):
        return left.paths == right.paths
    return isinstance(left, VideoFile)


def _synthetic(spec: str, count: str, side: StereoSide, frames: int | None) -> Recording:
    if count and not (count.isdecimal() and len(count) < 10):
        raise FrameError(f"{spec}: give the number of frames, as in synthetic:60")
    available = int(count) if count else SYNTHETIC_FRAMES if frames is None else frames
    return _rendered(limited(available, frames), side)


@lru_cache(2)
def _rendered(frames: int, side: StereoSide) -> RenderedView:
    """One for all who ask, since drawing takes so long."""
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    return RenderedView(SyntheticRig(frames=frames), side)


def _open_folder(folder: Path, side: StereoSide, frames: int | None) -> Recording:
    for names, opened in (
        (("image_00/data_rect", "image_01/data_rect"), _kitti_360),
        (("image_02", "image_03"), _raw_drive),
        (("image_00", "image_01"), _raw_drive),
        (("image_2", "image_3"), open_odometry_or_stereo),
        # KITTI's stereo data of 2012 has both, and colour is wanted.
        (("colored_0", "colored_1"), open_stereo_scenes),
        (("image_0", "image_1"), open_odometry_or_stereo),
        (("mav0/cam0/data", "mav0/cam1/data"), open_euroc),
        (("cam0/data", "cam1/data"), open_euroc),
        (("left", "right"), _folder_pair),
    ):
        left, right = (folder / name for name in names)
        if is_folder(left, FrameError) or is_folder(right, FrameError):
            return opened(left, right, side, frames)
    parts = [n for n in ("training", "testing") if is_folder(folder / n, FrameError)]
    if parts and not has_images(folder):
        raise FrameError(f"{folder} has several parts: give {folder / parts[0]}, or another")
    if not has_images(folder):
        raise FrameError(f"{folder} is not a recording: give {LAYOUTS}")
    paths = tuple(images_by_stem(folder).values())
    return numbered_pictures(paths, regular_times(len(paths)), paths, frames)


def _raw_drive(left: Path, right: Path, side: StereoSide, frames: int | None) -> Recording:
    return KittiRawDrive(left.parent, (left.name, right.name)).camera(side, frames)


def _kitti_360(left: Path, right: Path, side: StereoSide, frames: int | None) -> Recording:
    cameras = left.parent.name, right.parent.name
    return KittiRawDrive(left.parents[1], cameras, left.name).camera(side, frames)


def _folder_pair(left: Path, right: Path, side: StereoSide, frames: int | None) -> Recording:
    paths, _ = one_side(left, right, side)
    return numbered_pictures(paths, regular_times(len(paths)), paths, frames)
