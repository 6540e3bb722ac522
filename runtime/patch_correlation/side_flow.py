"""What the side image shows of x_dec, found twice: by a smooth flow, and block by block.

    y, blurred ─► half size, quarter size                                  when y arrives
    x_dec ─► half size ─► PatchCorrelation at half size ─► matches ─► exposure of y
      matches ─► inverse search at quarter size ─► smoothed at quarter and half size ─► y_flow
      matches, flow ─► the best displacement of each block at full size ──────────────► y_blocks

A coded picture is blurred and noisy, most of all at low rates; there a smooth field of
displacements, to fractions of a pixel, finds more than the best whole-pixel place of each block,
which at high rates is the more precise. A fusion that sees both takes what suits.

The side image is blurred (SIDE_BLUR), as coding blurs: no network looks at it. The search by
`PatchCorrelation` is exact, on pictures of half size. The flow is float32, and machines differ in
its last digits.

Each block chooses between the flow at its centre, in whole pixels, moved sideways by 0, -1 and 1,
its patch's displacement, and those of the patches below, above, right and left, by the cost and the
penalties of `dsin.runtime.patch_correlation.block_refinement`; the first of equal ones wins.

Inverse search: each window of WINDOW² pixels goes by Gauss-Newton steps, with the gradients of
x_dec, to where it differs least from y, without regard to brightness (Kroeger et al., "Fast Optical
Flow using Dense Inverse Search", ECCV 2016). Smoothing: displacements u of all windows minimise

    Σ w (Σ (y(p + u) - x(p))² - 0.9 (Σ (y(p + u) - x(p)))² / n)  +  a Σ ρ(u - u of a neighbour)

linearised WARPS times around the last solution, where w falls with the difference itself and ρ
grows linearly beyond JUMP (Bruhn et al., "Lucas/Kanade Meets Horn/Schunck", IJCV 2005).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.compiled import Crew, bands, crew
from dsin.runtime.errors import FrameError
from dsin.runtime.patch_correlation.block_refinement import BLOCK, Refined, displacements, paste
from dsin.runtime.patch_correlation.definition import Matches, PreparedSide
from dsin.runtime.patch_correlation.exposure import Exposure, exposure_of
from dsin.runtime.patch_correlation.flow_kernels import (
    LEAST,
    NOISE,
    SMOOTHNESS,
    STRIDE,
    WINDOW,
    doubts,
    gradients,
    local_systems,
    places,
    refine_all,
    search_all,
    solve,
)
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.runtime.pictures import Image, Planes, fill_planes, to_planes

Floats = npt.NDArray[np.float32]
Field = tuple[Floats, Floats]
"""How far down and right the content of each window lies, (rows, columns), in pixels of the size
that it was found at."""

SIDE_BLUR, OWN_BLUR = 1.5, 0.8
"""Standard deviations in pixels of the Gaussians over y, and over the grey x_dec."""
WARPS = 3
SHOWN_SHARE = 0.5
BAND = 8
"""Rows of blocks or windows that one thread works on at a time."""
LEAST_SIDE = BLOCK * -(-4 * LEAST // BLOCK)
"""Pixels, each way, of the smallest pictures."""


class Views(NamedTuple):
    """A grey picture at half and at quarter size, float32."""

    half: Floats
    quarter: Floats


class FlowSide(NamedTuple):
    """A side image as prepared: itself, itself blurred, that plane by plane (3, H, W) and at half
    size, and what the searches take."""

    y: Image
    blurred: Image
    planes: Image
    half: Image
    patches: PreparedSide
    views: Views


class SideViews(NamedTuple):
    """What the fusion takes, float32: the side image as the flow warps it and as blocks put it
    together, (1, 3, H, W) in 0..255; and how badly each block matched in either, (1, 2, H/8, W/8).
    """

    y_flow: Planes
    y_blocks: Planes
    doubt: Floats


class FlowFound(NamedTuple):
    """The matches of x_dec's patches, in pixels of y, what the fusion takes of y (as `SideViews`,
    but pictures uint8 H×W×3), and the share of blocks, 0 to 1, that y shows: those whose difference
    has at most SHOWN_SHARE of their own variance. Of the scene itself it is 0.6 as a rule, of
    another one 0.05."""

    matches: Matches
    y_flow: Image
    y_blocks: Image
    doubt: Floats
    shown: float

    @property
    def views(self) -> SideViews:
        """What float networks take of y."""
        return SideViews(to_planes(self.y_flow), to_planes(self.y_blocks), self.doubt)


def prepare_flow_side(y: Image, search: SearchOptions, threads: int | None = None) -> FlowSide:
    """All that does not need x_dec. `y` is uint8 H×W×3, sides multiples of BLOCK and at least
    LEAST_SIDE. Raises FrameError for other pictures."""
    _check(y)
    blurred = np.asarray(cv2.GaussianBlur(y, (0, 0), SIDE_BLUR), np.uint8)
    half = _half(blurred)
    patches = at_half_size(search).prepare(half, threads)
    return FlowSide(y, blurred, _split(blurred), half, patches, _views(blurred, 0.0))


def find_side_views(
    x_dec: Image, side: FlowSide, search: SearchOptions, threads: int | None = None
) -> FlowFound:
    """Find x_dec, uint8 and of the side image's size, in it. Raises FrameError for another size."""
    if x_dec.shape != side.y.shape or x_dec.dtype != np.uint8:
        raise FrameError("x_dec must be an 8-bit picture of the side image's size")
    small, halved = _half(x_dec), at_half_size(search)
    matches = halved.match(small, side.half, prepared=side.patches, threads=threads)
    alike = np.asarray(cv2.GaussianBlur(small, (0, 0), SIDE_BLUR / 2), np.uint8)
    exposure = exposure_of(alike, side.half, matches, halved)
    if not exposure.is_alike:
        side = _exposed(side, exposure)
    views = _views(x_dec, OWN_BLUR)
    whole = Matches(matches.row * 2, matches.col * 2, matches.score)
    with crew(threads) as share:
        start = _starts(matches, halved.patch, views.quarter.shape)
        field = smooth_flow(views, side.views, start, share)
        return _seen(x_dec, views, side, whole, search.patch, field, share)


