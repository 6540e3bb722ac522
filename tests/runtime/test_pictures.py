"""Which pictures are taken, and what is said of the others."""

import re

import numpy as np
import pytest

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import (
    centre_crop,
    check_frame,
    fill_planes,
    from_planes,
    picture_of,
    to_uint8,
)


def picture(width: int, height: int) -> np.ndarray:
    """Of no memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (65535, 1), (4000, 3000), (3000, 4000), (4096, 4096)]
)
def test_any_size_is_taken_up_to_sixteen_megapixels(width: int, height: int) -> None:
    check_frame(picture(width, height))


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (70000, 4, "frame of 70000x4 is larger than 65535 pixels one way"),
        (4, 70000, "frame of 4x70000 is larger than 65535 pixels one way"),
        (4096, 4097, "frame of 4096x4097 has more than 16777216 pixels"),
        (0, 4, "frame of 0x4 is empty"),
    ],
)
def test_the_reason_of_a_refusal_is_the_true_one(width: int, height: int, reason: str) -> None:
    with pytest.raises(FrameError, match=f"^{re.escape(reason)}$"):
        check_frame(picture(width, height))


def test_crops_begin_half_a_pixel_before_the_middle_where_there_is_none() -> None:
    rows, columns = np.indices((7, 10))
    found = centre_crop(np.stack([rows, columns, rows], 2).astype(np.uint8), (4, 5))
    assert found[[0, -1], [0, -1], :2].tolist() == [[1, 2], [4, 6]]


@pytest.mark.parametrize("truncate", [False, True])
def test_planes_become_the_picture_that_the_slow_way_gives(truncate: bool) -> None:
    rng = np.random.default_rng(1)
    planes = rng.uniform(-20, 280, (1, 3, 24, 40)).astype(np.float32)
    planes[0, 0, :4, :5] = np.arange(20).reshape(4, 5) + 0.5  # halves go to the even neighbour
    planes[0, 0, 5, :4] = [-0.5, -1.5, 255.5, 300.0]
    found = picture_of(planes, (21, 33), truncate=truncate)
    np.testing.assert_array_equal(found, to_uint8(from_planes(planes), (21, 33), truncate=truncate))
    assert found[0, :3, 0].tolist() == ([0, 1, 2] if truncate else [0, 2, 2])
    assert found[5, :4, 0].tolist() == [0, 0, 255, 255]
    assert found.flags.c_contiguous


@pytest.mark.parametrize("size", [(1, 1), (4, 1), (1, 4), (2, 3)])
def test_a_picture_may_have_a_few_pixels(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(1).uniform(-20, 280, (1, 3, 8, 8)).astype(np.float32)
    expected = to_uint8(from_planes(planes), size, truncate=False)
    np.testing.assert_array_equal(picture_of(planes, size, truncate=False), expected)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_planes_are_filled_from_a_picture(size: tuple[int, int], dtype: type) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    wide = np.zeros((3, size[0] + 2, size[1]), dtype)
    fill_planes(image, wide[:, 1:-1])
    np.testing.assert_array_equal(wide[:, 1:-1], image.transpose(2, 0, 1))
    assert not wide[:, 0].any()
    assert not wide[:, -1].any()
