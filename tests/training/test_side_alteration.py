"""Altered side images: what each alteration does, against OpenCV, and how often it is drawn."""

import cv2
import numpy as np
import pytest
import torch
from conftest import textured_pair
from torch import Tensor

from dsin.training.side_alteration import (
    BLURRED,
    EXPOSED,
    FOREIGN,
    NOISY,
    SHIFTED,
    ZOOMED,
    alterations_of,
    altered,
    draw_alterations,
)

PICTURE = textured_pair(64, 96, 3)[1]
Y = torch.from_numpy(PICTURE.transpose(2, 0, 1)[None].copy()).float()


def after(kind: int, first: float, second: float = 0.5, y: Tensor = Y) -> np.ndarray:
    """H×W×3, of one picture."""
    alterations = alterations_of(*(torch.tensor([value]) for value in (kind, first, second)))
    return altered(y, alterations)[0].permute(1, 2, 0).numpy()


def test_nothing_else_changes_a_picture() -> None:
    for kind in (-1, FOREIGN):
        np.testing.assert_array_equal(after(kind, 0.9, 0.9), PICTURE)


def test_each_kind_alters_its_own_picture_of_a_batch() -> None:
    """In a batch as alone, but for the noise."""
    kinds = [-1, EXPOSED, BLURRED, SHIFTED, ZOOMED]
    drawn = torch.tensor(kinds), torch.full((5,), 0.9), torch.full((5,), 0.2)
    together = altered(Y.expand(5, -1, -1, -1), alterations_of(*drawn))
    for kind, picture in zip(kinds, together, strict=True):
        alone = after(kind, 0.9, 0.2)
        np.testing.assert_allclose(picture.permute(1, 2, 0), alone, atol=1, rtol=0)
    assert len({picture.numpy().tobytes() for picture in together}) == 5


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.0, 0.0, [0, 50, 143]), (1.0, 1.0, [10, 150, 255]), (0.5, 0.75, [5, 105, 255])],
)
def test_exposure(first: float, second: float, expected: list[int]) -> None:
    """A gain from 0.6 to 1.4, then an offset from -10 to 10."""
    y = torch.tensor([0.0, 100.0, 255.0]).expand(1, 3, 20, 3).repeat(1, 1, 1, 4)
    np.testing.assert_array_equal(after(EXPOSED, first, second, y)[4, :3, 1], expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blur(share: float) -> None:
    expected = cv2.GaussianBlur(PICTURE, (0, 0), 0.4 + 2.1 * share)
    np.testing.assert_allclose(after(BLURRED, share), expected, atol=1, rtol=0)


@pytest.mark.parametrize(("share", "rows"), [(0.0, -5), (1.0, 5), (0.7, 2)])
def test_shift(share: float, rows: int) -> None:
    """Down is positive; what comes in at the edge is mirrored."""
    moved = after(SHIFTED, share)
    expected = cv2.copyMakeBorder(PICTURE, 5, 5, 0, 0, cv2.BORDER_REFLECT)[5 - rows : 69 - rows]
    np.testing.assert_allclose(moved, expected, atol=1, rtol=0)


@pytest.mark.parametrize(("zoom", "turn"), [(0.0, 0.0), (1.0, 1.0), (0.5, 1.0), (1.0, 0.5)])
def test_zoom_and_turn(zoom: float, turn: float) -> None:
    """OpenCV rounds places to 1/32 pixel, which is a few levels where the picture is steep."""
    matrix = cv2.getRotationMatrix2D((48, 32), -0.7 + 1.4 * turn, 0.96 + 0.08 * zoom)
    expected = cv2.warpAffine(PICTURE, matrix, (96, 64), borderMode=cv2.BORDER_REFLECT)
    difference = np.abs(after(ZOOMED, zoom, turn) - expected.astype(float))
    assert difference.max() <= 3
    assert difference.mean() < 0.3


def test_noise() -> None:
    y = torch.full((1, 3, 100, 100), 128.0)
    for share, deviation in ((0.0, 2.0), (1.0, 8.0)):
        noisy = after(NOISY, share, y=y)
        assert noisy.std() == pytest.approx(deviation, rel=0.05)
        assert noisy.mean() == pytest.approx(128, abs=0.2)
        np.testing.assert_array_equal(noisy, noisy.round())


def test_half_stay_as_they_are_and_the_rest_are_of_six_kinds() -> None:
    torch.manual_seed(0)
    drawn = draw_alterations(60_000, torch.device("cpu"))
    changed = {
        "exposed": drawn.gain != 1, "blurred": drawn.blur > 0, "shifted": drawn.rows != 0,
        "zoomed": drawn.zoom != 1, "noisy": drawn.noise > 0, "foreign": drawn.foreign,
    }  # fmt: skip
    for name, which in changed.items():
        assert float(which.float().mean()) == pytest.approx(1 / 12, abs=0.005), name
    ways = torch.stack(list(changed.values())).sum(0)
    assert float((ways == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert int(ways.max()) == 1
    ranges = {
        "gain": (0.6, 1.4), "offset": (-10, 10), "blur": (0, 2.5), "rows": (-5, 5),
        "zoom": (0.96, 1.04), "turn": (-0.7, 0.7), "noise": (0, 8),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        values = getattr(drawn, name)
        assert float(values.min()) == pytest.approx(low, abs=0.01), name
        assert float(values.max()) == pytest.approx(high, abs=0.01), name
