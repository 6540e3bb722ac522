"""Refinement of matches: the kernel against the definition, and what it is for."""

import numpy as np
import numpy.typing as npt
import pytest
from conftest import textured_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation import Matches, match
from dsin.runtime.patch_correlation.block_refinement import (
    BLOCK,
    Refined,
    paste,
    refine,
    refine_reference,
)

PATCH = (20, 24)


def random_matches(rng: np.random.Generator, size: tuple[int, int]) -> Matches:
    """Positions of whole or partial patches anywhere in the image."""
    grid = -(-size[0] // PATCH[0]), -(-size[1] // PATCH[1])
    row = rng.integers(0, size[0] - 8, grid, dtype=np.int32)
    col = rng.integers(0, size[1] - 8, grid, dtype=np.int32)
    return Matches(row, col, np.zeros(grid, np.float32))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(3, 7), columns=st.integers(3, 9), seed=st.integers(0, 2**16))
def test_the_kernel_is_the_definition(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = rows * BLOCK, columns * BLOCK
    x, y = (rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(2))
    matches = random_matches(rng, size)
    expected, got = (f(x, y, matches, PATCH) for f in (refine_reference, refine))
    np.testing.assert_array_equal(got.down, expected.down)
    np.testing.assert_array_equal(got.right, expected.right)
    np.testing.assert_allclose(got.cost, expected.cost, rtol=1e-6)
    assert paste(y, got).shape == y.shape  # every block lies inside


def test_each_block_finds_its_own_depth() -> None:
    """The lower half of a patch lies 2 pixels further than the upper half."""
    x, _ = textured_pair(40, 96, 3)
    y = x.copy()
    y[:, 2:] = x[:, :-2]
    far = np.roll(x, 4, axis=1)
    y[8:16] = far[8:16]
    matches = match(x, y, patch=PATCH)
    refined = refine(x, y, matches, PATCH)
    assert (refined.right[3, 2:-2] == 2).all()
    error = np.abs(paste(y, refined).astype(int) - x)[:, 24:-24].mean()
    assert error < 4


def test_paste_copies_blocks() -> None:
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    down, right = np.array([[8, 0], [-8, 0]], np.int32), np.array([[0, -8], [8, 0]], np.int32)
    pasted = paste(image, Refined(down, right, np.zeros((2, 2), np.float32)))
    np.testing.assert_array_equal(pasted[:8, :8], image[8:, :8])
    np.testing.assert_array_equal(pasted[:8, 8:], image[:8, :8])
    np.testing.assert_array_equal(pasted[8:, :8], image[:8, 8:])


def test_unfit_images_are_refused() -> None:
    x = np.zeros((40, 48, 3), np.uint8)
    matches = match(x, x, patch=PATCH)
    images: list[npt.NDArray[np.generic]] = [x[:36], x.astype(np.float32), x[:, :, :2]]
    for image in images:
        with pytest.raises(FrameError):
            refine(image, image, matches, PATCH)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="matches"):
        refine(x[:24], x[:24], random_matches(np.random.default_rng(0), (80, 48)), PATCH)


def test_a_channel_without_any_difference_hides_no_winner() -> None:
    """The cost is then whole before the last channel, and must not be taken for a larger one."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        x, y = (rng.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(2))
        x[..., 2] = y[..., 2] = 7
        corner = np.zeros((2, 1), np.int32)
        matches = Matches(corner, corner, np.ones((2, 1), np.float32))
        expected, got = (f(x, y, matches, PATCH) for f in (refine_reference, refine))
        np.testing.assert_array_equal(got.right, expected.right)
        np.testing.assert_array_equal(got.cost, expected.cost)
