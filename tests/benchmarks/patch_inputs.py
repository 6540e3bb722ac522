"""Pictures for the benchmark of the search: real ones, and those that are hard to prune."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import centre_crop
from dsin.runtime.sources.synthetic_rig import SyntheticRig

Image = np.ndarray[Any, Any]
HEIGHT, WIDTH = 320, 1224


class Case(NamedTuple):
    """x_dec and y_dec, H×W×3 float32 in 0..255, and whether the prior is on."""

    x: Image
    y: Image
    prior: bool = True


def degraded(image: Image) -> Image:
    """About as sharp as a decoded picture: blurred and JPEG-compressed."""
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
    _, data = cv2.imencode(".jpg", blurred, [cv2.IMWRITE_JPEG_QUALITY, 20])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded, np.float32)


def middle(image: Image) -> Image:
    """The centre crop that the project's figures are measured on."""
    return centre_crop(image, (HEIGHT, WIDTH))


def views(pairs: Path | None, root: Path | None, count: int) -> list[tuple[Image, Image]]:
    """`count` stereo pairs of a list, or of the built-in rig without one."""
    if pairs is None:
        return [(frame.left, frame.right) for frame in SyntheticRig(frames=count)]
    paths = [(root or pairs.parent) / line for line in pairs.read_text().split()]
    step = max(1, len(paths) // 2 // count)
    chosen = range(0, len(paths) // 2, step)[:count]
    return [(read_image(paths[2 * i]), read_image(paths[2 * i + 1])) for i in chosen]


def ordinary(stereo: list[tuple[Image, Image]]) -> list[Case]:
    """The cases whose median is the headline."""
    return [Case(degraded(middle(x)), degraded(middle(y))) for x, y in stereo]


def hard(stereo: list[tuple[Image, Image]]) -> dict[str, Case]:
    """One case of each kind that a search by pruning may stumble over."""
    rng = np.random.default_rng(0)
    x, y = (degraded(middle(view)) for view in stereo[0])
    other = degraded(middle(stereo[-1][1]))
    noise = [rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32) for _ in range(2)]
    sky = [np.round(_slope() + rng.normal(0, 0.6, (HEIGHT, WIDTH, 3))) for _ in range(2)]
    tile = degraded(rng.integers(0, 256, (40, 48, 3)).astype(np.uint8))
    wall = np.tile(tile, (HEIGHT // 40, WIDTH // 48 + 1, 1))[:, :WIDTH]
    return {
        "no prior": Case(x, y, prior=False),
        "x unrelated": Case(x, other[:, ::-1].copy()),
        "textureless sky": Case(sky[0].astype(np.float32), sky[1].astype(np.float32)),
        "repeated texture": Case(wall, np.roll(wall, 7, 1)),
        "noise": Case(noise[0], noise[1]),
        "noise, no prior": Case(noise[0], noise[1], prior=False),
    }


def _slope() -> Image:
    """A few grey levels from top to bottom."""
    levels: Image = np.linspace(180, 210, HEIGHT)[:, None, None] * np.ones((1, WIDTH, 3))
    return levels


def large(width: int, height: int) -> Case:
    """The built-in rig, rendered at another size."""
    frame = SyntheticRig(width=width, height=height, frames=1).frame(0)
    return Case(degraded(frame.left), degraded(frame.right))
