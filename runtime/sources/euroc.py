"""Folders as EuRoC's and TUM-VI's: `mav0/cam0/data` and `cam1`, with times as names."""

from pathlib import Path

from dsin.runtime.errors import FrameError
from dsin.runtime.files import is_folder
from dsin.runtime.sources.frames import StereoSide
from dsin.runtime.sources.picture_folders import Pictures, images_by_stem, numbered_pictures


def open_euroc(left: Path, right: Path, side: StereoSide, frames: int | None) -> Pictures:
    """One camera, whose pictures are named by their time in nanoseconds.

    A picture without one of the same time in the other camera's folder, where that is there, is
    left out: such folders begin and end with some. Raises FrameError for what cannot be used.
    """
    own, other = (left, right) if side == "left" else (right, left)
    if not is_folder(own, FrameError):
        raise FrameError(f"there is no {own}: the folder has the other camera only")
    pictures = images_by_stem(own)
    if is_folder(other, FrameError):
        partners = images_by_stem(other)
        pictures = {stem: path for stem, path in pictures.items() if stem in partners}
    if not pictures:
        raise FrameError(f"no picture of {left} has the time of one of {right}")
    odd = [path for stem, path in pictures.items() if not (stem.isdecimal() and len(stem) < 20)]
    if odd:
        raise FrameError(f"{odd[0]} is not named by its time in nanoseconds, as EuRoC's pictures")
    paths = tuple(pictures.values())
    return numbered_pictures(paths, tuple(int(path.stem) for path in paths), paths, frames)
