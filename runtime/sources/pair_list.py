"""A stereo recording as a list of picture files, for what reads such lists."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsin.runtime.files import write_image
from dsin.runtime.sources.recordings import open_stereo


@contextmanager
def pair_list_of(
    source: str, side: str | None = None, frames: int | None = None
) -> Iterator[tuple[Path, Path]]:
    """A list of pairs, the paths of x and y in turn, and the folder that they are relative to.

    Both are gone afterwards. The pictures are written without loss as x/000012.png and
    y/000012.png, by the number of the frame. `source`, `side` and `frames` are as
    dsin.runtime.sources.recordings.open_stereo takes them. Raises FrameError.
    """
    recording = open_stereo(source, frames, side)
    with tempfile.TemporaryDirectory(prefix="dsin-pairs-") as name:
        folder = Path(name)
        lines = []
        for number in range(len(recording)):
            for camera, view in (("x", recording.left), ("y", recording.right)):
                (folder / camera).mkdir(exist_ok=True)
                lines.append(f"{camera}/{number:06d}.png")
                write_image(folder / lines[-1], view.image(number))
        listed = folder / "pairs.txt"
        listed.write_text("\n".join(lines) + "\n")
        yield listed, folder
