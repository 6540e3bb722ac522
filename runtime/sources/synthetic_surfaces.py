"""Ray casting of planes: endless strips along the street, and rectangular faces.

A strip (ground or facade) has one depth per image row or column. The texture is averaged over
exactly the stretch of street that a pixel covers, by differences of cumulated sums, so that the
far end neither shimmers nor differs between the views. Faces are projected by a homography. On
any plane the disparity is linear in the image coordinates, which is how it is painted.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.sources.synthetic_street import HORIZON, FloatImage

HAZE_M = 170.0
"""Distance at which the haze has swallowed all but 1/e of the light."""
NEAREST_M = 0.4
"""Faces are cut off in front of this distance."""


@dataclass(frozen=True)
class View:
    """A picture in the making: RGB 0..255 H×W×3, disparity H×W in pixels, and its camera."""

    image: FloatImage
    disparity: npt.NDArray[np.float32]
    position: tuple[float, float, float]
    """Of the camera: x, height, z in metres."""
    focal_px: float
    centre: tuple[float, float]
    baseline_m: float


class Strip:
    """A texture along the street with prefix sums, at halving resolutions across.

    `texture` is (along, across, 4) with premultiplied alpha, `period_m` and `across_m` its extent
    in metres; it repeats along the street.
    """

    def __init__(self, texture: FloatImage, period_m: float, across_m: float) -> None:
        self.along_m = period_m / texture.shape[0]
        self.across_m = across_m / texture.shape[1]
        self._means: list[FloatImage] = []
        self._sums: list[FloatImage] = []
        while True:
            mean = texture.mean(axis=0, dtype=np.float64)
            self._means.append(mean.astype(np.float32))
            self._sums.append(_prefix_sums(texture, mean))
            if texture.shape[1] < 64:
                break
            texture = (texture[:, 0::2] + texture[:, 1::2]) * np.float32(0.5)

    def level(self, footprint_m: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The resolution whose texels are as wide as a pixel's footprint."""
        ratio = np.maximum(footprint_m / self.across_m, 1)
        level: npt.NDArray[np.int64] = np.log2(ratio).astype(np.int64)
        return np.minimum(level, len(self._sums) - 1)

    def averaged(
        self, level: int, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
    ) -> FloatImage:
        """Mean of the texture between places in metres: (n, across, 4)."""
        period = self._sums[0].shape[0] - 1
        middle = (start + end) / (2 * self.along_m)
        length = np.clip((end - start) / self.along_m, 1, period)
        sums = self._cumulated(level, middle + length / 2)
        sums -= self._cumulated(level, middle - length / 2)
        sums /= length.astype(np.float32)[:, None, None]
        sums += self._means[level]
        return sums

    def _cumulated(self, level: int, place: npt.NDArray[np.float64]) -> FloatImage:
        sums = self._sums[level]
        place = place % (sums.shape[0] - 1)
        index = place.astype(np.int64)
        weight = (place - index).astype(np.float32)[:, None, None]
        low = sums[index]
        high = sums[index + 1]
        high -= low
        high *= weight
        high += low
        return high


def _prefix_sums(texture: FloatImage, mean: npt.NDArray[np.float64]) -> FloatImage:
    """Sums of what the rows before differ from the mean, so that the period's end meets its start.

    Row by row, which is several times faster here than np.cumsum along the first axis.
    """
    sums = np.zeros((texture.shape[0] + 1, *mean.shape), np.float32)
    total = np.zeros_like(mean)
    for index, line in enumerate(texture, start=1):
        total += line
        total -= mean
        sums[index] = total
    return sums


def paint_strip(
    view: View,
    strip: Strip,
    where: Literal["below", "left", "right"],
    *,
    distance: float,
    origin: float,
) -> None:
    """Paints the ground or a facade.

    `distance` is the camera's from the plane, in metres; `origin` is where the line straight ahead
    of the camera crosses the texture, in metres from the texture's first texel across.
    """
    height, width = view.disparity.shape
    column, row = view.centre
    columns, rows = np.arange(float(width)) - column, np.arange(float(height)) - row
    if where == "below":
        first, count = int(row) + 1, height - int(row) - 1
        slopes, ticks = rows[first:], columns
    elif where == "right":
        first, count = int(column) + 1, width - int(column) - 1
        slopes, ticks = columns[first:], rows
    else:
        first, count = 0, math.ceil(column)
        slopes, ticks = -columns[:count], rows
    band = slice(first, first + count)
    colours = _strip_pixels(view, strip, slopes, ticks, distance, origin)
    disparity = (slopes * (view.baseline_m / distance)).astype(np.float32)
    if where == "below":
        view.image[band] = colours[..., :3]
        view.disparity[band] = disparity[:, None]
        return
    colours = np.asarray(cv2.transpose(colours), np.float32)
    _blend(view.image[:, band], colours)
    covered = colours[..., 3] > 0.5
    np.copyto(view.disparity[:, band], disparity[None, :], where=covered)


