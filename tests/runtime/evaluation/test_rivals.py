"""Rival codecs see the colours of a picture, at the sides of any size and at their own settings."""

import cv2
import numpy as np
import pytest

from dsin.runtime.evaluation.rivals import rivals
from dsin.runtime.evaluation.video_rivals import video_rivals
from dsin.runtime.pictures import Image

STILL = ["hevc", "avif", "jpeg2000", "webp", "jpeg"]
VIDEO = ["hevc-lowdelay", "av1-lowdelay", "h264-lowdelay"]


def colours(height: int, width: int) -> Image:
    """Smooth, with strong and dark colours: another matrix or range would move them by 5 to 20."""
    small = np.array([[[220, 30, 40], [30, 200, 60]], [[20, 40, 210], [240, 240, 235]]], np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def shifts(decoded: Image, picture: Image) -> list[float]:
    """Mean error of each colour, in levels, of the four quarters of a picture."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    error = decoded.astype(float) - picture
    quarters = (error[y : y + height, x : x + width] for y in (0, height) for x in (0, width))
    return [float(value) for quarter in quarters for value in quarter.mean((0, 1))]


@pytest.mark.parametrize("name", STILL)
def test_colours_stay_where_they_are(name: str) -> None:
    picture = colours(97, 131)
    (rival,) = rivals([name])
    _, decoded = rival.code(picture, rival.ladder[-1])
    assert max(map(abs, shifts(decoded, picture))) < 2


@pytest.mark.parametrize("name", VIDEO)
def test_colours_of_a_video_stay_where_they_are(name: str) -> None:
    picture = colours(97, 131)
    (rival,) = video_rivals([name])
    (coded,) = rival.code([picture], rival.settings[-1])
    assert coded.picture.shape == picture.shape
    assert max(map(abs, shifts(coded.picture, picture))) < 3
    # No border of another colour where sides were made even.
    assert np.abs(coded.picture[-1].astype(float) - picture[-1]).mean() < 6
    assert np.abs(coded.picture[:, -1].astype(float) - picture[:, -1]).mean() < 6
