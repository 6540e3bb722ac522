"""The search by flow: what it finds on pictures whose displacement is known."""

import cv2
import numpy as np
import pytest
from support.pictures import smooth_picture

from dsin.runtime.compiled import crew
from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation import side_flow as module
from dsin.runtime.patch_correlation.block_refinement import BLOCK, NEIGHBOURS, displacements
from dsin.runtime.patch_correlation.block_refinement import _cost as cost_of_block
from dsin.runtime.patch_correlation.definition import Matches
from dsin.runtime.patch_correlation.flow_kernels import (
    WINDOW,
    doubts,
    gradients,
    local_systems,
    places,
)
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.patch_correlation.side_flow import (
    LEAST_SIDE,
    Field,
    Views,
    centres,
    find_side_views,
    prepare_flow_side,
    refine_with_flow,
    smooth_flow,
    warped,
)
from dsin.runtime.pictures import Image, from_planes

SEARCH = SearchOptions(flow=True)
SIZE = (120, 176)


def moved(image: Image, down: float, right: float) -> Image:
    """The image whose content lies so much further down and right, and goes on at the border."""
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    size = (image.shape[1], image.shape[0])
    shifted = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(shifted, np.uint8)


def inner(image: Image) -> Image:
    return image[24:-24, 24:-24]


def even_field(down: float, right: float, size: tuple[int, int] = SIZE) -> Field:
    """In pixels of a picture of `size`, as a field of half its size."""
    grid = tuple(len(centres(side // 2)) for side in size)
    return np.full(grid, down / 2, np.float32), np.full(grid, right / 2, np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.0, 5.5), (-1.5, 8.25), (2.0, -7.0)])
def test_a_shift_by_parts_of_a_pixel_is_undone(shift: tuple[float, float]) -> None:
    x = smooth_picture(SIZE, seed=3)
    found = find_side_views(x, prepare_flow_side(moved(x, *shift), SEARCH), SEARCH)
    error = inner(from_planes(found.views.y_flow)).astype(float) - inner(x)
    assert np.median(np.abs(error)) <= 1
    assert found.shown > 0.6
    assert found.matches.row.shape == (6, 8)


def test_what_is_found_depends_neither_on_threads_nor_on_bands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = smooth_picture(SIZE, seed=3)
    side = prepare_flow_side(moved(x, 1, -6.5), SEARCH)
    whole = find_side_views(x, side, SEARCH, threads=1)
    monkeypatch.setattr(module, "BAND", 2)
    parts = find_side_views(x, side, SEARCH, threads=3)
    for one, other in zip(whole.views, parts.views, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.y_flow, from_planes(whole.views.y_flow))
    assert whole.shown == parts.shown


def test_the_other_view_of_another_place_is_not_shown() -> None:
    x, other = smooth_picture(SIZE, seed=3), smooth_picture(SIZE, seed=4)
    found = find_side_views(x, prepare_flow_side(other, SEARCH), SEARCH)
    assert found.shown < 0.2


def test_another_exposure_is_taken_out() -> None:
    x = smooth_picture(SIZE, seed=5)
    dark = np.asarray(moved(x, 0, 4) * 0.6 + 5, np.uint8)
    found = find_side_views(x, prepare_flow_side(dark, SEARCH), SEARCH)
    assert found.shown > 0.6
    assert abs(from_planes(found.views.y_flow).mean() - x.mean()) < 12
    assert abs(dark.mean() - x.mean()) > 30


def test_y_that_is_brought_nearer_by_chance_stays_as_it_is() -> None:
    x = smooth_picture(SIZE, seed=6)
    y = np.asarray(np.clip(moved(x, 0, 4) * 0.96 + 2.0, 0, 255), np.uint8)
    blocks = from_planes(find_side_views(x, prepare_flow_side(y, SEARCH), SEARCH).views.y_blocks)
    assert set(np.unique(blocks)) <= set(np.unique(y).astype(float))


def test_doubt_is_small_where_the_view_matches_and_large_where_it_does_not() -> None:
    x = smooth_picture(SIZE, seed=7)
    y = moved(x, 0, 6)
    y[:, 96:] = smooth_picture(SIZE, seed=8)[:, 96:]
    doubt = find_side_views(x, prepare_flow_side(y, SEARCH), SEARCH).views.doubt[0]
    assert doubt.shape == (2, SIZE[0] // BLOCK, SIZE[1] // BLOCK)
    for of_one in doubt:
        assert 10 * np.median(of_one[2:-2, 2:9]) < np.median(of_one[2:-2, 14:-2])


@pytest.mark.parametrize("picture", [np.zeros, np.ones])
def test_flat_and_smallest_pictures_are_searched(picture: type) -> None:
    flat = np.asarray(picture((LEAST_SIDE, LEAST_SIDE, 3)) * 90, np.uint8)
    found = find_side_views(flat, prepare_flow_side(flat, SEARCH), SEARCH)
    assert np.isfinite(found.views.y_flow).all()
    np.testing.assert_array_equal(from_planes(found.views.y_blocks), flat)
    assert found.shown == 1


def test_noise_gives_finite_results_inside_the_picture() -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2))
    views = find_side_views(x, prepare_flow_side(y, SEARCH), SEARCH).views
    for part in views:
        assert np.isfinite(part).all()
    assert views.y_flow.min() >= 0
    assert views.y_flow.max() <= 255