def _strip_pixels(
    view: View,
    strip: Strip,
    slopes: npt.NDArray[np.float64],
    ticks: npt.NDArray[np.float64],
    distance: float,
    origin: float,
) -> FloatImage:
    """Colours for each slope (pixels off the vanishing line) and each tick across."""
    focal = view.focal_px
    depth = focal * distance / slopes
    near = focal * distance / (slopes + 0.5)
    far = focal * distance / np.maximum(slopes - 0.5, 1e-3)
    levels = strip.level(depth / focal)
    parts = []
    for level in sorted(set(levels.tolist()), reverse=bool(slopes[0] < slopes[-1])):
        chosen = np.flatnonzero(levels == level)
        lines = strip.averaged(
            level, view.position[2] + near[chosen], view.position[2] + far[chosen]
        )
        lines = np.matmul(lines, _haze(depth[chosen]))
        texel = strip.across_m * 2**level
        across = (origin + depth[chosen, None] * (ticks / focal)) / texel - 0.5
        rows = np.broadcast_to(np.arange(len(chosen), dtype=np.float32)[:, None], across.shape)
        columns = np.clip(across, -4, lines.shape[1] + 4).astype(np.float32)
        parts.append(cv2.remap(lines, columns, np.ascontiguousarray(rows), cv2.INTER_LINEAR))
    return np.concatenate(parts)


def _haze(depth: npt.NDArray[np.float64] | float) -> FloatImage:
    """What haze does to premultiplied RGBA rows at given depths: matrices (..., 4, 4)."""
    clear = np.exp(-np.asarray(depth) / HAZE_M)
    haze = np.zeros((*clear.shape, 4, 4), np.float32)
    for colour in range(3):
        haze[..., colour, colour] = clear
        haze[..., 3, colour] = HORIZON[colour] * (1 - clear)
    haze[..., 3, 3] = 1
    return haze


def _blend(below: FloatImage, above: FloatImage) -> None:
    """Put premultiplied RGBA over RGB, in place."""
    through = 1 - above[..., 3]
    below *= cv2.merge((through, through, through))
    below += cv2.cvtColor(above, cv2.COLOR_RGBA2RGB)


class Texture:
    """A picture in premultiplied RGBA that is seen at many sizes."""

    def __init__(self, pixels: FloatImage) -> None:
        self.pixels = pixels
        self._smaller: dict[tuple[int, int], FloatImage] = {}

    def shrunk(self, size: tuple[int, int]) -> FloatImage:
        """Averaged down to (width, height); the sizes halve, so few are ever kept."""
        if size not in self._smaller:
            self._smaller[size] = _averaged_down(self.pixels, size)
        return self._smaller[size]


def _averaged_down(pixels: FloatImage, size: tuple[int, int]) -> FloatImage:
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


class Face(NamedTuple):
    """A rectangle parallel to two of the axes.

    Each range is in metres and runs in the order of the texture: `axes` names what the texture's
    columns and rows follow. A face that is not `solid` (a shadow) has no disparity of its own.
    """

    texture: Texture
    x: tuple[float, float]
    up: tuple[float, float]
    z: tuple[float, float]
    axes: Literal["x-up", "z-up", "x-z"]
    solid: bool = True


def paint_face(view: View, face: Face) -> None:
    """Paints a face over what is there; hidden or tiny ones leave no trace."""
    depths = (face.z[0] - view.position[2], face.z[1] - view.position[2])
    if depths[1] <= NEAREST_M or (face.axes == "x-up" and depths[0] <= NEAREST_M):
        return
    cut = max(0.0, (NEAREST_M - depths[0]) / (depths[1] - depths[0] or 1.0))
    corners = _project(view, face, max(depths[0], NEAREST_M), depths[1])
    window = _window_of(corners, view.disparity.shape)
    if window is None:
        return
    rows, cols = window
    pixels = _cut(face, cut)
    if min(np.ptp(corners, axis=0)) < 0.3 or min(pixels.shape[:2]) < 2:
        return
    size = _size_seen(pixels, face.axes, corners)
    texture = face.texture.shrunk(size) if cut == 0 else _averaged_down(pixels, size)
    _paste(view, face, texture, corners, rows, cols)


