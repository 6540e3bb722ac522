"""The search: `match` finds what the definition finds, and so does the brute force of training."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation import definition as pc
from dsin.runtime.patch_correlation import patch_kernels, patch_search
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.paper.si_finder import Matches as TorchMatches
from dsin.training.paper.si_finder import SideInformationFinder, gather

Image = np.ndarray[Any, Any]
HEIGHT, WIDTH = 80, 144


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def smooth(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image:
    blurred = cv2.GaussianBlur(noise(seed, height, width).astype(np.float32), (0, 0), 3)
    return np.clip(128 + 6 * (blurred - 128), 0, 255).astype(np.float32)


def shifted() -> tuple[Image, Image]:
    """A scene and what another camera sees of it: moved, darker, noisy."""
    x = smooth(1)
    y = 0.8 * np.roll(x, (2, -9), (0, 1)) + 0.05 * noise(2)
    return x, y.astype(np.float32)


def stripes() -> tuple[Image, Image]:
    """Texture that repeats every 12 columns: exact ties far and wide without a prior."""
    column = (np.arange(WIDTH) // 6 % 2 * 180 + 30).astype(np.uint8)
    picture = np.broadcast_to(column[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    return picture, picture


def sky() -> tuple[Image, Image]:
    """A gradient of a few grey levels above a structured ground."""
    x = smooth(3)
    x[:60] = 200 + np.linspace(0, 3, WIDTH)[None, :, None]
    return np.round(x).astype(np.uint8), np.round(np.roll(x, 5, 1)).astype(np.uint8)


def with_nan(image: Image) -> Image:
    """Numbers that no camera gives."""
    bad = image.astype(np.float32)
    bad[3, 4:9, 1] = np.nan, np.inf, -np.inf, 1e30, -7
    return bad


def nearly_flat() -> tuple[Image, Image]:
    """Colours around those without variance (H1 = H2 = H3), at distances that float32 blurs."""
    rng = np.random.default_rng(10)
    dull = np.asarray(pc.MEAN) + np.outer([0, 80, -60], pc.STD) * [[1, 0, 1]] / 73
    areas = dull[np.arange(WIDTH) // 48 % 3][None].repeat(HEIGHT, 0)
    strength = 10.0 ** -rng.integers(0, 7, (HEIGHT // 20, WIDTH // 24)).repeat(20, 0).repeat(24, 1)
    x, y = (areas + strength[..., None] * rng.normal(size=areas.shape) for _ in range(2))
    y[:40] = x[1:41]
    return x.astype(np.float32), y.astype(np.float32)


INPUTS: dict[str, Callable[[], tuple[Image, Image]]] = {
    "shifted": shifted,
    "unrelated noise": lambda: (noise(4), noise(5)),
    "repeated texture": stripes,
    "sky": sky,
    "nearly flat": nearly_flat,
    "odd size": lambda: tuple(view[:71, 5:142] for view in shifted()),  # type: ignore[dict-item]
    "not numbers": lambda: (with_nan(smooth(1)), with_nan(smooth(1)[::-1])),
    "constant": lambda: (np.full((HEIGHT, WIDTH, 3), 90, np.uint8),) * 2,
    "one of them constant": lambda: (noise(6), np.full((HEIGHT, WIDTH, 3), 17, np.uint8)),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"prior": False},
    {"off_centre": True},
    {"measure": "l2"},
    {"patch": (10, 12)},
    {"patch": (16, 18)},
]


def searches() -> list[Any]:
    """Each input with each option; where an option changes little for an input, that is slow."""
    return [
        pytest.param(
            name, options, id=f"{name}-{options}",
            marks=() if name in ("shifted", "odd size", "nearly flat")
            or not set(options) & {"off_centre", "patch"} else pytest.mark.slow,
        )
        for name in INPUTS for options in OPTIONS
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), searches())
def test_fast_search_finds_what_the_definition_finds(name: str, options: dict[str, Any]) -> None:
    check_named(name, **options)


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("together", [True, False])
def test_patches_with_too_many_survivors_are_found_as_well(
    together: bool, name: str, prior: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has variance is left over, with the worst of all scores to begin with."""
    pruned = patch_kernels.search_row

    def leave_over(i: int, *arguments: Any) -> None:
        pruned(i, *arguments)
        score, state = arguments[-2][2], arguments[-1]
        varied = (score[i] != 0) | (state[i] != patch_kernels.DONE)
        state[i] = np.where(varied, patch_kernels.CROWDED, patch_kernels.DONE)
        score[i][varied] = -1

    monkeypatch.setattr(patch_search, "search_row", leave_over)
    if together:
        monkeypatch.setattr(patch_search, "search_one", lambda *_: None)
    else:
        monkeypatch.setattr(patch_search, "MOST_LISTED", 1.0)
    check_named(name, prior=prior)


