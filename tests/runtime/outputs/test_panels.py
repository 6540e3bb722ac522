"""Side-by-side pictures."""

import numpy as np
import pytest

from dsin.runtime.outputs.panels import _BAR, _GAP, Panel, side_by_side


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 2), (4, 2), (5, 3)])
def test_all_but_pictures_and_captions_is_plain(count: int, columns: int) -> None:
    pictures = [np.full((50, 500, 3), 100 + n, np.uint8) for n in range(count)]
    sheet = side_by_side([Panel(picture, "", "") for picture in pictures], columns)
    rows = -(-count // columns)
    bar = (sheet.shape[0] + _GAP) // rows - _GAP - 50
    expected = np.empty_like(sheet)
    expected[:] = _BAR
    for number, picture in enumerate(pictures):
        top, left = number // columns * (bar + 50 + _GAP) + bar, number % columns * (500 + _GAP)
        expected[top : top + 50, left : left + 500] = picture
    assert np.array_equal(sheet, expected)
