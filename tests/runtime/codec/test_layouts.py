"""Pictures and features in the layouts of float and 8-bit networks."""

import numpy as np

from dsin.runtime.codec.layouts import (
    as_levels,
    as_picture,
    cut,
    size_of,
    with_level_pictures,
)
from dsin.runtime.pictures import to_planes

PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
LEVELS, PLANES = PICTURE[None], to_planes(PICTURE)


def test_both_layouts_say_the_same() -> None:
    for tensor in (LEVELS, PLANES):
        assert size_of(tensor) == (16, 24)
        assert size_of(cut(tensor, 8, 16)) == (8, 16)
        np.testing.assert_array_equal(as_picture(cut(tensor, 8, 16), (7, 15)), PICTURE[:7, :15])
        np.testing.assert_array_equal(as_levels(tensor), LEVELS)


def test_a_picture_has_memory_of_its_own() -> None:
    assert not np.shares_memory(as_picture(LEVELS, (16, 24)), PICTURE)


def test_only_pictures_become_levels() -> None:
    """Also where a doubt is as wide as a picture has colours."""
    doubt = np.zeros((1, 2, 2, 3), np.float32)
    found = with_level_pictures({"y_flow": PLANES, "doubt": doubt})
    np.testing.assert_array_equal(found["y_flow"], LEVELS)
    assert found["doubt"] is doubt
