"""A stereo recording as a list of picture files, for what reads such lists."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsin.runtime.files import write_image
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
        root, lines = _in_place(recording) or (folder, _written(recording, folder))
        listed = folder / "pairs.txt"
        listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
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


def _written(recording: StereoRecording, folder: Path) -> list[str]:
    lines = []
    for number in range(len(recording)):
        for camera, view in (("x", recording.left), ("y", recording.right)):
            (folder / camera).mkdir(exist_ok=True)
            lines.append(f"{camera}/{number:06d}.png")
            write_image(folder / lines[-1], view.image(number))
    return lines
