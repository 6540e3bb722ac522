"""Pictures and features in the layouts of float and 8-bit networks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dsin.runtime.codec.layouts import (
    as_levels,
    as_picture,
    as_planes,
    cut,
    for_network,
    size_of,
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


def test_levels_become_the_planes_of_the_same_picture() -> None:
    planes = as_planes(LEVELS)
    np.testing.assert_array_equal(planes, PLANES)
    assert planes.dtype == np.float32
    assert as_planes(planes) is planes


@pytest.mark.parametrize("given", [LEVELS, PLANES], ids=["levels", "planes"])
def test_only_pictures_are_changed_for_a_network(given: npt.NDArray[Any]) -> None:
    """Not a doubt, also where it is as wide as a picture has colours."""
    doubt = np.zeros((1, 2, 2, 3), np.float32)
    for levels, expected in ((True, LEVELS), (False, PLANES)):
        found = for_network({"y_flow": given, "doubt": doubt}, levels=levels)
        np.testing.assert_array_equal(found["y_flow"], expected)
        assert found["y_flow"].dtype == expected.dtype
        assert found["doubt"] is doubt