def test_patches_with_too_many_near_ties_are_compared_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pruned = patch_kernels.search_row

    def give_up(i: int, *arguments: Any) -> None:
        pruned(i, *arguments)
        score, state = arguments[-2][2], arguments[-1]
        state[i][score[i] != 0] = patch_kernels.TIED

    monkeypatch.setattr(patch_search, "search_row", give_up)
    for name in INPUTS:
        for prior in (True, False):
            check_named(name, prior=prior)


def check(x: Image, y: Image, **options: Any) -> None:
    """`match` finds what the definition finds."""
    same(pc.match(x, y, **options), pc.match_reference(x, y, **options))


def check_named(name: str, **options: Any) -> None:
    """The same for one of the inputs, whose definition is computed once."""
    same(pc.match(*INPUTS[name](), **options), defined(name, tuple(sorted(options.items()))))


@cache
def defined(name: str, options: tuple[tuple[str, Any], ...]) -> pc.Matches:
    """What the definition finds in one of the inputs; `prior` is on unless it is switched off."""
    if ("prior", True) in options:
        return defined(name, tuple(option for option in options if option[0] != "prior"))
    return pc.match_reference(*INPUTS[name](), **dict(options))


def same(found: pc.Matches, expected: pc.Matches) -> None:
    np.testing.assert_array_equal(found.row, expected.row)
    np.testing.assert_array_equal(found.col, expected.col)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6, rtol=2e-6)
    assert (found.row.dtype, found.col.dtype, found.score.dtype) == (np.int32, np.int32, np.float32)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.floats(1, 4),
    cols=st.floats(1, 4),
    patch=st.tuples(st.integers(2, 20), st.integers(2, 24)),
    levels=st.integers(1, 6),
    prior=st.booleans(),
)
def test_any_size_and_few_grey_levels(
    seed: int, rows: int, cols: int, patch: tuple[int, int], levels: int, prior: bool
) -> None:
    """Few levels in small patches make for many ties."""
    rng = np.random.default_rng(seed)
    shape = (int(rows * patch[0]), int(cols * patch[1]), 3)
    x, y = (rng.integers(0, levels, shape).astype(np.uint8) * 40 for _ in range(2))
    check(x, y, patch=patch, prior=prior)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    contrast=st.floats(1e-7, 3),
    purple=st.floats(-90, 90),
    rounded=st.booleans(),
)
def test_any_contrast(seed: int, contrast: float, purple: float, rounded: bool) -> None:
    """Down to windows without variance, around a colour that is dull in H-space."""
    rng = np.random.default_rng(seed)
    colour = np.asarray(pc.MEAN) + np.multiply([purple, 0, purple], pc.STD) / 73
    x, y = (colour + contrast * rng.normal(size=(30, 41, 3)) for _ in range(2))
    y[:20] = x[3:23]
    x, y = (np.round(view) if rounded else view for view in (x, y))
    check(x.astype(np.float32), y.astype(np.float32), patch=(8, 9))


def test_real_frames(kitti_pair: tuple[Image, Image]) -> None:
    """Compared by score at every position of three patches: the whole definition would be slow."""
    x, y = (cv2.GaussianBlur(view[107:267, 9:393], (0, 0), 1.5) for view in kitti_pair)
    found = pc.match(x, y)
    brute = SideInformationFinder(SearchOptions()).brute_force(planes(x), planes(y))
    expected = [part[0].numpy() for part in brute]
    best = pc.scores_at(x, y, *expected[:2])
    reached = pc.scores_at(x, y, found.row, found.col)
    assert (reached >= best - 1e-9).all()
    different = (found.row != expected[0]) | (found.col != expected[1])
    assert different.mean() < 0.01
    np.testing.assert_allclose(found.score, reached, atol=2e-6)


