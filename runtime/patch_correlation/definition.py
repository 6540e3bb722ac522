"""PatchCorrelation: where in the side image does every patch of the decoded image lie?

The side-information search of the DSIN paper (section 3.2). x_dec is cut into patches that do not
overlap; each is compared with every window of y_dec, weighted by a Gaussian prior around the
patch's own place, and the best window's content is copied from y:

    x_dec ─► patches ─┐
    y_dec ─► windows ─┴─► score(patch, window) × prior ─► first best position ─► piece of y ─► y_syn

`patch_correlation` is the definition of the whole, `match_reference` of the search in it; `match`
is the fast exact search (`dsin.runtime.patch_correlation.patch_search`).

Score. `pearson`: correlation in the space (R+G, R-G, (R+B)/2) of the normalised channels, with one
mean and one variance over all three channels of a window jointly; times the prior. `l2`: minus the
sum of squared differences in CIE L*a*b*, divided by the prior.

Ties go to the first position in raster order: to the first row of windows whose best score is
within `TIE` of the best, and therein to the first column within `TIE` of the row's best (with `l2`,
`TIE` for each value of a patch, and distances below it are 0). With `pearson`, a window without
variance scores 0, and a patch without variance takes its own place with score 0.

Sizes. Any image of at least one patch will do. Where the patch does not divide the image, the last
row or column of patches is partial: it fills the pixels that are left, but is compared as a whole
patch, the one that ends at the image's edge, so that thin remainders are not matched by chance.
Its position is that of the piece that fills those pixels, as it is for every other patch.

Values. x_dec and y_dec are clipped to 0..255, and what is not a number counts as 0: every
implementation then gives the same result on every input. y is copied as it is.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from dsin.runtime.errors import FrameError

Image = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Measure = Literal["pearson", "l2"]

MEAN = (93.70454143384742, 98.28243432206516, 94.84678088809876)
"""Mean of R, G and B that the search subtracts, 0..255."""
STD = (73.56493292844912, 75.88547006820752, 76.74838442810665)
"""Standard deviation of R, G and B that the search divides by."""
PRIOR_WIDTH = 0.5
"""Full width at half maximum of the prior, as a fraction of the image."""
TIE = 1e-9
"""Scores closer than this are equal: more than the rounding of any order of summation."""
NO_VARIANCE = 1e-4
"""Norm of a centred window below which it counts as flat; one grey level in one pixel is 0.01."""
H_SPACE = np.array([[1, 1, 0], [1, -1, 0], [0.5, 0, 0.5]])
"""Rows: H1, H2, H3 of the normalised R, G, B."""


TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.950456], [1.0], [1.088754]])
"""Linear R, G, B to CIE X, Y, Z of the D65 white."""


class Matches(NamedTuple):
    """Best positions and their scores, each (patch rows, patch columns).

    `row` and `col` (int32) are the top left corner in y, in pixels; `score` is float32.
    """

    row: npt.NDArray[np.int32]
    col: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]


class Correlated(NamedTuple):
    """What `patch_correlation` returns, with a leading batch axis if the images have one.

    `y_syn` is of y's shape and type; `row`, `col` (int32) and `score` (float64) as in `Matches`.
    """

    y_syn: Image
    row: npt.NDArray[np.int32]
    col: npt.NDArray[np.int32]
    score: Float64


@dataclass(frozen=True)
class PreparedSide:
    """What the search needs of y_dec alone; `prepare` makes it.

    `image` is y_dec with its values as the search takes them. For `pearson`: `planes` (3, H, W) and
    `mixed` (H, 3 · W) are y_dec in a rotated H-space; of each window, (rows, columns),
    `inverse_norm` is 1 / its norm once centred or 0, `doubt` what float32 may err by in its score,
    and `features` (rows, K + 1, columns) its leading DCT coefficients and the norm of the rest. For
    `l2` these are empty.
    """

    image: npt.NDArray[np.float32]
    patch: tuple[int, int]
    measure: Measure
    planes: npt.NDArray[np.float32]
    mixed: npt.NDArray[np.float32]
    inverse_norm: npt.NDArray[np.float32]
    doubt: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


def prepare(
    y_dec: Image,
    patch: tuple[int, int] = (20, 24),
    *,
    measure: Measure = "pearson",
    threads: int | None = None,
) -> PreparedSide:
    """Do the part of the search that does not need x_dec.

    y_dec is RGB H×W×3, 0..255, uint8 or float32, at least as large as a patch.
    Raises FrameError for anything else.
    """
    from dsin.runtime.patch_correlation import patch_search

    check_image("y_dec", y_dec, patch)
    return patch_search.prepare(y_dec, patch, measure, threads)


def match(
    x_dec: Image,
    y_dec: Image,
    *,
    patch: tuple[int, int] = (20, 24),
    prior: bool = True,
    measure: Measure = "pearson",
    off_centre: bool = False,
    prepared: PreparedSide | None = None,
    threads: int | None = None,
) -> Matches:
    """The best window of y_dec for every patch of x_dec: the definition's positions, fast.

    Images are RGB H×W×3, 0..255, uint8 or float32, both of the same size, at least that of
    `patch` (height, width). `off_centre` moves the prior's peak one pixel right and down, as the
    original implementation has it. `prepared` is `prepare(y_dec, ...)` if that was done before.
    `threads` limits the threads, by default one per core; the result does not depend on it.

    Raises FrameError for images of another type, shape or size.
    """
    from dsin.runtime.patch_correlation import patch_search

    check_pair(x_dec, y_dec, patch)
    if prepared is None:
        prepared = patch_search.prepare(y_dec, patch, measure, threads)
    elif (prepared.image.shape, prepared.patch, prepared.measure) != (y_dec.shape, patch, measure):
        raise FrameError("the prepared side image has another size, patch or measure: prepare anew")
    weights = prior_weights(x_dec.shape[:2], patch, off_centre=off_centre) if prior else None
    return patch_search.search(x_dec, prepared, weights, threads)


def patch_correlation(
    x_dec: Image,
    y_dec: Image,
    y: Image,
    *,
    patch: tuple[int, int] = (20, 24),
    prior: bool = True,
    measure: Measure = "pearson",
    off_centre: bool = False,
    stretched: bool = False,
) -> Correlated:
    """The definition: search x_dec in y_dec, in float64 over all positions, and copy from y.

    Images are RGB, H×W×3 or N×H×W×3, 0..255, uint8 or float32, all of one shape. Arguments and
    errors otherwise as for `match` and `synthesise`. Slow: for comparison, not for use.
    """
    if isinstance(x_dec, np.ndarray) and x_dec.ndim == 4:
        check_batch(x_dec, y_dec, y)
        each = [
            patch_correlation(
                *images, patch=patch, prior=prior, measure=measure, off_centre=off_centre,
                stretched=stretched,
            )
            for images in zip(x_dec, y_dec, y, strict=True)
        ]  # fmt: skip
        return Correlated(*(np.stack(parts) for parts in zip(*each, strict=True)))
    check_image("y", y, patch)
    row, col, score = _search_all(x_dec, y_dec, patch, prior, measure, off_centre)
    matches = Matches(row, col, score.astype(np.float32))
    check_sizes(x_dec, y, "y")
    return Correlated(synthesise(y, matches, patch, stretched=stretched), row, col, score)


def match_reference(
    x_dec: Image,
    y_dec: Image,
    *,
    patch: tuple[int, int] = (20, 24),
    prior: bool = True,
    measure: Measure = "pearson",
    off_centre: bool = False,
) -> Matches:
    """The definition of the search. Arguments and errors as for `match`."""
    row, col, score = _search_all(x_dec, y_dec, patch, prior, measure, off_centre)
    return Matches(row, col, score.astype(np.float32))


def _search_all(
    x_dec: Image,
    y_dec: Image,
    patch: tuple[int, int],
    prior: bool,
    measure: Measure,
    off_centre: bool,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64]:
    """Positions and scores, each (patch rows, patch columns)."""
    check_pair(x_dec, y_dec, patch)
    size = x_dec.shape[:2]
    colours = to_h_space if measure == "pearson" else rgb_to_lab
    patches = cut(colours(x_dec), patch)
    down, across = prior_weights(size, patch, off_centre=off_centre)
    grid = (len(down), len(across))
    i, j = np.indices(grid).reshape(2, -1)
    down, across = (
        (down[i], across[j]) if prior else (np.ones_like(down[i]), np.ones_like(across[j]))
    )
    row, col, score = first_best(patches, colours(y_dec), patch, measure, down, across)
    own_row, own_col = (own[k] for own, k in zip(origins(size, patch), (i, j), strict=True))
    if measure == "pearson":
        flat = ~unit(patches).any(1)
        row[flat], col[flat], score[flat] = own_row[flat], own_col[flat], 0
    # From the window's corner to that of the piece: they differ for partial patches only.
    row += i.astype(np.int32) * patch[0] - own_row
    col += j.astype(np.int32) * patch[1] - own_col
    return row.reshape(grid), col.reshape(grid), score.reshape(grid)


def origins(
    size: tuple[int, ...], patch: tuple[int, int]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Where the patches that are compared begin, (patch rows,) and (patch columns,), in pixels."""
    first, second = (
        np.minimum(np.arange(-(-length // step)) * step, length - step).astype(np.int32)
        for length, step in zip(size, patch, strict=True)
    )
    return first, second


def first_best(
    patches: Float64,
    image: Float64,
    patch: tuple[int, int],
    measure: Measure,
    down: Float64,
    across: Float64,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64]:
    """Row, column and score of the best window of `image` for each of N patches from `cut`.

    The prior is down (N, rows) times across (N, columns).
    """
    windows = sliding_window_view(image, patch, axis=(0, 1))
    rows, columns = windows.shape[:2]
    tie = tie_of(measure, patch)
    top = np.empty((len(patches), rows))
    first = np.empty((len(patches), rows), np.int32)
    for r in range(rows):
        here = windows[r].reshape(columns, -1)
        weight = down[:, r, None] * across
        if measure == "pearson":
            score = unit(patches) @ unit(here).T * weight
        else:
            score = -squared_distances(patches, here) / weight
        top[:, r] = score.max(1)
        first[:, r] = (score >= top[:, r, None] - tie).argmax(1)
    row = (top >= top.max(1, keepdims=True) - tie).argmax(1).astype(np.int32)
    every = np.arange(len(patches))
    return row, first[every, row], top[every, row]


def tie_of(measure: Measure, patch: tuple[int, int]) -> float:
    """Scores no further apart than this are equal."""
    return TIE if measure == "pearson" else TIE * 3 * patch[0] * patch[1]


def scores_at(
    x_dec: Image,
    y_dec: Image,
    row: npt.NDArray[np.int32],
    col: npt.NDArray[np.int32],
    *,
    patch: tuple[int, int] = (20, 24),
    prior: bool = True,
    measure: Measure = "pearson",
    off_centre: bool = False,
) -> Float64:
    """The definition's scores of given positions, (patch rows, patch columns).

    Tells whether two searches that differ in a position differ in earnest.
    """
    colours = to_h_space if measure == "pearson" else rgb_to_lab
    i, j = np.indices(row.shape)
    own = origins(x_dec.shape[:2], patch)
    top, left = row + own[0][i] - i * patch[0], col + own[1][j] - j * patch[1]
    a = cut(colours(x_dec), patch)
    windows = sliding_window_view(colours(y_dec), patch, axis=(0, 1))
    b = windows[top, left].reshape(a.shape)
    weight = np.ones(row.shape)
    if prior:
        down, across = prior_weights(x_dec.shape[:2], patch, off_centre=off_centre)
        weight = down[i, top] * across[j, left]
    if measure == "pearson":
        score: Float64 = (unit(a) * unit(b)).sum(1).reshape(row.shape) * weight
    else:
        score = -((a - b) ** 2).sum(1).reshape(row.shape) / weight
    return score


def prior_weights(
    size: tuple[int, ...], patch: tuple[int, int], *, off_centre: bool = False
) -> tuple[Float64, Float64]:
    """The Gaussian prior's two factors, 0..1: (patch rows, window rows) and the same across.

    The prior of patch (i, j) at window (r, c) is down[i, r] · across[j, c].
    """

    def along(own: npt.NDArray[np.int32], length: int, step: int) -> Float64:
        distance = np.arange(length - step + 1)[None] - own[:, None] - int(off_centre)
        weight: Float64 = np.exp(-4 * math.log(2) * (distance / (PRIOR_WIDTH * length)) ** 2)
        return weight

    own = origins(size, patch)
    return along(own[0], size[0], patch[0]), along(own[1], size[1], patch[1])


def levels(rgb: Image) -> Float64:
    """Clipped to 0..255; what is not a number becomes 0."""
    return np.clip(np.nan_to_num(rgb.astype(np.float64), nan=0, posinf=255, neginf=0), 0, 255)


def to_h_space(rgb: Image) -> Float64:
    """RGB (..., 3) to (R+G, R-G, (R+B)/2) of the normalised channels (section 3.2)."""
    result: Float64 = (levels(rgb) - MEAN) / STD @ H_SPACE.T
    return result


def rgb_to_lab(rgb: Image) -> Float64:
    """sRGB (..., 3) to CIE L*a*b* under D65 (IEC 61966-2-1 and CIE 15)."""
    v = levels(rgb) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / 0.128419 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def cut(image: Float64, patch: tuple[int, int]) -> Float64:
    """Patches of an image (H, W, 3), row-major: (patches, 3·height·width), channel by channel."""
    rows, cols = origins(image.shape[:2], patch)
    windows = sliding_window_view(image, patch, axis=(0, 1))
    patches: Float64 = windows[rows[:, None], cols].reshape(len(rows) * len(cols), -1)
    return patches


def unit(vectors: Float64) -> Float64:
    """Each row centred and of norm 1, or 0 where it has no variance."""
    centred = vectors - vectors.mean(1, keepdims=True)
    norm = np.sqrt((centred**2).sum(1, keepdims=True))
    return np.where(norm > NO_VARIANCE, centred / np.maximum(norm, NO_VARIANCE), 0.0)


def squared_distances(a: Float64, b: Float64) -> Float64:
    """Between all rows of a and of b: (len(a), len(b)); 0 where it is below TIE for each value."""
    own = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    distance = own - 2 * (a @ b.T)
    return np.where(distance < TIE * a.shape[1], 0.0, distance)


def synthesise(
    y: Image, matches: Matches, patch: tuple[int, int] = (20, 24), *, stretched: bool = False
) -> Image:
    """Put the matched pieces of y (H×W×3, uint8 or float32) together: y_syn, of the same size.

    A plain copy in y's type; with `stretched`, float32 pieces resampled from a window about one
    pixel larger, as the original implementation has them, where the patch divides the image
    (FrameError otherwise).
    """
    ph, pw = patch
    height, width, channels = y.shape
    if stretched:
        if height % ph or width % pw:
            raise FrameError(
                f"y is {width}x{height}: stretched patches of {pw}x{ph} must divide it"
            )
        pieces = _resampled(y.astype(np.float32), matches, patch)
    else:
        # Beyond the edge there are only pixels of partial patches that are cut off below.
        r = np.minimum(matches.row[:, :, None, None] + np.arange(ph)[:, None], height - 1)
        c = np.minimum(matches.col[:, :, None, None] + np.arange(pw), width - 1)
        pieces = y[r, c]
    rows, cols = matches.row.shape
    picture: Image = pieces.transpose(0, 2, 1, 3, 4).reshape(rows * ph, cols * pw, channels)
    return picture[:height, :width]


def _resampled(y: Image, matches: Matches, patch: tuple[int, int]) -> Image:
    """TensorFlow's crop_and_resize of the boxes (row/H, col/W, (row+ph)/H, (col+pw)/W)."""
    (r0, r1, fr), (c0, c1, fc) = (
        _box_samples(start, size, length)
        for start, size, length in zip((matches.row, matches.col), y.shape[:2], patch, strict=True)
    )
    r0, r1, fr = r0[..., None], r1[..., None], fr[..., None, None]
    c0, c1, fc = c0[:, :, None], c1[:, :, None], fc[:, :, None, :, None]
    top = y[r0, c0] + (y[r0, c1] - y[r0, c0]) * fc
    low = y[r1, c0] + (y[r1, c1] - y[r1, c0]) * fc
    pieces: Image = top + (low - top) * fr
    return pieces


def _box_samples(
    start: npt.NDArray[np.int32], size: int, length: int
) -> tuple[Image, Image, Image]:
    """Floor, ceiling and fraction of the sample coordinates, in float32 as TensorFlow's are."""
    low = (start / size).astype(np.float32)
    high = ((start + length) / size).astype(np.float32)
    step = (high - low) * np.float32(size - 1) / np.float32(length - 1)
    at = (
        low[..., None] * np.float32(size - 1)
        + np.arange(length, dtype=np.float32) * step[..., None]
    )
    first = np.clip(np.floor(at), 0, size - 1)
    last = np.clip(np.ceil(at), 0, size - 1)
    return first.astype(np.int64), last.astype(np.int64), at - first


def check_pair(x_dec: Image, y_dec: Image, patch: tuple[int, int]) -> None:
    """Raise FrameError unless both images suit the search and each other."""
    check_image("x_dec", x_dec, patch)
    check_image("y_dec", y_dec, patch)
    check_sizes(x_dec, y_dec, "y_dec")


def check_sizes(x_dec: Image, other: Image, name: str) -> None:
    """Raise FrameError unless both images are of one size."""
    if x_dec.shape != other.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (x_dec, other)]
        raise FrameError(f"x_dec is {sizes[0]} but {name} is {sizes[1]}: they must be of one size")


def check_batch(*images: Image) -> None:
    """Raise FrameError unless all images are N×H×W×3 of one N."""
    shapes = [np.shape(image) for image in images]
    if any(len(shape) != 4 for shape in shapes) or len({shape[0] for shape in shapes}) != 1:
        listed = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise FrameError(f"a batch needs images of shape N x height x width x 3, not {listed}")


def check_image(name: str, image: Image, patch: tuple[int, int]) -> None:
    """Raise FrameError unless the image is RGB H×W×3 and at least as large as a patch."""
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
        kind = getattr(image, "dtype", type(image).__name__)
        raise FrameError(f"{name} is of type {kind}: uint8 or float32 is needed")
    if image.ndim != 3 or image.shape[2] != 3:
        shape = "x".join(map(str, image.shape))
        raise FrameError(f"{name} has shape {shape}: height x width x 3 is needed")
    check_extent(name, image.shape, patch)


def check_extent(name: str, size: tuple[int, ...], patch: tuple[int, int]) -> None:
    """Raise FrameError unless patch and image have sizes that fit; `size` starts height, width."""
    if patch[0] < 1 or patch[1] < 1:
        raise FrameError(f"a patch of {patch[1]}x{patch[0]} has no pixels")
    if size[0] < patch[0] or size[1] < patch[1]:
        raise FrameError(
            f"{name} is {size[1]}x{size[0]}, smaller than a patch of {patch[1]}x{patch[0]}"
        )
