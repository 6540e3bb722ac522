"""Positions, scores and blocks that the searches found once, and find for ever."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from golden.make_search import FILE, PATCH, SEARCHES, refined, views

from dsin.runtime.patch_correlation import Matches, match
from dsin.runtime.patch_correlation.block_refinement import refine, refine_reference, side_planes
from dsin.runtime.patch_correlation.definition import MEAN, match_reference
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.pictures import from_planes

STORED: dict[str, dict[str, Any]] = json.loads(FILE.read_text())


@pytest.mark.parametrize("search", [match_reference, match])
@pytest.mark.parametrize("name", SEARCHES)
def test_patches_are_found_where_they_were(name: str, search: Any) -> None:
    x, y_dec, _ = views()
    found = search(x, y_dec, patch=PATCH, **SEARCHES[name])
    np.testing.assert_array_equal(found.row, STORED[name]["row"])
    np.testing.assert_array_equal(found.col, STORED[name]["col"])
    tolerance = {"rtol": 1e-4} if name == "l2" else {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(found.score, STORED[name]["score"], **tolerance)


def stored_matches() -> Matches:
    stored = STORED["pearson"]
    row, col = (np.array(stored[name], np.int32) for name in ("row", "col"))
    return Matches(row, col, np.array(stored["score"], np.float32))


@pytest.mark.parametrize("search", [refine_reference, refine])
def test_blocks_are_refined_as_they_were(search: Any) -> None:
    x, y_dec, y = views()
    found, expected = refined(search(x, y_dec, stored_matches(), PATCH), y, y_dec), STORED["blocks"]
    np.testing.assert_allclose(found.pop("cost"), expected["cost"], rtol=0, atol=2e-3)
    assert found == {name: value for name, value in expected.items() if name != "cost"}


def test_both_side_images_are_put_together_from_the_blocks() -> None:
    x, y_dec, y = views()
    planes = side_planes(x, y_dec, y, stored_matches(), PATCH)
    for image, name in ((planes.y_syn, "y_syn"), (planes.y_dec_syn, "y_dec_syn")):
        pasted = from_planes(image).astype(np.uint8)
        assert hashlib.sha256(np.ascontiguousarray(pasted)).hexdigest() == STORED["blocks"][name]


@pytest.mark.parametrize("search", [match_reference, match])
@pytest.mark.parametrize(("step", "flat"), [(0.002, True), (0.005, False)])
def test_a_patch_is_flat_below_some_thousandths_of_a_level_in_one_pixel(
    step: float, flat: bool, search: Any
) -> None:
    """Its norm is 6e-5 or 15e-5 then, on both sides of the threshold. Flat is the mean colour."""
    x = np.full((40, 48, 3), MEAN, np.float32)
    x[5, 7] += np.float32(step)
    y = np.random.RandomState(1).randint(0, 256, (40, 48, 3)).astype(np.float32)
    score = search(x, y, patch=PATCH, prior=False).score[0, 0]
    assert (score == 0) == flat


def test_the_default_search_is_the_papers() -> None:
    assert SearchOptions() == SearchOptions(
        patch=(20, 24), measure="pearson", prior=True, stretched=False, off_centre=False
    )


@pytest.mark.parametrize("search", [refine_reference, refine])
@pytest.mark.parametrize(
    ("neighbour", "tried"),
    [((0, 1), True), ((2, 1), True), ((1, 0), True), ((1, 2), True), ((0, 0), False)],
)
def test_a_block_may_lie_where_a_patch_above_below_left_or_right_does(
    neighbour: tuple[int, int], tried: bool, search: Any
) -> None:
    """The middle one of 3x3 patches, whose content is 8 rows down and 8 columns to the left."""
    y = np.random.RandomState(3).randint(0, 256, (72, 72, 3)).astype(np.uint8)
    x = y.copy()
    x[28:44, 28:44] = y[36:52, 20:36]
    row, col = (np.arange(3, dtype=np.int32) * 24 + np.zeros((3, 3), np.int32) for _ in range(2))
    row = np.ascontiguousarray(row.T)
    row[neighbour] += 8
    col[neighbour] -= 8
    found = search(x, y, Matches(row, col, np.ones((3, 3), np.float32)), (24, 24))
    assert ((found.down[4, 4], found.right[4, 4]) == (8, -8)) == tried
    assert (found.cost[4, 4] == 0) == tried