def planes(image: Image) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))


@pytest.mark.parametrize("measure", ["pearson", "l2"])
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("off_centre", [True, False])
def test_training_searches_the_same(measure: Any, prior: bool, off_centre: bool) -> None:
    x, y = shifted()
    finder = SideInformationFinder(
        SearchOptions(measure=measure, prior=prior, off_centre=off_centre)
    )
    brute = finder.brute_force(planes(x), planes(y))
    found = pc.match(x, y, measure=measure, prior=prior, off_centre=off_centre)
    np.testing.assert_array_equal(found.row, brute.row[0])
    np.testing.assert_array_equal(found.col, brute.col[0])
    np.testing.assert_allclose(
        found.score, brute.score[0], rtol=2e-4 if measure == "l2" else 0, atol=2e-6
    )


def test_a_flat_patch_stays_and_scores_zero() -> None:
    """R and B at the mean's distance and G at its mean make H1 = H2 = H3: no joint variance."""
    y = smooth(7)
    x = y.copy()
    x[20:40, 48:72] = pc.MEAN
    for search in (pc.match, pc.match_reference):
        found = search(x, y)
        assert (found.row[1, 2], found.col[1, 2], found.score[1, 2]) == (20, 48, 0)


def test_partial_patches_fill_what_is_left() -> None:
    """Compared as the whole patch that ends at the edge; the position is that of the piece."""
    x = smooth(11, 67, 101)
    found = pc.patch_correlation(x, x, x)
    assert found.row[:, 0].tolist() == [0, 20, 40, 60]
    assert found.col[0].tolist() == [0, 24, 48, 72, 96]
    np.testing.assert_array_equal(found.y_syn, x)
    y = np.roll(x, (-3, 4), (0, 1))
    moved = pc.match(x, y, prior=False)
    assert (moved.row[1:-1, 1:-1] == np.array([[17], [37]])).all()
    assert (moved.col[1:-1, 1:-1] == [28, 52, 76]).all()
    np.testing.assert_allclose(
        pc.scores_at(x, y, moved.row, moved.col, prior=False), moved.score, atol=2e-6
    )


def test_a_batch_is_its_images_one_by_one() -> None:
    x, y = (np.stack(views) for views in zip(shifted(), sky(), strict=True))
    whole = pc.patch_correlation(x, y, y)
    for n in range(2):
        single = pc.patch_correlation(x[n], y[n], y[n])
        for got, wanted in zip(whole, single, strict=True):
            np.testing.assert_array_equal(got[n], wanted)
    with pytest.raises(FrameError, match="2x80x144x3, 1x80x144x3"):
        pc.patch_correlation(x, y[:1], y)


