"""A stereo rig that needs no data: two cameras drive down a procedurally textured street.

Both views are cast from one scene with the geometry of KITTI's colour cameras (focal length
721.5 px at 1242 px width, baseline 0.54 m, 1.65 m above the road), so the parallax is true and
the disparity of every pixel is known. Everything depends on the seed alone.

Axes: x to the right, height above the road upwards, z along the street, all in metres; image
columns and rows count from the centre of the first pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.sources import synthetic_street as street
from dsin.runtime.sources.frames import FRAME_INTERVAL_NS, StereoSide
from dsin.runtime.sources.synthetic_street import FloatImage
from dsin.runtime.sources.synthetic_surfaces import (
    Face,
    Strip,
    Texture,
    View,
    paint_face,
    paint_strip,
)

FOCAL_PX = 721.5
"""KITTI's focal length at its width of 1242 pixels; other widths scale it."""
BASELINE_M = 0.54
CAMERA_HEIGHT_M = 1.65
METRES_PER_FRAME = 0.9
START_M = 20.0
LEFT_WALL_M, RIGHT_WALL_M = -8.6, 8.2
FURTHEST_M = 95.0
"""Single objects appear at this distance, small and in the haze."""
SENSOR_NOISE = 1.6
"""Standard deviation of the cameras' noise, in grey levels."""
RIGHT_CAMERA_GAIN = np.asarray((0.965, 0.975, 0.99), np.float32)
"""The second camera exposes a little shorter, and differs in colour."""


class StereoFrame(NamedTuple):
    """One moment seen by both cameras; images H×W×3 RGB of the same size."""

    number: int
    timestamp_ns: int
    left: Image
    right: Image
    disparity: npt.NDArray[np.float32]
    """Of the left view, H×W in pixels."""


class _Box(NamedTuple):
    """A cuboid standing along the street: x, height and z ranges in metres."""

    x: tuple[float, float]
    up: tuple[float, float]
    z: tuple[float, float]


class _Textures:
    """What is drawn once for a rig."""

    def __init__(self, seed: int, coarseness: int) -> None:
        rng = np.random.default_rng([seed, 1])
        along, across, up = 2048 // coarseness, 1024 // coarseness, 512 // coarseness
        ground = street.ground_texture(rng, along, across)
        left = street.facade_texture(rng, along, up, light=1.02)
        right = street.facade_texture(rng, along, up, light=0.66)
        self.ground = Strip(ground, street.PERIOD_M, 2 * street.GROUND_HALF_WIDTH_M)
        self.left = Strip(left, street.PERIOD_M, street.FACADE_HEIGHT_M)
        self.right = Strip(right, street.PERIOD_M, street.FACADE_HEIGHT_M)
        self.trees = [Texture(street.tree(rng)) for _ in range(3)]
        self.signs = [Texture(street.sign(rng)) for _ in range(3)]
        lamp = street.lamp_post()
        self.lamps = Texture(np.ascontiguousarray(lamp[:, ::-1])), Texture(lamp)
        self.shadow = Texture(street.shadow())
        self.cars = [_CarTextures(paint) for paint in street.PAINT]


class _CarTextures:
    def __init__(self, paint: street.Colour) -> None:
        self.back = Texture(street.car_body_back(paint))
        self.flank = Texture(street.car_body_side(paint))
        self.rear_window = Texture(street.car_cabin(paint, 1))
        self.side_windows = Texture(street.car_cabin(paint, 3))
        self.roof = Texture(street.car_roof(paint))


