"""Our picture beside those of other codecs at equal bytes, cut to where most is to be seen."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.evaluation.rivals import Rival
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.pictures import Image

WINDOW = (160, 400)
"""Height and width of a cut, in pixels."""
STEP = 16
"""Pixels between the places that a cut is chosen from."""


class AtBytes(NamedTuple):
    """A picture coded by a rival with about as many bytes as wanted."""

    setting: float
    size: int
    picture: Image


def at_bytes(rival: Rival, picture: Image, wanted: int) -> AtBytes:
    """The setting of a rival whose bytes are nearest to `wanted`, as a ratio: by bisection over its
    ladder, which goes from few bytes to many."""
    low, high = -1, len(rival.ladder)
    tried: list[AtBytes] = []
    while high - low > 1:
        middle = (low + high) // 2
        setting = float(rival.ladder[middle])
        size, decoded = rival.code(picture, setting)
        tried.append(AtBytes(setting, size, np.ascontiguousarray(decoded)))
        low, high = (middle, high) if size <= wanted else (low, middle)
    return min(tried, key=lambda coded: abs(np.log(coded.size / wanted)))


def beside_rivals(
    x: Image, packet_bytes: int, decoded: Decoded, others: Sequence[Rival], name: str
) -> Image:
    """A sheet of cuts with captions: x, our picture with and without the side image, and every
    rival at equal bytes. Bytes and PSNR are those of whole pictures."""
    top, left = busiest_place(x, WINDOW)

    def panel(picture: Image, title: str, note: str) -> Panel:
        cut = picture[top : top + WINDOW[0], left : left + WINDOW[1]]
        return Panel(np.ascontiguousarray(cut), title, note)

    def coded(picture: Image, title: str, size: int) -> Panel:
        return panel(picture, title, f"{size} bytes, {psnr_db(picture, x):.2f} dB")

    panels = [
        panel(x, "original", f"{x.shape[1]}x{x.shape[0]}"),
        coded(decoded.image, name, packet_bytes),
        coded(decoded.x_dec, f"{name}, no side image", packet_bytes),
    ]
    for rival in others:
        found = at_bytes(rival, x, packet_bytes)
        panels.append(coded(found.picture, rival.name, found.size))
    return side_by_side(panels)


def busiest_place(x: Image, window: tuple[int, int]) -> tuple[int, int]:
    """Top left corner of the window with the strongest edges, (0, 0) where it does not fit."""
    grey = cv2.GaussianBlur(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), (0, 0), 1.5).astype(np.float32)
    edges = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    sums = cv2.integral(edges)
    height, width = window
    rows, columns = max(x.shape[0] - height, 0), max(x.shape[1] - width, 0)
    best, place = -1.0, (0, 0)
    for top in range(0, rows + 1, STEP):
        for left in range(0, columns + 1, STEP):
            bottom, right = min(top + height, x.shape[0]), min(left + width, x.shape[1])
            total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            if total > best:
                best, place = float(total), (top, left)
    return place
