"""Real stereo frames from the data pack, or the built-in rig's, and which of them they are."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class Frames(NamedTuple):
    """Pairs (x, y) of H×W×3 RGB, and where they are from, for the results."""

    pairs: list[tuple[Image, Image]]
    source: str


def frames(pack: Path | None, count: int) -> Frames:
    """`count` pairs to validate on, or as many as there are. A pack that cannot be used is the
    stage `pack`'s failure; the others go on with the rig and say so."""
    from dsin.runtime.errors import DsinError

    if pack is None:
        return _rig(count, "no pack was given")
    try:
        return Frames(_packed(pack, count), "the pack's frames")
    except (DsinError, OSError) as error:
        return _rig(count, f"the pack cannot be used: {error}")


def _packed(pack: Path, count: int) -> list[tuple[Image, Image]]:
    from dsin.runtime.errors import FrameError
    from dsin.training.edge.picture_pack import open_pack

    pictures = open_pack(pack, print)
    pairs = [*pictures.validation, *pictures.pairs][:count]
    if not pairs:
        raise FrameError(f"{pack} has no pairs")
    return [(pair.x.read(), pair.y.read()) for pair in pairs]


def _rig(count: int, reason: str) -> Frames:
    from dsin.runtime.sources.synthetic_rig import SyntheticRig

    pairs = [(frame.left, frame.right) for frame in SyntheticRig(frames=count)]
    return Frames(pairs, f"the built-in rig's frames, since {reason}")


def middle(image: Image, height: int, width: int) -> Image:
    """The centre crop; smaller pictures are scaled up to it first."""
    factor = max(height / image.shape[0], width / image.shape[1], 1.0)
    if factor > 1:
        size = tuple(round(side * factor + 0.5) for side in image.shape[1::-1])
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    from dsin.runtime.pictures import centre_crop

    return np.ascontiguousarray(centre_crop(image, (height, width)))


def as_decoded(image: Image) -> NDArray[Any]:
    """About as sharp as a decoded picture, as the benchmarks of the search take it."""
    from patch_inputs import degraded

    return np.asarray(degraded(image), np.float32)