def test_other_pictures_are_refused() -> None:
    y = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(FrameError, match="multiples of 8"):
        prepare_flow_side(y[:60], SEARCH)
    with pytest.raises(FrameError, match="at least 40"):
        prepare_flow_side(y[:32], SEARCH)
    with pytest.raises(FrameError, match="colour"):
        prepare_flow_side(y[..., 0], SEARCH)
    side = prepare_flow_side(y, SEARCH)
    for x_dec in (y[:56], y.astype(np.float32)):
        with pytest.raises(FrameError, match="x_dec must be an 8-bit picture of the side image's"):
            find_side_views(x_dec, side, SEARCH)


def test_each_pixel_comes_from_where_the_field_says() -> None:
    y = smooth_picture(SIZE, seed=9)
    np.testing.assert_array_equal(
        warped(y, even_field(3, -5))[8:-8, 8:-8], np.roll(y, (-3, 5), (0, 1))[8:-8, 8:-8]
    )


def test_each_pixel_moves_as_the_field_between_its_windows_says() -> None:
    rng = np.random.default_rng(12)
    grid = tuple(len(centres(side // 2)) for side in SIZE)
    field = rng.normal(size=grid).astype(np.float32), rng.normal(size=grid).astype(np.float32)
    row, column = np.empty((2, 30, SIZE[1]), np.float32)
    places(field, row, column, 40, 70)
    rows, columns = (2 * centres(side // 2) - 0.5 for side in SIZE)
    for i, j in ((0, 0), (7, 100), (29, 90), (15, SIZE[1] - 1), (3, 9)):
        across = [np.interp(j, columns, line) for line in field[0]]
        expected = 40 + i + 2 * np.interp(40 + i, rows, across)
        np.testing.assert_allclose(row[i, j], expected, rtol=1e-5)
        across = [np.interp(j, columns, line) for line in field[1]]
        expected = j + 2 * np.interp(40 + i, rows, across)
        np.testing.assert_allclose(column[i, j], expected, rtol=1e-5, atol=1e-4)


def test_blocks_choose_the_least_cost_of_their_candidates() -> None:
    rng = np.random.default_rng(2)
    x, y = smooth_picture((64, 96), seed=10), smooth_picture((64, 96), seed=11)
    patch = (20, 24)
    grid = (4, 4)
    matches = Matches(
        rng.integers(0, 40, grid).astype(np.int32), rng.integers(0, 70, grid).astype(np.int32),
        np.ones(grid, np.float32),
    )  # fmt: skip
    field = even_field(2, -3, (64, 96))
    refined = refine_with_flow(x, y, matches, patch, field)
    shifts = displacements(matches, patch)
    for i, j in np.ndindex(refined.cost.shape):
        a, b = (
            min((n * BLOCK + 4) // side, 3) for n, side in zip((i, j), patch, strict=True)
        )  # fmt: skip
        candidates = [(2, -3 + move, 0.002 * abs(move)) for move in (0, -1, 1)]
        for k, m in NEIGHBOURS:
            if 0 <= a + k < 4 and 0 <= b + m < 4:
                down, right = (int(shift[a + k, b + m]) for shift in shifts)
                candidates.append((down, right, 0.01 if k or m else 0.0))
        costs = [
            cost_of_block(x, y, (i * BLOCK, j * BLOCK), (down, right)) * (1 + penalty)
            for down, right, penalty in candidates
        ]
        np.testing.assert_allclose(refined.cost[i, j], min(costs), rtol=1e-6)


def test_noise_moves_the_field_as_far_as_its_smoothness_allows() -> None:
    """In pixels of half size; with half the smoothness a third as far again."""
    rng = np.random.default_rng(0)
    scene = smooth_picture(SIZE, seed=3)[:, :, 1].astype(np.float32)

    def views(grey: Image) -> Views:
        noisy = (grey + rng.normal(0, 6, grey.shape)).astype(np.float32)
        sizes = ((SIZE[1] // n, SIZE[0] // n) for n in (2, 4))
        half, quarter = (cv2.resize(noisy, s, interpolation=cv2.INTER_AREA) for s in sizes)
        return Views(np.asarray(half), np.asarray(quarter))

    x, y = views(scene), views(np.roll(scene, 6, 1))
    grid = tuple(len(centres(side)) for side in x.quarter.shape)
    start = np.zeros(grid, np.float32), np.full(grid, 1.5, np.float32)
    with crew(1) as share:
        down, right = (part[6:-6, 6:-6] for part in smooth_flow(x, y, start, share))
    assert (down.mean(), right.mean()) == pytest.approx((0, 3), abs=0.05)
    assert (down.std(), right.std()) == pytest.approx((0.0152, 0.0230), rel=0.08)


def test_local_systems_are_the_sums_of_their_windows() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.uniform(0, 255, (28, 36)).astype(np.float32) for _ in range(2))
    slopes = np.empty_like(x), np.empty_like(x)
    gradients(x, *slopes)
    np.testing.assert_allclose(slopes, np.gradient(x), rtol=1e-5, atol=1e-4)
    field = np.full((6, 8), 1.0, np.float32), np.full((6, 8), -2.0, np.float32)
    systems = np.empty((6, 6, 8), np.float32)
    local_systems(x, slopes, y, field, systems, 0, 6)
    top, left = 8, 12  # of the window in row 2, column 3
    window = slice(top, top + WINDOW), slice(left, left + WINDOW)
    d = y[top + 1 : top + 1 + WINDOW, left - 2 : left - 2 + WINDOW] - x[window]
    down, right = slopes[0][window], slopes[1][window]

    def product(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() - 0.9 * a.sum() * b.sum() / WINDOW**2)

    rest = np.sqrt(product(d, d)) / WINDOW + 3
    pairs = ((down, down), (down, right), (right, right), (d, down), (d, right))
    expected = [*(product(*pair) for pair in pairs), 1 / rest**2]
    np.testing.assert_allclose(systems[:, 2, 3], expected, rtol=2e-3, atol=0.5)


def test_doubts_forgive_brightness_but_not_content() -> None:
    x = np.random.default_rng(4).uniform(50, 200, (24, 32)).astype(np.float32)
    field = np.zeros((5, 7), np.float32), np.zeros((5, 7), np.float32)
    doubt, variance = np.empty((6, 8), np.float32), np.empty((6, 8), np.float32)
    doubts(x, x + 10, field, doubt, variance, 0, 6)
    np.testing.assert_allclose(doubt, 10.0, rtol=1e-3)
    np.testing.assert_allclose(variance[2, 3], x[6:14, 10:18].var(), rtol=1e-3)
    doubts(x, -x, field, doubt, variance, 0, 6)
    assert (doubt > 3 * variance).all()
