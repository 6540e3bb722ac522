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
    height, width = panels[0].picture.shape[:2]
    factor = -(-_NARROWEST // width)
    height, width = factor * height, factor * width
    scale = min(0.8, max(0.4, width / 1550))
    bar = round(50 * scale)
    rows, step = -(-len(panels) // columns), (bar + height + _GAP, width + _GAP)
    sheet = np.empty((rows * step[0] - _GAP, columns * step[1] - _GAP, 3), np.uint8)
    plain = np.tile(np.array(_BAR, np.uint8), (sheet.shape[1], 1))  # by rows: 8 times as fast
    for top in range(0, sheet.shape[0], step[0]):
        sheet[top : top + bar] = plain
        sheet[top + bar + height : top + step[0]] = plain
    for column in range(1, columns):
        sheet[:, column * step[1] - _GAP : column * step[1]] = plain[:_GAP]
    for index in range(len(panels), rows * columns):
        left = index % columns * step[1]
        sheet[-height:, left : left + width] = plain[:width]
    for index, panel in enumerate(panels):
        top, left = index // columns * step[0], index % columns * step[1]
        _write_caption(sheet[top : top + bar, left : left + width], panel, scale)
        picture = panel.picture
        if factor > 1:
            picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        sheet[top + bar : top + bar + height, left : left + width] = picture
    return sheet


def _write_caption(bar: Image, panel: Panel, scale: float) -> None:
    """The panel's name and note, on a bar."""
    (name_width, _), _ = cv2.getTextSize(panel.name, cv2.FONT_HERSHEY_DUPLEX, scale, 1)
    baseline, margin = round(33 * scale), round(14 * scale)
    cv2.putText(
        bar, panel.name, (margin, baseline), cv2.FONT_HERSHEY_DUPLEX, scale, _NAME, 1, cv2.LINE_AA
    )
    place = (margin + name_width + round(24 * scale), baseline)
    cv2.putText(
        bar, panel.note, place, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.86, _NOTE, 1, cv2.LINE_AA
    )
