"""The materials of the synthetic street: procedural textures, drawn once per rig.

Textures are float32, RGB in 0..255 with premultiplied alpha in 0..1 as the fourth channel. Those
of ground and facades are indexed (along the street, across it) and repeat along the street.
"""

import cv2
import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
Colour = tuple[float, float, float]

PERIOD_M = 51.2
"""After so many metres the textures along the street repeat."""
GROUND_HALF_WIDTH_M = 10.24
FACADE_HEIGHT_M = 12.8
ROAD_HALF_WIDTH_M = 4.8

_PLASTER: tuple[Colour, ...] = (
    (196, 178, 142),
    (205, 196, 178),
    (168, 160, 150),
    (188, 150, 118),
    (176, 184, 176),
)
_BRICK: tuple[Colour, ...] = ((146, 84, 66), (128, 72, 60), (158, 104, 80))
PAINT: tuple[Colour, ...] = (
    (158, 30, 32),
    (36, 66, 120),
    (198, 200, 204),
    (44, 46, 50),
    (226, 226, 222),
    (96, 108, 116),
    (40, 84, 64),
)
"""Colours of the parked cars."""


def value_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int
) -> FloatImage:
    """Smooth noise in about -1..1, periodic in both axes.

    `cells` random values per axis are interpolated over `shape`; each octave doubles the cells and
    halves the amplitude, and octaves finer than a texel are left out.
    """
    noise = np.zeros(shape, np.float32)
    amplitude = 0.5
    for octave in range(octaves):
        rows, cols = cells[0] << octave, cells[1] << octave
        if rows > shape[0] or cols > shape[1]:
            break
        lattice = rng.uniform(-1, 1, (rows, cols)).astype(np.float32)
        y = (np.arange(shape[0], dtype=np.float32) + 0.5) * (rows / shape[0])
        x = (np.arange(shape[1], dtype=np.float32) + 0.5) * (cols / shape[1])
        padded = np.pad(lattice, 1, mode="wrap")
        noise += amplitude * cv2.remap(
            padded,
            np.broadcast_to(x + 0.5, shape).astype(np.float32),
            np.broadcast_to((y + 0.5)[:, None], shape).astype(np.float32),
            cv2.INTER_LINEAR,
        )
        amplitude *= 0.62
    return noise


def _tinted(colour: Colour, brightness: FloatImage) -> FloatImage:
    return np.asarray(colour, np.float32) * brightness[..., None]


def ground_texture(rng: np.random.Generator, along: int, across: int) -> FloatImage:
    """Asphalt with patches and lane markings, kerbs and paved footpaths: (along, across, 4)."""
    metres_along = (np.arange(along) + 0.5) * (PERIOD_M / along)
    metres_across = (np.arange(across) + 0.5) * (2 * GROUND_HALF_WIDTH_M / across)
    x = (metres_across - GROUND_HALF_WIDTH_M)[None, :]
    z = metres_along[:, None]
    patches = value_noise(rng, (along, across), (16, 8), 4)
    grain = rng.normal(0, 0.11, (along, across)).astype(np.float32)
    wear = 0.07 * np.exp(-(((np.abs(np.abs(x) - 1.4)) / 0.35) ** 2)).astype(np.float32)
    asphalt = _tinted((101, 102, 106), 1 + 0.22 * patches + grain - wear)

    slabs = ((z % 0.8 < 0.035) | (x % 0.8 < 0.035)).astype(np.float32)
    slab_tone = rng.uniform(-0.09, 0.09, (64, 26))[
        np.minimum(z / 0.8, 63).astype(int),
        np.minimum((x + GROUND_HALF_WIDTH_M) / 0.8, 25).astype(int),
    ]
    paving = _tinted(
        (156, 150, 142),
        (1 + slab_tone + 0.12 * patches + 0.6 * grain - 0.3 * slabs).astype(np.float32),
    )
    distance = np.abs(x) - ROAD_HALF_WIDTH_M
    ground = np.where((distance > 0)[..., None], paving, asphalt)
    kerb = (np.abs(distance) < 0.09) & np.ones_like(z, bool)
    ground[kerb] = (176 + 22 * patches[kerb])[:, None]

    paint = (np.abs(x) < 0.075) & (z % 6.4 < 3.0)
    paint |= (np.abs(np.abs(x) - 2.62) < 0.05) & (z >= 0)
    paint |= (np.abs(x) > 2.62) & (np.abs(x) < 4.7) & (z % 6.4 < 0.1)
    paint &= patches > -0.42  # worn off here and there
    ground[paint] = ground[paint] * 0.25 + (168 + 30 * patches[paint])[:, None]
    for _ in range(9):  # manholes and mended patches
        row, col = int(rng.integers(along)), int(across * rng.uniform(0.32, 0.68))
        size = (int(across * 0.018) + 1, int(along * 0.007) + 1)
        cv2.ellipse(ground, (col, row), size, 0, 0, 360, (62.0, 61.0, 60.0), -1, cv2.LINE_AA)
    opaque = np.ones((along, across, 1))
    return np.concatenate([np.clip(ground, 0, 255), opaque], axis=2).astype(np.float32)


