"""Pictures to calibrate and verify on, and what names the set of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.files import is_file, is_folder
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image
from dsin.runtime.sources.bag_spec import is_bag
from dsin.runtime.sources.picture_folders import is_picture, natural_order
from dsin.runtime.sources.recordings import open_stereo

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MOST_FRAMES = 48


def read_frames(source: Path, root: Path | None = None) -> list[Image]:
    """Up to MOST_FRAMES pictures (RGB uint8) of a folder, a list, or both topics of a ROS bag
    (`bag:…`), evenly spread in pairs.

    `root` is where the paths of a list start, by default the list's folder. Raises FrameError where
    there are no pictures, and for a folder or a bag with `root`.
    """
    if is_bag(str(source)):
        return _of_bag(str(source), root)
    if is_folder(source, FrameError):
        if root is not None:
            raise FrameError(f"{source} is a folder: --root is where the paths of a list start")
        paths = sorted((p for p in source.rglob("*") if is_picture(p, PICTURES)), key=natural_order)
    elif is_file(source, FrameError):
        start = root or source.parent
        try:
            lines = source.read_text(encoding="utf-8-sig").splitlines()
        except ValueError as error:
            raise FrameError(f"{source} is not a list of paths: give a folder or a list") from error
        paths = [start / line.strip() for line in lines if line.strip()]
    else:
        raise FrameError(f"there is no folder or list {source}")
    if not paths:
        raise FrameError(f"{source} has no pictures: give a folder or a list with some")
    pairs = [paths[i : i + 2] for i in range(0, len(paths), 2)]
    step = max(1, len(pairs) * 2 // MOST_FRAMES)
    chosen = [path for pair in pairs[::step] for path in pair][:MOST_FRAMES]
    return [read_image(path) for path in chosen]


def _of_bag(spec: str, root: Path | None) -> list[Image]:
    if root is not None:
        raise FrameError(f"{spec} is a bag: --root is where the paths of a list start")
    recording = open_stereo(spec)
    step = max(1, 2 * len(recording) // MOST_FRAMES)
    numbers = range(0, len(recording), step)[: MOST_FRAMES // 2]
    return [side.image(n) for n in numbers for side in (recording.left, recording.right)]


def synthetic_pictures() -> list[Image]:
    """Pairs of the built-in rig."""
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    return [
        picture
        for frame in SyntheticRig(width=624, height=200, frames=3)
        for picture in (frame.left, frame.right)
    ]


def set_sha256(frames: Sequence[Image]) -> str:
    """Over the sizes and pixels of all pictures, in their order."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.shape}\n".encode())
        digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.hexdigest()
