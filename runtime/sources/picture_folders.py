"""Folders of numbered picture files: one camera's frames, and how two cameras' files pair up."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dsin.runtime.errors import FrameError
from dsin.runtime.files import entries, is_folder
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import StereoSide, limited

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


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


def paired_images(
    left: Path, right: Path, ending: str = ""
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Images of two folders whose names agree up to the suffix, sorted by number.

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
    """Images of a folder by their names less the suffix, in natural order; `ending` as in
    paired_images.

    Raises FrameError if there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in _images(folder, ending):
        if path.stem in found:
            raise FrameError(f"{path} and {found[path.stem].name} are the same frame: keep one")
        found[path.stem] = path
    if not found:
        names = ", ".join(f"*{ending}{suffix}" if ending else suffix for suffix in SUFFIXES)
        raise FrameError(f"{folder} holds no images ({names})")
    return found


def has_images(folder: Path, ending: str = "") -> bool:
    """Whether that is a folder with any image; `ending` as in paired_images. Raises FrameError for
    one that cannot be read."""
    return is_folder(folder, FrameError) and bool(_images(folder, ending))


def _images(folder: Path, ending: str) -> list[Path]:
    found = (path for path in entries(folder, FrameError) if is_picture(path))
    return sorted((path for path in found if path.stem.endswith(ending)), key=natural_order)


def is_picture(path: Path, suffixes: Collection[str] = SUFFIXES) -> bool:
    """Whether a path is named like a picture that somebody wants to be seen.

    What begins with a dot is hidden: thumbnails, and what macOS leaves beside each file on other
    file systems (`._0001.png`), which is no picture in spite of its suffix.
    """
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def natural_order(path: Path) -> tuple[object, ...]:
    """Key to sort paths by: folder by folder, numbers within names by value, so that 9 comes before
    10 whether or not names are padded."""
    parts = (*path.parent.parts, path.stem, path.suffix)
    # Texts and numbers alternate, so that like is compared with like.
    named = [re.split(r"([0-9]+)", part) for part in parts]
    return (
        *([int(piece) if piece.isdecimal() else piece for piece in pieces] for pieces in named),
        path.name,
    )


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file; raises FrameError for one that cannot be read."""
    height, width = read_image(path).shape[:2]
    return height, width


def one_side(
    left: Path, right: Path, side: StereoSide, ending: str = ""
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The asked camera's pictures, and those of the camera that tells times and sizes.

    That is the left one where both are there. `ending` as in paired_images. Raises FrameError where
    the asked camera is missing, or the two have not the same frames.
    """
    if is_folder(left, FrameError) and is_folder(right, FrameError):
        lefts, rights = paired_images(left, right, ending)
        return (lefts if side == "left" else rights), lefts
    own = left if side == "left" else right
    if not is_folder(own, FrameError):
        raise FrameError(f"there is no {own}: the folder has the other camera only")
    paths = tuple(images_by_stem(own, ending).values())
    return paths, paths


def numbered_pictures(
    paths: tuple[Path, ...],
    times: tuple[int, ...],
    reference: tuple[Path, ...],
    frames: int | None,
) -> Pictures:
    """At most `frames` of these pictures; the first one of `reference` tells their size.

    Raises FrameError for a first one that cannot be read.
    """
    count = limited(len(paths), frames)
    return Pictures(paths[:count], times[:count], image_size(reference[0]))
