"""What the `edge` model is trained on: pictures that are decoded once, by all cores.

Where pictures come from (files, or a pack of `dsin.training.edge.picture_pack`) ends here: training
knows named pictures that can be read.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dsin.runtime.errors import FrameError
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image


class Picture(NamedTuple):
    """`read()` decodes it, RGB uint8 H×W×3, and raises FrameError, which names it, where it is no
    8-bit colour picture."""

    name: str
    read: Callable[[], Image]


class PicturePair(NamedTuple):
    """x, which is sent, and y, which the decoder has."""

    x: Picture
    y: Picture


@dataclass(frozen=True)
class TrainingPictures:
    """Pairs and single pictures to train on, and pairs to validate on; `notes` go into
    checkpoints."""

    pairs: Sequence[PicturePair]
    photos: Sequence[Picture]
    validation: Sequence[PicturePair]
    notes: Mapping[str, Any] = field(default_factory=dict)


def pictures_of_files(
    pairs: Sequence[Pair], photos: Sequence[Path], validation: Sequence[Pair]
) -> TrainingPictures:
    """Pictures that lie in files."""
    return TrainingPictures(_pairs(pairs), tuple(map(_file, photos)), _pairs(validation))


def decoded(pictures: Sequence[Picture]) -> Iterator[Image]:
    """All of them, in their order. Raises FrameError for the first that cannot be read."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda picture: picture.read(), pictures)


def decoded_where_possible(
    pictures: Sequence[Picture], say: Callable[[str], None]
) -> tuple[list[Picture], list[Image]]:
    """Those that can be used, with what they show; `say` is told how many cannot, and why the
    first of them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(_image_or_error, pictures))
    errors = [str(image) for image in read if isinstance(image, FrameError)]
    if errors:
        say(f"left out {len(errors)} pictures that cannot be used: {errors[0]}")
    kept = [(p, i) for p, i in zip(pictures, read, strict=True) if not isinstance(i, FrameError)]
    return [picture for picture, _ in kept], [image for _, image in kept]


def _image_or_error(picture: Picture) -> Image | FrameError:
    try:
        return picture.read()
    except FrameError as error:
        return error


def _file(path: Path) -> Picture:
    return Picture(str(path), partial(read_image, path))


def _pairs(pairs: Sequence[Pair]) -> tuple[PicturePair, ...]:
    return tuple(PicturePair(_file(pair.x), _file(pair.y)) for pair in pairs)