@dataclass(frozen=True)
class SyntheticRig:
    """Frames of the synthetic street, `frames` of them, at 10 per second.

    `width` and `height` are in pixels, at least 32 each. Frames are rendered when they are asked
    for, in any order, and a frame depends on nothing but the sizes, the seed and its number.
    Raises FrameError for sizes or a number of frames that make no rig.
    """

    width: int = 1242
    height: int = 375
    frames: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not (32 <= self.width <= 8192 and 32 <= self.height <= 8192):
            raise FrameError(
                f"a synthetic frame of {self.width}x{self.height} pixels: ask for 32 to 8192 a side"
            )
        if self.frames < 1 or self.seed < 0:
            raise FrameError(
                f"{self.frames} frames of seed {self.seed}: ask for at least one frame, "
                "and a seed of at least 0"
            )

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[StereoFrame]:
        return (self.frame(number) for number in range(self.frames))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return FOCAL_PX * self.width / 1242

    @property
    def centre(self) -> tuple[float, float]:
        """Column and row of the principal point, in pixels."""
        return 0.4908 * self.width, 0.461 * self.height

    def timestamp_ns(self, number: int) -> int:
        """Capture time in nanoseconds since the rig's start."""
        return number * FRAME_INTERVAL_NS

    def frame(self, number: int) -> StereoFrame:
        """Both views of one moment, and the left view's disparity in pixels."""
        left = self._render(number, "left")
        right = self._render(number, "right")
        return StereoFrame(
            number,
            self.timestamp_ns(number),
            self._exposed(left, number, "left"),
            self._exposed(right, number, "right"),
            left.disparity,
        )

    def view(self, number: int, side: StereoSide) -> Image:
        """One view of one moment, H×W×3."""
        return self._exposed(self._render(number, side), number, side)

    def disparity(self, number: int, side: StereoSide = "left") -> npt.NDArray[np.float32]:
        """True disparity of a view, H×W, in pixels; 0 in the sky.

        The point at column c of the left view is at column c - disparity of the right view.
        """
        return self._render(number, side).disparity

    @cached_property
    def _textures(self) -> _Textures:
        coarseness = 1
        while coarseness < 8 and self.focal_px * coarseness < FOCAL_PX / 2:
            coarseness *= 2
        return _Textures(self.seed, coarseness)

    @cached_property
    def _sky(self) -> FloatImage:
        rng = np.random.default_rng([self.seed, 2])
        return street.sky_image(rng, self.width, self.height, self.focal_px, self.centre)

    @cached_property
    def _noise(self) -> FloatImage:
        rng = np.random.default_rng([self.seed, 3])
        shape = (self.height + 64, self.width + 64, 3)
        noise: FloatImage = rng.standard_normal(shape, np.float32)
        noise *= SENSOR_NOISE
        return noise

    def _render(self, number: int, side: StereoSide) -> View:
        if not 0 <= number < self.frames:
            raise FrameError(f"there is no frame {number}: the rig has {self.frames}")
        sway = 0.22 * float(np.sin(0.11 * number))
        along = START_M + number * METRES_PER_FRAME
        view = View(
            image=self._sky.copy(),
            disparity=np.zeros(self.size, np.float32),
            position=(sway + (BASELINE_M if side == "right" else 0.0), CAMERA_HEIGHT_M, along),
            focal_px=self.focal_px,
            centre=self.centre,
            baseline_m=BASELINE_M,
        )
        self._paint_street(view)
        for item in self._objects(along, sway):
            paint_face(view, item)
        return view

    def _paint_street(self, view: View) -> None:
        textures, (x, up, _) = self._textures, view.position
        across = x + street.GROUND_HALF_WIDTH_M
        paint_strip(view, textures.ground, "below", distance=up, origin=across)
        top = street.FACADE_HEIGHT_M - up
        paint_strip(view, textures.left, "left", distance=x - LEFT_WALL_M, origin=top)
        paint_strip(view, textures.right, "right", distance=RIGHT_WALL_M - x, origin=top)

    def _exposed(self, view: View, number: int, side: StereoSide) -> Image:
        """What the sensor makes of the light: gain, noise, eight bits."""
        rng = np.random.default_rng([self.seed, 4, number, side == "right"])
        row, col = (int(start) for start in rng.integers(0, 64, 2))
        light = view.image * RIGHT_CAMERA_GAIN if side == "right" else view.image
        noise = self._noise[row : row + self.height, col : col + self.width]
        return np.asarray(cv2.add(light, noise, dtype=cv2.CV_8U), np.uint8)  # rounds half to even

    def _objects(self, along: float, sway: float) -> list[Face]:
        """All faces of all objects within sight, from the furthest to the nearest."""
        shadows: list[Face] = []
        solids: list[tuple[float, list[Face]]] = []
        for right in (False, True):
            for slot in _slots(along, 6.4):
                rng = np.random.default_rng([self.seed, 5, right, slot])
                if rng.random() < 0.62:
                    shade, faces = self._car(rng, 6.4 * slot, right, sway)
                    shadows.append(shade)
                    solids.append((6.4 * slot, faces))
            for slot in _slots(along, 4.3):
                rng = np.random.default_rng([self.seed, 6, right, slot])
                z = 4.3 * slot + rng.uniform(0, 1.5)
                solids.append((z, self._furniture(rng, z, right)))
        solids.sort(key=lambda item: -item[0])
        faces = shadows + [face for _, group in solids for face in group]
        return [face for face in faces if face.z[0] - along < FURTHEST_M]

    def _furniture(self, rng: np.random.Generator, z: float, right: bool) -> list[Face]:
        """A tree, a lamp post, a sign, or nothing at one place of a footpath."""
        kind, side = rng.random(), 1 if right else -1
        textures = self._textures
        if kind < 0.3:
            scale = rng.uniform(0.75, 1.05)
            picture, size, x = textures.trees[int(rng.integers(3))], (4 * scale, 6.4 * scale), 6.6
        elif kind < 0.5:
            picture, size, x = textures.lamps[right], (1.6, 6.0), 4.58
        elif kind < 0.66:
            picture, size, x = textures.signs[int(rng.integers(3))], (0.6, 2.6), 5.5
        else:
            return []
        middle = side * (x + rng.uniform(-0.1, 0.1))
        box = _Box((middle - size[0] / 2, middle + size[0] / 2), (0, size[1]), (z, z))
        return [_front(picture, box)]

    def _car(
        self, rng: np.random.Generator, z: float, right: bool, sway: float
    ) -> tuple[Face, list[Face]]:
        """The shadow and the visible faces of a parked car, the hidden ones first."""
        paint = self._textures.cars[int(rng.integers(len(self._textures.cars)))]
        van = rng.random() < 0.2
        middle = (1 if right else -1) * rng.uniform(3.6, 3.85)
        body_top, roof = (1.02, 2.0) if van else (0.88, 1.45)
        start = z + rng.uniform(0, 1.2)
        body = _Box((middle - 0.88, middle + 0.88), (0, body_top), (start, start + 4.3))
        cabin = _Box(
            (middle - 0.76, middle + 0.76),
            (body_top, roof),
            (start + (0.05 if van else 0.55), start + (3.6 if van else 3.2)),
        )
        flank = 0 if right else 1
        faces = [
            _top(paint.roof, body),
            _side(paint.flank, body, flank),
            _front(paint.back, body),
            _side(paint.side_windows, cabin, flank),
            _front(paint.rear_window, cabin),
        ]
        if roof < CAMERA_HEIGHT_M:
            faces.insert(3, _top(paint.roof, cabin))
        ground = _Box((body.x[0] - 0.35, body.x[1] + 0.35), (0, 0), (start - 0.3, start + 4.6))
        shade = _top(self._textures.shadow, ground, solid=False)
        return shade, faces


def _slots(along: float, pitch: float) -> range:
    return range(int(along / pitch) - 2, int((along + FURTHEST_M) / pitch) + 1)


def _front(texture: Texture, box: _Box) -> Face:
    """The face towards the cameras."""
    return Face(texture, x=box.x, up=(box.up[1], box.up[0]), z=(box.z[0], box.z[0]), axes="x-up")


def _side(texture: Texture, box: _Box, which: int) -> Face:
    """The flank at the lower (0) or the upper (1) end of the x range."""
    x = box.x[which]
    return Face(texture, x=(x, x), up=(box.up[1], box.up[0]), z=box.z, axes="z-up")


def _top(texture: Texture, box: _Box, solid: bool = True) -> Face:
    up = (box.up[1], box.up[1])
    return Face(texture, x=box.x, up=up, z=box.z, axes="x-z", solid=solid)
