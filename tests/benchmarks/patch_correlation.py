"""How fast is the search? `match` beside brute-force convolution in PyTorch, in the same run.

    python tests/benchmarks/patch_correlation.py [PAIR_LIST [ROOT]]

Pairs are blurred and JPEG-compressed as stand-ins for x_dec and y_dec, 320×1224; without a list the
synthetic rig is used. Times are medians, in milliseconds; only the ratio means anything on a
machine that is busy with something else.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dsin.runtime import patch_correlation as pc
from dsin.runtime.frames import read_image
from dsin.runtime.synthetic_rig import SyntheticRig
from dsin.training.presets import Quirks, SearchConfig
from dsin.training.si_finder import SideInformationFinder

Image = np.ndarray[Any, Any]
HEIGHT, WIDTH = 320, 1224
PAIRS = 5


def degraded(image: Image) -> Image:
    """The middle of a picture, about as sharp as a decoded one."""
    top, left = (image.shape[0] - HEIGHT) // 2, (image.shape[1] - WIDTH) // 2
    middle = cv2.GaussianBlur(image[top : top + HEIGHT, left : left + WIDTH], (0, 0), 1.5)
    _, data = cv2.imencode(".jpg", middle, [cv2.IMWRITE_JPEG_QUALITY, 20])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded, np.float32)


def pairs(arguments: list[str]) -> list[tuple[Image, Image]]:
    if not arguments:
        rig = SyntheticRig(frames=PAIRS)
        return [(degraded(frame.left), degraded(frame.right)) for frame in rig]
    listing = Path(arguments[0])
    root = Path(arguments[1]) if len(arguments) > 1 else listing.parent
    paths = [root / line for line in listing.read_text().split()]
    step = max(1, len(paths) // 2 // PAIRS)
    chosen = range(0, len(paths) // 2, step)[:PAIRS]
    return [tuple(degraded(read_image(p)) for p in paths[2 * i : 2 * i + 2]) for i in chosen]  # type: ignore[misc]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result


def planes(image: Image) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy())


def main() -> None:
    finder = SideInformationFinder(SearchConfig(), Quirks())
    print(f"{'pair':>6} {'brute ms':>9} {'match ms':>9} {'ratio':>6} {'prepare':>8} {'search':>7}"
          f" {'same %':>7} {'lost score':>11}")  # fmt: skip
    rows = []
    for number, (x, y) in enumerate(pairs(sys.argv[1:])):
        if number == 0:
            pc.match(x, y)  # compiles
        rows.append(measure(finder, x, y))
        show(str(number), rows[-1])
    show("median", tuple(statistics.median(column) for column in zip(*rows, strict=True)))


def measure(finder: SideInformationFinder, x: Image, y: Image) -> tuple[float, ...]:
    """Times in ms, patches at the same position in %, and score lost by those that differ."""
    brute_ms, brute = timed(lambda: finder.match(planes(x), planes(y)))
    whole_ms, _ = timed(lambda: pc.match(x, y))
    prepare_ms, prepared = timed(lambda: pc.prepare(y))
    search_ms, found = timed(lambda: pc.match(x, y, prepared=prepared))
    row, col = (part[0].numpy() for part in brute[:2])
    same = 100 * float(((row == found.row) & (col == found.col)).mean())
    lost = pc.scores_at(x, y, row, col) - pc.scores_at(x, y, found.row, found.col)
    return brute_ms, whole_ms, prepare_ms, search_ms, same, float(lost.max())


def show(name: str, row: tuple[float, ...]) -> None:
    brute_ms, whole_ms, prepare_ms, search_ms, same, lost = row
    print(f"{name:>6} {brute_ms:9.0f} {whole_ms:9.1f} {brute_ms / whole_ms:6.1f}"
          f" {prepare_ms:8.1f} {search_ms:7.1f} {same:7.2f} {lost:11.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