def _seen(
    x_dec: Image, views: Views, side: FlowSide, matches: Matches, patch: tuple[int, int],
    field: Field, share: Crew[Any],
) -> FlowFound:  # fmt: skip
    """What matches and field show: band by band, so that pictures stay in the cache."""
    height, width = x_dec.shape[:2]
    refined = _unrefined(height, width)
    refine = _refiner(_split(x_dec), side.planes, matches, patch, field, refined)
    y_flow, y_blocks = (np.empty_like(x_dec) for _ in range(2))
    variance = np.empty_like(refined.cost)
    doubt = np.empty((1, 2, *refined.cost.shape), np.float32)

    def blocks(band: range) -> None:
        refine(band)
        rows = slice(band.start * BLOCK, band.stop * BLOCK)
        y_blocks[rows] = paste(side.y, refined, band)

    def flow(band: range) -> None:
        first, last = band.start, band.stop
        doubts(views.half, side.views.half, field, doubt[0, 0], variance, first, last)
        rows = slice(first * BLOCK, last * BLOCK)
        y_flow[rows] = warped(side.y, field, range(rows.start, rows.stop))

    parts = bands(len(refined.cost), BAND)
    share(
        lambda task: task[0](task[1]), [(work, band) for work in (blocks, flow) for band in parts]
    )
    doubt[0, 1] = refined.cost
    shown = float(np.mean(doubt[0, 0] < SHOWN_SHARE * (variance + NOISE**2)))
    return FlowFound(matches, y_flow, y_blocks, doubt, shown)


def refine_with_flow(
    x_dec: Image, y: Image, matches: Matches, patch: tuple[int, int], field: Field
) -> Refined:
    """Displacements of all blocks. Pictures are uint8 H×W×3, the field is of half their size."""
    refined = _unrefined(*x_dec.shape[:2])
    refine = _refiner(_split(x_dec), _split(y), matches, patch, field, refined)
    refine(range(len(refined.cost)))
    return refined


def _unrefined(height: int, width: int) -> Refined:
    grid = height // BLOCK, width // BLOCK
    return Refined(np.empty(grid, np.int32), np.empty(grid, np.int32), np.empty(grid, np.float32))


def _refiner(
    x_dec: Image, y: Image, matches: Matches, patch: tuple[int, int], field: Field, refined: Refined
) -> Callable[[range], None]:
    """What fills rows of blocks of `refined`. Pictures are uint8 (3, H, W)."""
    shifts, found = displacements(matches, patch), (refined.down, refined.right)

    def refine(rows: range) -> None:
        refine_all(
            x_dec, y, shifts, patch, field, found, refined.cost, rows.start, rows.stop
        )  # fmt: skip

    return refine