def test_numbers_that_no_camera_gives_have_defined_levels() -> None:
    clean = smooth(1)
    clean[3, 4:9, 1] = 0, 255, 0, 255, 0
    for search in (pc.match, pc.match_reference):
        for got, wanted in zip(
            search(with_nan(smooth(1)), clean), search(clean, clean), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_ties_go_to_the_first_in_raster_order() -> None:
    found = pc.match(*stripes(), prior=False)
    assert (found.row == 0).all()
    assert (found.col == 0).all()


def test_the_prior_peaks_at_the_own_place_or_one_beside_it() -> None:
    down, across = pc.prior_weights((80, 96), (20, 24))
    assert down.argmax(1).tolist() == [0, 20, 40, 60]
    assert across.argmax(1).tolist() == [0, 24, 48, 72]
    assert down.max() == across.max() == 1
    # Half at half the width: FWHM is half the image.
    assert down[0, 20] == pytest.approx(0.5)
    down, across = pc.prior_weights((80, 96), (20, 24), off_centre=True)
    assert down.argmax(1).tolist() == [1, 21, 41, 60]
    assert across.argmax(1).tolist() == [1, 25, 49, 72]


@pytest.mark.parametrize("stretched", [False, True])
def test_synthesis_is_that_of_training(stretched: bool) -> None:
    y = noise(8, 80, 96)
    rng = np.random.default_rng(9)
    row = rng.integers(0, 61, (4, 4)).astype(np.int32)
    col = rng.integers(0, 73, (4, 4)).astype(np.int32)
    matches = pc.Matches(row, col, np.zeros((4, 4), np.float32))
    found = pc.synthesise(y, matches, stretched=stretched)
    tensors = (torch.from_numpy(part)[None].long() for part in (row, col, row))
    expected = gather(planes(y), TorchMatches(*tensors), (20, 24), stretched=stretched)
    np.testing.assert_allclose(planes(found), expected, atol=1e-4)
    assert found.dtype == (np.float32 if stretched else np.uint8)


def test_preparing_and_threads_change_nothing() -> None:
    x, y = shifted()
    expected = pc.match(x, y, threads=1)
    prepared = pc.prepare(y)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(pc.match, x, y, prepared=prepared, threads=1 + n % 3) for n in range(8)]
    for run in runs:
        for got, wanted in zip(run.result(), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("search", [pc.match, pc.match_reference])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.astype(np.float64), "uint8 or float32"),
        (lambda image: image.astype(np.uint16), "uint8 or float32"),
        (lambda image: image.tolist(), "uint8 or float32"),
        (lambda image: image[..., 0], "height x width x 3"),
        (lambda image: image.transpose(2, 0, 1), "height x width x 3"),
        (lambda image: image[:19], "144x19, smaller than a patch of 24x20"),
        (lambda image: image[:0], "smaller than a patch of 24x20"),
        (lambda image: image[:, :23], "23x80, smaller than a patch of 24x20"),
    ],
)
def test_bad_images_are_refused(search: Any, spoil: Any, message: str) -> None:
    good = noise(1)
    with pytest.raises(FrameError, match=message):
        search(spoil(good), good)
    with pytest.raises(FrameError, match=message):
        search(good, spoil(good))


@pytest.mark.parametrize("search", [pc.match, pc.match_reference])
def test_images_of_two_sizes_are_refused(search: Any) -> None:
    with pytest.raises(FrameError, match="x_dec is 144x80 but y_dec is 96x80"):
        search(noise(1), noise(1, 80, 96))


def test_a_patch_without_pixels_is_refused() -> None:
    for patch, shown in (((0, 24), "24x0"), ((20, 0), "0x20")):
        with pytest.raises(FrameError, match=f"a patch of {shown} has no pixels"):
            pc.match(noise(1), noise(2), patch=patch)


def test_stretched_pieces_must_divide_the_picture() -> None:
    nowhere = np.zeros((4, 4), np.int32)
    matches = pc.Matches(nowhere, nowhere, nowhere.astype(np.float32))
    for height, width in ((79, 96), (80, 95)):
        with pytest.raises(FrameError) as caught:
            pc.synthesise(noise(1, height, width), matches, stretched=True)
        assert str(caught.value) == (
            f"y is {width}x{height}: stretched patches of 24x20 must divide it"
        )


def test_fewer_windows_are_compared_in_full_with_the_prior() -> None:
    x, y = shifted()
    counts = patch_search.evaluations(x, y)
    assert counts.shape == pc.match(x, y).row.shape
    assert counts.min() >= 1
    without = patch_search.evaluations(x, y, prior=False)
    assert not np.array_equal(counts, without)
    with pytest.raises(FrameError, match="x_dec is 144x80 but y_dec is 96x80"):
        patch_search.evaluations(noise(1), noise(1, 80, 96))


def test_what_was_prepared_for_another_search_is_refused() -> None:
    x, y = shifted()
    with pytest.raises(FrameError, match="prepare anew"):
        pc.match(x, y, patch=(10, 12), prepared=pc.prepare(y))


def test_margins_are_those_of_the_patches_that_are_asked_for() -> None:
    from dsin.runtime.patch_correlation.patch_search import _patch_margins

    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, (40, 60, 3)) / np.arange(1, 61)[:, None]).astype(np.float32)
    places = np.array([[0, 1], [1, 2]])
    together = _patch_margins(x, (20, 20), places, 3)
    for (row, col), margin in zip(20 * places, together, strict=True):
        alone = x[row : row + 20, col : col + 20]
        assert margin == _patch_margins(alone, (20, 20), np.zeros((1, 2), np.int64), 1)[0]
