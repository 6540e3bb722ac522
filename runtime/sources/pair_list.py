"""A stereo recording as a list of picture files, for what reads such lists."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dsin.runtime.errors import DsinError, FrameError
from dsin.runtime.files import entries, exists, is_folder, write_bytes_atomically, write_image
from dsin.runtime.sources.picture_folders import Pictures
from dsin.runtime.sources.recordings import StereoRecording, open_stereo


@contextmanager
def pair_list_of(
    source: str, side: str | None = None, frames: int | None = None
) -> Iterator[tuple[Path, Path]]:
    """A list of pairs in order, the paths of x and y in turn, and the folder that they are relative
    to.

    Folders of pictures are listed where they are. Of anything else the pictures are written without
    loss as x/000012.png and y/000012.png, by the number of the frame, and are gone afterwards, as
    the list is. `source`, `side` and `frames` are as dsin.runtime.sources.recordings.open_stereo
    takes them. Raises FrameError.
    """
    recording = open_stereo(source, frames, side)
    with tempfile.TemporaryDirectory(prefix="dsin-pairs-") as name:
        folder = Path(name)
        root, lines = _in_place(recording) or (folder, list(_write_pictures(folder, recording, 1)))
        listed = folder / "pairs.txt"
        _write_list(listed, lines)
        yield listed, root


def _in_place(recording: StereoRecording) -> tuple[Path, list[str]] | None:
    """The folder that holds the picture files of both cameras, and their paths in it; None where
    the frames are not just files."""
    left, right = recording.left, recording.right
    if not (isinstance(left, Pictures) and isinstance(right, Pictures)):
        return None
    pairs = zip(left.paths, right.paths, strict=True)
    files = [str(path.absolute()) for pair in pairs for path in pair]
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return Path(root), [os.path.relpath(file, root) for file in files]


class WrittenPairs(NamedTuple):
    """Numbers of pairs in the list to train on and in that to validate on."""

    train: int
    validation: int


def write_pairs(
    source: str,
    folder: Path,
    *,
    side: str | None = None,
    frames: int | None = None,
    every: int = 1,
    validation: float = 0.1,
    tell: Callable[[str, int], None] = lambda line, done: None,
) -> WrittenPairs:
    """Write a stereo recording as pictures and lists to train on, for cameras of one's own.

    Of each `every`th frame `folder` gets x/000012.png and y/000012.png, and in the end train.txt
    and val.txt, whose paths are relative to it. The last frames are those to validate on, a share
    of `validation`, so that neighbours in time are not on both sides. `source`, `side` and `frames`
    are as `open_stereo` takes them; `tell` gets what is going on and how many pairs are done.
    Raises FrameError for a source that cannot be used or has under two pairs, DsinError for a
    folder that has something in it or cannot be written.
    """
    recording = open_stereo(source, frames, side)
    count = len(range(0, len(recording), every))
    kept = max(1, round(validation * count))
    if count - kept < 1:
        raise FrameError(
            f"{source} gives {count} pairs: two are needed, one of them to validate on"
        )
    if exists(folder) and (not is_folder(folder) or entries(folder)):
        raise DsinError(f"{folder} has something in it: name a folder that is new or empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsinError(f"cannot make {folder}: {error.strerror}") from error
    lines: list[str] = []
    for written in _write_pictures(folder, recording, every):
        lines.append(written)
        tell(f"{len(lines)} of {count} pairs", len(lines))
    for name, part in (("train", lines[:-kept]), ("val", lines[-kept:])):
        _write_list(folder / f"{name}.txt", part)
    return WrittenPairs(count - kept, kept)


def _write_pictures(folder: Path, recording: StereoRecording, every: int) -> Iterator[str]:
    """The two lines of each pair, once its pictures are there."""
    for camera in ("x", "y"):
        (folder / camera).mkdir(exist_ok=True)
    for number in range(0, len(recording), every):
        names = [f"{camera}/{number:06d}.png" for camera in ("x", "y")]
        for name, view in zip(names, (recording.left, recording.right), strict=True):
            write_image(folder / name, view.image(number))
        yield "\n".join(names)


def _write_list(path: Path, lines: list[str]) -> None:
    write_bytes_atomically(path, "".join(f"{line}\n" for line in lines).encode())
