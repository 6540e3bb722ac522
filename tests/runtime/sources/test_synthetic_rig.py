"""The synthetic rig is repeatable, and its disparity is the truth about its pictures."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from dsin.runtime.errors import FrameError
from dsin.runtime.sources.synthetic_rig import (
    BASELINE_M,
    CAMERA_HEIGHT_M,
    FOCAL_PX,
    RIGHT_CAMERA_GAIN,
    SyntheticRig,
)

Picture = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def rig() -> SyntheticRig:
    return SyntheticRig(width=621, height=188, frames=30, seed=3)


def seen_from_the_left(right: Picture, disparity: Picture) -> Picture:
    """The right view, moved to where the left camera sees the same points."""
    rows, columns = np.mgrid[: disparity.shape[0], : disparity.shape[1]].astype(np.float32)
    return np.asarray(cv2.remap(right, columns - disparity, rows, cv2.INTER_LINEAR), np.float32)


def visible_in_both(rig: SyntheticRig, number: int, disparity: Picture) -> npt.NDArray[np.bool_]:
    """Where the right view has the same disparity: no occlusion, within the picture, no edge."""
    rows, columns = np.mgrid[: disparity.shape[0], : disparity.shape[1]]
    there = np.rint(columns - disparity).astype(int)
    inside = (there >= 1) & (there < disparity.shape[1] - 1)
    theirs = rig.disparity(number, "right")[rows, there.clip(0, disparity.shape[1] - 1)]
    flat = np.abs(cv2.Laplacian(disparity, cv2.CV_32F)) < 0.2
    return inside & flat & (np.abs(theirs - disparity) < 0.5)


def test_a_rig_is_its_seed(rig: SyntheticRig) -> None:
    again = SyntheticRig(width=621, height=188, frames=30, seed=3)
    first, second = rig.frame(7), again.frame(7)
    assert np.array_equal(first.left, second.left)
    assert np.array_equal(first.right, second.right)
    assert first.disparity is not None
    assert np.array_equal(first.disparity, rig.disparity(7))
    other = SyntheticRig(width=621, height=188, frames=30, seed=4)
    assert not np.array_equal(first.left, other.view(7, "left"))


def test_frames_come_in_any_order_and_one_view_at_a_time(rig: SyntheticRig) -> None:
    late, early = rig.view(20, "right"), rig.view(2, "right")
    assert np.array_equal(rig.frame(20).right, late)
    assert np.array_equal(rig.frame(2).right, early)
    assert not np.array_equal(late, early)


def test_iteration_yields_every_frame_at_ten_per_second() -> None:
    frames = list(SyntheticRig(width=64, height=48, frames=3))
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert [frame.timestamp_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    assert all(frame.left.shape == frame.right.shape == (48, 64, 3) for frame in frames)
    assert all(frame.left.dtype == np.uint8 for frame in frames)


@pytest.mark.parametrize("number", [0, 11, 23])
def test_the_right_view_moved_by_the_disparity_is_the_left_view(
    rig: SyntheticRig, number: int
) -> None:
    frame = rig.frame(number)
    assert frame.disparity is not None
    visible = visible_in_both(rig, number, frame.disparity)
    assert visible.mean() > 0.7
    left = cv2.GaussianBlur(frame.left.astype(np.float32), (0, 0), 1)
    right = cv2.GaussianBlur(frame.right.astype(np.float32) / RIGHT_CAMERA_GAIN, (0, 0), 1)

    def difference(extra: float) -> float:
        moved = seen_from_the_left(right, frame.disparity + np.float32(extra))
        return float(np.abs(left - moved)[visible].mean())

    exact = difference(0)
    assert exact < 3
    assert min(difference(0.5), difference(-0.5)) > 1.15 * exact
    assert min(difference(2), difference(-2)) > 2 * exact


def test_the_road_has_the_disparity_of_a_plane_below_the_camera(rig: SyntheticRig) -> None:
    row, column = rig.height - 1, rig.width // 2
    expected = (row - rig.centre[1]) * BASELINE_M / CAMERA_HEIGHT_M
    assert rig.disparity(0)[row, column] == pytest.approx(expected, rel=1e-6)


def test_the_sky_is_at_infinity_and_the_same_in_both_views(rig: SyntheticRig) -> None:
    frame = rig.frame(5)
    assert frame.disparity is not None
    sky = (frame.disparity == 0) & (rig.disparity(5, "right") == 0)
    sky = cv2.erode(sky.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert sky.sum() > 500
    levelled = frame.right / RIGHT_CAMERA_GAIN
    assert np.abs(frame.left[sky] - levelled[sky]).mean() < 4


def test_the_cameras_see_a_street_and_not_a_plain_surface(rig: SyntheticRig) -> None:
    frame = rig.frame(0)
    assert frame.disparity is not None
    assert frame.left.std() > 30
    assert frame.disparity.max() > 15
    assert not np.array_equal(frame.left, frame.right)


def test_the_default_is_kittis_geometry() -> None:
    rig = SyntheticRig()
    assert rig.size == (375, 1242)
    assert rig.focal_px == FOCAL_PX == 721.5
    assert BASELINE_M == 0.54


@pytest.mark.parametrize("size", [(32, 32), (97, 61), (640, 480), (333, 1000)])
def test_any_size_works(size: tuple[int, int]) -> None:
    width, height = size
    frame = SyntheticRig(width=width, height=height, frames=1).frame(0)
    assert frame.left.shape == (height, width, 3)
    assert frame.disparity is not None
    assert frame.disparity.shape == (height, width)
    assert np.isfinite(frame.disparity).all()


def test_nonsense_is_refused_in_one_line() -> None:
    for wrong in ({"width": 8}, {"height": 100_000}, {"frames": 0}, {"seed": -1}):
        with pytest.raises(FrameError, match="ask for"):
            SyntheticRig(**wrong)
    with pytest.raises(FrameError, match="no frame 20: the rig has 20"):
        SyntheticRig(width=64, height=48).view(20, "left")