def warped(y: Image, field: Field, rows: range | None = None) -> Image:
    """Each pixel, of these rows or all, from where the field of half size says that it lies, by
    cubic convolution; the border of y goes on."""
    part = rows or range(len(y))
    row, column = np.empty((2, len(part), y.shape[1]), np.float32)
    places(field, row, column, part.start, part.stop)
    seen = cv2.remap(y, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.uint8)


def smooth_flow(x: Views, y: Views, start: Field, share: Crew[Any]) -> Field:
    """The field at half size, from a start at quarter size."""
    slopes = _slopes(x.quarter)
    found = np.empty_like(start[0]), np.empty_like(start[1])

    def search(band: range) -> None:
        search_all(x.quarter, slopes, y.quarter, start, found, band.start, band.stop)

    share(search, bands(len(found[0]), BAND))
    _smooth(x.quarter, slopes, y.quarter, found, share)
    field = _enlarged(found, x.half.shape)
    _smooth(x.half, _slopes(x.half), y.half, field, share)
    return field


def at_half_size(search: SearchOptions) -> SearchOptions:
    """The search that finds the same on pictures of half size."""
    rows, columns = search.patch
    return SearchOptions(
        (rows // 2, columns // 2), search.measure, search.prior, search.stretched, search.off_centre
    )


def _exposed(side: FlowSide, exposure: Exposure) -> FlowSide:
    """The side image at x_dec's levels; what only the correlation sees stays."""
    blurred = exposure.adapt(side.blurred)
    return side._replace(
        y=exposure.adapt(side.y), blurred=blurred, planes=_split(blurred),
        views=_views(blurred, 0.0),
    )  # fmt: skip


def _check(y: Image) -> None:
    if y.ndim != 3 or y.shape[2] != 3 or y.dtype != np.uint8:
        raise FrameError("the side image must be an 8-bit colour picture")
    if y.shape[0] % BLOCK or y.shape[1] % BLOCK or min(y.shape[:2]) < LEAST_SIDE:
        raise FrameError(
            f"sides must be multiples of {BLOCK} and at least {LEAST_SIDE}, not "
            f"{y.shape[0]}x{y.shape[1]}"
        )


def _smooth(x: Floats, slopes: Field, y: Floats, field: Field, share: Crew[Any]) -> None:
    """In place."""
    systems = np.empty((6, *field[0].shape), np.float32)

    def part(band: range) -> None:
        local_systems(x, slopes, y, field, systems, band.start, band.stop)

    for _ in range(WARPS):
        share(part, bands(len(field[0]), 2 * BAND))
        solve(field, systems, SMOOTHNESS)


def _slopes(x: Floats) -> Field:
    slopes = np.empty_like(x), np.empty_like(x)
    gradients(x, *slopes)
    return slopes


def _starts(matches: Matches, patch: tuple[int, int], size: tuple[int, ...]) -> Field:
    """Displacements at half size as a field of a picture of quarter size: of the patch that each
    window's centre lies in."""
    rows, columns = (
        np.minimum((2 * centres(length)).astype(np.int64) // side, count - 1)
        for length, side, count in zip(size, patch, matches.row.shape, strict=True)
    )
    down, right = (
        np.ascontiguousarray(shift[np.ix_(rows, columns)] / np.float32(2), np.float32)
        for shift in displacements(matches, patch)
    )
    return down, right


def centres(length: int) -> Floats:
    """Of the windows along a side of so many pixels, in pixels from its beginning."""
    count = -(-(length - WINDOW) // STRIDE) + 1
    first = np.minimum(STRIDE * np.arange(count), length - WINDOW)
    return (first + WINDOW / 2).astype(np.float32)


def _enlarged(field: Field, size: tuple[int, ...]) -> Field:
    """The field of a picture of `size`, twice as large."""
    rows, columns = (centres(length) for length in size)
    at = [(c / 2 - WINDOW / 2) / STRIDE for c in (rows, columns)]
    right, down = np.meshgrid(at[1].astype(np.float32), at[0].astype(np.float32))
    first, second = (
        cv2.remap(part, right, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in field
    )
    return np.asarray(2 * first, np.float32), np.asarray(2 * second, np.float32)


def _views(image: Image, blur: float) -> Views:
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    if blur:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), blur), np.float32)
    half = np.asarray(_means(grey), np.float32)
    return Views(half, np.asarray(_means(half), np.float32))


def _split(image: Image) -> Image:
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    fill_planes(image, planes)
    return planes


def _half(image: Image) -> Image:
    return np.asarray(_means(image), np.uint8)


def _means(image: Any) -> Any:
    """Of 2×2 values each, in whole levels where they are."""
    size = (image.shape[1] // 2, image.shape[0] // 2)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