class _Wall:
    """A facade under the brush: metres along the street and up, onto texels."""

    def __init__(self, along: int, up: int) -> None:
        self.rgba = np.zeros((along, up, 4), np.float32)
        self.per_metre = (along / PERIOD_M, up / FACADE_HEIGHT_M)

    def box(self, start: float, end: float, bottom: float, top: float) -> FloatImage:
        """The texels between two places along the street and two heights, in metres."""
        rows, cols = self.rgba.shape[:2]
        first, last = (min(rows, max(0, round(s * self.per_metre[0]))) for s in (start, end))
        low, high = (min(cols, max(0, cols - round(s * self.per_metre[1]))) for s in (top, bottom))
        return self.rgba[first:last, low:high]

    def paint(self, start: float, end: float, bottom: float, top: float, colour: Colour) -> None:
        self.box(start, end, bottom, top)[:] = (*colour, 1.0)


def _plain_wall(
    rng: np.random.Generator, wall: _Wall, start: float, end: float, height: float
) -> Colour:
    """Brick or plaster between two places; returns its colour."""
    brick = rng.random() < 0.45
    palette = _BRICK if brick else _PLASTER
    colour = palette[int(rng.integers(len(palette)))]
    area = wall.box(start, end, 0, height)
    rows, cols = area.shape[:2]
    tone = np.ones((rows, cols), np.float32)
    if brick:
        course = np.maximum(1, np.arange(cols) / wall.per_metre[1] / 0.085).astype(int)
        stone = (np.arange(rows)[:, None] / wall.per_metre[0] / 0.24 + 0.5 * (course % 2)).astype(
            int
        )
        table = rng.uniform(-0.24, 0.2, (stone.max() + 1, course.max() + 1))
        tone += table[stone, course].astype(np.float32)
        tone[:, (np.arange(cols) / wall.per_metre[1]) % 0.085 < 0.02] *= 1.22
    tone += rng.normal(0, 0.06, (rows, cols)).astype(np.float32)
    area[..., :3] = _tinted(colour, tone)
    area[..., 3] = 1
    return colour


def _window(
    rng: np.random.Generator, wall: _Wall, start: float, bottom: float, width: float, height: float
) -> None:
    end, top = start + width, bottom + height
    frame: Colour = (226, 224, 218) if rng.random() < 0.7 else (92, 72, 56)
    wall.paint(start - 0.1, end + 0.1, bottom - 0.16, bottom - 0.06, (186, 182, 174))
    wall.paint(start - 0.07, end + 0.07, bottom - 0.07, top + 0.07, frame)
    glass = wall.box(start, end, bottom, top)
    shine = np.linspace(1.5, 0.6, glass.shape[1], dtype=np.float32) * rng.uniform(0.6, 1.3)
    glass[..., :3] = np.asarray((58, 68, 80), np.float32) * shine[None, :, None]
    if rng.random() < 0.45:  # a blind, drawn part of the way
        drop = rng.uniform(0.2, 0.9) * height
        wall.paint(start, end, top - drop, top, (178, 168, 150))
    wall.paint((start + end) / 2 - 0.03, (start + end) / 2 + 0.03, bottom, top, frame)
    wall.paint(start, end, bottom + 0.62 * height, bottom + 0.62 * height + 0.05, frame)