def _paste(
    view: View, face: Face, texture: FloatImage, corners: FloatImage, rows: slice, cols: slice
) -> None:
    h, w = texture.shape[:2]
    # The outermost texels' centres lie on the face's edge, so that neighbours leave no crack.
    last = (w - 1, h - 1)
    source = np.asarray([(0, 0), (last[0], 0), last, (0, last[1])], np.float32)
    target = corners - np.asarray((cols.start, rows.start), np.float32)
    matrix = cv2.getPerspectiveTransform(source, target.astype(np.float32))
    size = (cols.stop - cols.start, rows.stop - rows.start)
    warped = cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR)
    depth = max(face.z[0] - view.position[2], NEAREST_M)
    pixels = np.asarray(cv2.transform(warped, _haze(depth).T), np.float32)
    _blend(view.image[rows, cols], pixels)
    if face.solid:
        disparity = _plane_disparity(view, face, rows, cols)
        np.copyto(view.disparity[rows, cols], disparity, where=pixels[..., 3] > 0.5)


def _project(view: View, face: Face, near: float, far: float) -> FloatImage:
    """Columns and rows of the corners, in the order of the texture's: (4, 2)."""
    (x0, x1), (up0, up1) = face.x, face.up
    points = {
        "x-up": ((x0, up0, near), (x1, up0, near), (x1, up1, near), (x0, up1, near)),
        "z-up": ((x0, up0, near), (x0, up0, far), (x0, up1, far), (x0, up1, near)),
        "x-z": ((x0, up0, near), (x1, up0, near), (x1, up0, far), (x0, up0, far)),
    }[face.axes]
    x, up, z = np.asarray(points, np.float64).T
    scale = view.focal_px / z
    columns = view.centre[0] + (x - view.position[0]) * scale
    rows = view.centre[1] + (view.position[1] - up) * scale
    return np.stack([columns, rows], axis=1).astype(np.float32)


def _window_of(corners: FloatImage, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """The part of the picture that a face may touch."""
    low = np.floor(corners.min(axis=0)).astype(int) - 1
    high = np.ceil(corners.max(axis=0)).astype(int) + 2
    left, top = np.maximum(low, 0).tolist()
    right, bottom = min(int(high[0]), shape[1]), min(int(high[1]), shape[0])
    if left >= right or top >= bottom:
        return None
    return slice(top, bottom), slice(left, right)


def _cut(face: Face, part: float) -> FloatImage:
    """The texture without the part that lies behind the cameras."""
    pixels = face.texture.pixels
    if part <= 0:
        return pixels
    along = 1 if face.axes == "z-up" else 0
    gone = round(part * pixels.shape[along])
    return pixels[:, gone:] if along else pixels[gone:]


def _size_seen(pixels: FloatImage, axes: str, corners: FloatImage) -> tuple[int, int]:
    """The texture's width and height, each halved until it is about what is seen of it.

    Sizes come from edges that both views see alike, so that both get the same texture.
    """
    across = float(np.linalg.norm(corners[1] - corners[0]))
    down = float(np.linalg.norm(corners[3] - corners[0]))
    if axes == "z-up":
        across = max(across, down)
    size = [pixels.shape[1], pixels.shape[0]]
    for axis, seen in enumerate((across, down)):
        while size[axis] > 2 and size[axis] >= 2 * seen:
            size[axis] = (size[axis] + 1) // 2
    return size[0], size[1]


def _plane_disparity(view: View, face: Face, rows: slice, cols: slice) -> npt.NDArray[np.float32]:
    """Disparity of the face's plane in a window, (rows, cols) or broadcastable to it."""
    x, up, z = view.position
    if face.axes == "x-up":
        value = view.focal_px * view.baseline_m / (face.z[0] - z)
        return np.full((1, 1), value, np.float32)
    if face.axes == "z-up":
        columns = np.arange(cols.start, cols.stop) - view.centre[0]
        return (columns * (view.baseline_m / (face.x[0] - x))).astype(np.float32)[None, :]
    lines = np.arange(rows.start, rows.stop) - view.centre[1]
    return (lines * (view.baseline_m / (up - face.up[0]))).astype(np.float32)[:, None]
