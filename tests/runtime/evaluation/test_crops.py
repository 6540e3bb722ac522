"""A sheet of cuts: the original, ours, and a rival at equal bytes."""

import numpy as np

from dsin.runtime.codec.decoder import Decoded
from dsin.runtime.evaluation import crops
from dsin.runtime.evaluation.rivals import Rival
from dsin.runtime.metrics import psnr_db
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.pictures import Image


def test_cuts_are_of_one_place_and_figures_of_whole_pictures() -> None:
    """The only edges lie below and right of the middle, in a picture larger than a cut."""
    x = np.full((400, 900, 3), 90, np.uint8)
    x[300:320, 700:760] = np.random.default_rng(0).integers(0, 256, (20, 60, 3))
    ours, alone = x + 1, x + 3

    def code(picture: Image, setting: float) -> tuple[int, Image]:
        return round(100 * setting), picture + round(setting)

    rival = Rival("other", (1,), (5, 10, 20), code)
    decoded = Decoded(ours, alone, None, None, True, None, {})
    sheet = crops.beside_rivals(x, 980, decoded, [rival], "edge")
    top, left = crops.busiest_place(x, crops.WINDOW)
    assert (top + 160 >= 320, left + 400 >= 760) == (True, True)

    def panel(picture: Image, name: str, note: str) -> Panel:
        return Panel(picture[top : top + 160, left : left + 400], name, note)

    expected = side_by_side(
        [
            panel(x, "original", "900x400"),
            panel(ours, "edge", f"980 bytes, {psnr_db(ours, x):.2f} dB"),
            panel(alone, "edge, no side image", f"980 bytes, {psnr_db(alone, x):.2f} dB"),
            panel(x + 10, "other", f"1000 bytes, {psnr_db(x + 10, x):.2f} dB"),
        ]
    )
    np.testing.assert_array_equal(sheet, expected)