def _ground_floor(rng: np.random.Generator, wall: _Wall, start: float, width: float) -> None:
    kind = rng.random()
    if kind < 0.35:  # a shop under an awning
        _window(rng, wall, start + 0.2, 0.6, width - 0.4, 1.9)
        bright = PAINT[int(rng.integers(len(PAINT)))]
        wall.paint(start, start + width, 2.6, 3.0, bright)
        for k in range(int(width / 0.4)):
            wall.paint(start + 0.4 * k, start + 0.4 * k + 0.2, 2.6, 2.85, (222, 216, 204))
    elif kind < 0.6:  # a door with steps
        wall.paint(start + 0.2, start + 1.4, 0, 2.4, (214, 208, 198))
        wall.paint(start + 0.3, start + 1.3, 0.1, 2.3, PAINT[int(rng.integers(4))])
        wall.paint(start + 0.5, start + 1.1, 1.4, 2.1, (70, 78, 88))
    else:
        _window(rng, wall, start + 0.5, 0.95, 1.15, 1.5)


def _building(rng: np.random.Generator, wall: _Wall, start: float, end: float) -> None:
    floors = int(rng.integers(2, 4))
    height = 3.1 * floors + rng.uniform(0.5, 1.2)
    colour = _plain_wall(rng, wall, start, end, height)
    darker = (colour[0] * 0.62, colour[1] * 0.62, colour[2] * 0.62)
    wall.paint(start, end, 0, 0.5, darker)
    wall.paint(start, end, height - 0.25, height, (206, 200, 190))
    roof = wall.box(start, end, height, height + 1.3)
    tiles = rng.uniform(0.75, 1.1, roof.shape[:2]).astype(np.float32)
    roof[..., :3] = _tinted((104, 66, 54) if rng.random() < 0.6 else (74, 76, 82), tiles)
    roof[..., 3] = 1
    bays = max(2, int((end - start) / 2.6))
    pitch = (end - start) / bays
    for bay in range(bays):
        left = start + bay * pitch
        _ground_floor(rng, wall, left + 0.1, pitch - 0.2)
        for floor in range(1, floors):
            _window(rng, wall, left + (pitch - 1.15) / 2, 3.1 * floor + 0.85, 1.15, 1.6)


def facade_texture(rng: np.random.Generator, along: int, up: int, light: float) -> FloatImage:
    """One side of the street, (along, up from the top down, 4), lit by the factor `light`."""
    wall = _Wall(along, up)
    place = 0.0
    while place < PERIOD_M - 5:
        end = min(place + rng.uniform(8, 14), PERIOD_M)
        if PERIOD_M - end < 5:
            end = PERIOD_M
        _building(rng, wall, place, end)
        place = end
        if rng.random() < 0.4 and place < PERIOD_M - 8:  # a gap, closed by a hedge
            hedge = wall.box(place, place + 2.4, 0, rng.uniform(1.8, 2.6))
            leaves = 1 + 0.9 * rng.normal(0, 0.3, hedge.shape[:2]).astype(np.float32)
            hedge[..., :3] = _tinted((54, 80, 42), leaves)
            hedge[..., 3] = 1
            place += 2.4
    stains = value_noise(rng, (along, up), (32, 8), 4)
    wall.rgba[..., :3] *= (light * (1 + 0.16 * stains))[..., None]
    np.clip(wall.rgba[..., :3], 0, 255, out=wall.rgba[..., :3])
    return wall.rgba


