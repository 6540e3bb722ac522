"""Pair lists in the original's format."""

from dataclasses import dataclass
from pathlib import Path

from dsin.runtime.errors import FrameError
from dsin.runtime.files import is_file
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image, centre_crop


@dataclass(frozen=True)
class Pair:
    """Paths of x, which is sent, and y, which the decoder has."""

    x: Path
    y: Path


def read_pair_list(path: Path, root: Path) -> list[Pair]:
    """Pairs of a list that has the relative paths of x and y one below the other.

    Raises FrameError for an odd number of lines, or naming the first file that is missing.
    """
    if not is_file(path, FrameError):
        raise FrameError(f"there is no pair list {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FrameError(f"{path} is not a text file: give a list of paths") from error
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or len(lines) % 2:
        raise FrameError(
            f"{path} has {len(lines)} paths: expected x and y in turn, one on each line"
        )
    files = [root / line for line in lines]
    for file in files:
        if not is_file(file, FrameError):
            raise FrameError(f"{path} names {file}, which does not exist: is --root right?")
    return [Pair(x, y) for x, y in zip(files[::2], files[1::2], strict=True)]


def read_pair(pair: Pair, crop: tuple[int, int] | None) -> tuple[Image, Image]:
    """x and y, both cut to (height, width) about their centres. Raises FrameError for pictures that
    cannot be used, and without a crop for two sizes."""
    x, y = read_image(pair.x), read_image(pair.y)
    if crop is not None:
        return centre_crop(x, crop), centre_crop(y, crop)
    if x.shape != y.shape:
        raise FrameError(f"{pair.x} and {pair.y} differ in size: crop both with --crop HxW")
    return x, y
