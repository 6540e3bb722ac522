"""Side-by-side pictures of what went in, what arrived, and what helped."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from dsin.runtime.pictures import Image

_BAR = (24, 27, 33)
_NAME = (240, 240, 240)
_NOTE = (150, 164, 182)
_GAP = 4
_NARROWEST = 480


class Panel(NamedTuple):
    """A picture H×W×3 with its name and a note, both in ASCII: OpenCV's fonts have no more."""

    picture: Image
    name: str
    note: str


def side_by_side(panels: Sequence[Panel], columns: int = 2) -> Image:
    """Panels of one size on a grid, row by row, each under a bar with its name.

    Small pictures are enlarged by a whole factor, so that the captions stay legible.
    """
    captioned = [_captioned(panel) for panel in panels]
    height, width = captioned[0].shape[:2]
    rows = -(-len(captioned) // columns)
    sheet = np.full(
        (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), _BAR, np.uint8
    )
    for index, picture in enumerate(captioned):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _captioned(panel: Panel) -> Image:
    factor = -(-_NARROWEST // panel.picture.shape[1])
    picture = panel.picture.repeat(factor, axis=0).repeat(factor, axis=1)
    width = picture.shape[1]
    scale = min(0.8, max(0.4, width / 1550))
    (name_width, _), _ = cv2.getTextSize(panel.name, cv2.FONT_HERSHEY_DUPLEX, scale, 1)
    bar = np.full((round(50 * scale), width, 3), _BAR, np.uint8)
    baseline, margin = round(33 * scale), round(14 * scale)
    cv2.putText(
        bar, panel.name, (margin, baseline), cv2.FONT_HERSHEY_DUPLEX, scale, _NAME, 1, cv2.LINE_AA
    )
    place = (margin + name_width + round(24 * scale), baseline)
    cv2.putText(
        bar, panel.note, place, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.86, _NOTE, 1, cv2.LINE_AA
    )
    return np.concatenate([bar, picture])