def sky_image(
    rng: np.random.Generator, width: int, height: int, focal_px: float, centre: tuple[float, float]
) -> FloatImage:
    """Sky, clouds and a far line of trees, at infinity: (height, width, 3)."""
    across = (np.arange(width, dtype=np.float32) - centre[0]) / focal_px
    up = (centre[1] - np.arange(height, dtype=np.float32)) / focal_px
    elevation = np.maximum(up, 0.004)[:, None]
    zenith = np.asarray((104, 152, 208), np.float32)
    sky = HORIZON + (zenith - HORIZON) * np.clip(elevation / 0.26, 0, 1)[..., None] ** 0.8
    clouds = value_noise(rng, (512, 512), (8, 8), 5)
    cover = cv2.remap(
        clouds,
        (across[None, :] / (elevation + 0.08) * 90 + 1024).astype(np.float32) % 511,
        np.broadcast_to(34 / (elevation + 0.08) % 511, (height, width)).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    weight = np.clip((cover + 0.02) * 3.2, 0, 1) * np.clip(elevation / 0.05, 0, 1)
    sky = sky + (np.asarray((250, 250, 252), np.float32) - sky) * (0.85 * weight)[..., None]
    ridge = value_noise(rng, (1, 1024), (1, 16), 6)[0]
    crest = 0.022 + 0.016 * np.interp(np.linspace(0, 1023, width), np.arange(1024), ridge)
    trees = np.clip((crest[None, :] - up[:, None]) * focal_px, 0, 1)[..., None]
    return np.asarray(sky + (np.asarray((122, 136, 132), np.float32) - sky) * trees, np.float32)


HORIZON = np.asarray((206, 214, 222), np.float32)
"""Colour of haze, RGB."""


def _canvas(height: int, width: int, colour: Colour) -> FloatImage:
    image = np.empty((height, width, 4), np.float32)
    image[:] = (*colour, 1.0)
    return image


def _fill(image: FloatImage, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Paints a part of a face given in fractions: left, top, right, bottom."""
    h, w = image.shape[:2]
    left, top, right, bottom = box
    image[round(top * h) : round(bottom * h), round(left * w) : round(right * w)] = (*colour, 1.0)


def _lit(image: FloatImage, light: float) -> FloatImage:
    image[..., :3] *= (
        light * np.linspace(1.12, 0.82, image.shape[0], dtype=np.float32)[:, None, None]
    )
    return np.clip(image, 0, 255)


def car_body_back(paint: Colour) -> FloatImage:
    """The rear below the window: lights, plate, bumper, tyres."""
    image = _canvas(88, 176, paint)
    _fill(image, (0, 0.68, 1, 1), (38, 38, 40))
    for left in (0.03, 0.8):
        _fill(image, (left, 0.1, left + 0.17, 0.38), (168, 24, 20))
        _fill(image, (left + 0.05, 0.3, left + 0.12, 0.38), (226, 196, 150))
    _fill(image, (0.36, 0.42, 0.64, 0.58), (222, 222, 214))
    _fill(image, (0.4, 0.47, 0.6, 0.53), (40, 40, 44))
    image[76:, 32:144] = 0
    return _lit(image, 0.92)


def car_body_side(paint: Colour) -> FloatImage:
    """The flank with doors and wheels; transparent under the sill."""
    image = _canvas(88, 420, paint)
    image[68:] = 0
    _fill(image, (0, 0.62, 1, 0.77), (paint[0] * 0.45, paint[1] * 0.45, paint[2] * 0.45))
    for seam in (0.27, 0.5, 0.72):
        _fill(image, (seam, 0, seam + 0.006, 0.75), (30, 30, 32))
    for handle in (0.3, 0.53):
        _fill(image, (handle, 0.2, handle + 0.04, 0.26), (28, 28, 30))
    for hub in (76, 340):
        for radius, grey in ((38, 20.0), (31, 34.0), (20, 138.0), (6, 60.0)):
            cv2.circle(image, (hub, 56), radius, (grey, grey, grey, 1.0), -1, cv2.LINE_AA)
    return _lit(image, 1.0)


def car_cabin(paint: Colour, panes: int) -> FloatImage:
    """Windows of one side of the cabin, split into `panes`."""
    image = _canvas(64, 200, paint)
    width = 0.94 / panes
    for pane in range(panes):
        left = 0.03 + pane * width
        _fill(image, (left + 0.012, 0.16, left + width - 0.012, 0.96), (46, 54, 62))
        _fill(image, (left + 0.012, 0.16, left + width * 0.4, 0.5), (88, 100, 112))
    return _lit(image, 1.0)


def car_roof(paint: Colour) -> FloatImage:
    """A painted sheet seen from above."""
    lighter = (
        min(255, paint[0] * 1.2 + 16),
        min(255, paint[1] * 1.2 + 16),
        min(255, paint[2] * 1.2 + 20),
    )
    return _canvas(16, 32, lighter)


def shadow() -> FloatImage:
    """A soft dark patch for the ground under a car."""
    image = np.zeros((64, 64, 4), np.float32)
    image[8:-8, 8:-8, 3] = 0.72
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 4), np.float32)


def tree(rng: np.random.Generator) -> FloatImage:
    """A tree of 4 by 6.4 metres."""
    image = np.zeros((410, 256, 4), np.float32)
    bark = 1 + 0.35 * value_noise(rng, (410, 16), (64, 8), 2)
    image[170:, 120:136, :3] = _tinted((84, 70, 56), bark)[170:]
    image[170:, 120:136, 3] = 1
    y, x = np.mgrid[:410, :256].astype(np.float32)
    shape = np.full((410, 256), -9.0, np.float32)
    for _ in range(9):
        at = rng.uniform((70, 78), (180, 178))
        radius = rng.uniform(48, 74)
        shape = np.maximum(shape, 1 - np.hypot(y - at[0], x - at[1]) / radius)
    detail = value_noise(rng, (410, 256), (26, 16), 4)
    leaves = np.clip((shape + 0.55 * detail) * 9, 0, 1)
    light = 0.85 + 0.75 * detail + 0.4 * (1 - y / 300)
    light += rng.normal(0, 0.16, light.shape).astype(np.float32)
    crown = _tinted((66, 98, 48), np.clip(light, 0.15, 2))
    image *= 1 - leaves[..., None]
    image[..., :3] += crown * leaves[..., None]
    image[..., 3] += leaves
    return np.clip(image, 0, 255)


def lamp_post() -> FloatImage:
    """A lamp post of 1.6 by 6 metres, the arm to the left."""
    image = np.zeros((480, 128, 4), np.float32)
    cylinder = np.asarray((70, 104, 134, 150, 140, 120, 96, 70, 54, 46), np.float32)
    image[20:, 112:122, :3] = cylinder[:, None] * np.asarray((0.94, 1, 0.98), np.float32)
    image[20:, 112:122, 3] = 1
    image[14:22, 20:122] = (96, 102, 100, 1)
    image[20:32, 6:52] = (214, 212, 196, 1)
    image[420:, 108:126] = (70, 78, 74, 1)
    return image


def sign(rng: np.random.Generator) -> FloatImage:
    """A round traffic sign on a thin post, 0.6 by 2.6 metres."""
    image = np.zeros((260, 60, 4), np.float32)
    image[40:, 27:33] = (136, 140, 142, 1)
    rim = (176.0, 30.0, 28.0, 1.0) if rng.random() < 0.6 else (36.0, 78.0, 150.0, 1.0)
    cv2.circle(image, (30, 30), 29, rim, -1, cv2.LINE_AA)
    cv2.circle(image, (30, 30), 20, (232.0, 232.0, 226.0, 1.0), -1, cv2.LINE_AA)
    cv2.rectangle(image, (18, 26), (42, 34), (34.0, 34.0, 38.0, 1.0), -1)
    return image
