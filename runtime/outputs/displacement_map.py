"""Where the search found each patch, as a picture: its distance from its own place, in colour.

Things that are near are found further away, so the picture is a coarse map of depth too; single
patches that differ from all around them are doubtful matches.
"""

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.patch_correlation import Matches
from dsin.runtime.pictures import Image

SCALES_PX = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""What the last colour may stand for: few values, so that the scale seldom changes."""
_COVERED = 0.97
"""Share of the patches that lie within the scale; the few beyond it are mostly wrong matches."""
_COLOUR = 0.62
"""Share of the colour where a patch fits well; the rest is the decoded picture in grey."""
_FITS = (0.75, 0.95)
"""Scores between which the colour appears."""


def displacements_px(matches: Matches, patch: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Distance of each match from the patch's own place, (patch rows, patch columns)."""
    rows, columns = matches.row.shape
    own_row = np.arange(rows)[:, None] * patch[0]
    own_col = np.arange(columns)[None, :] * patch[1]
    distance: npt.NDArray[np.float32] = np.hypot(
        (matches.row - own_row).astype(np.float32), (matches.col - own_col).astype(np.float32)
    )
    return distance


def scale_px(distance: npt.NDArray[np.float32]) -> int:
    """A scale that covers nearly all of them."""
    needed = float(np.quantile(distance, _COVERED, method="higher"))
    return next((scale for scale in SCALES_PX if scale >= needed), SCALES_PX[-1])


def displacement_map(
    picture: Image, matches: Matches, patch: tuple[int, int], scale: int
) -> Image:  # fmt: skip
    """The patches' distances over the picture in grey, RGB uint8 of its size.

    0 px is dark blue, `scale` and more dark red (OpenCV's TURBO); patches that fit badly are pale.
    """
    height, width = picture.shape[:2]
    level = np.clip(displacements_px(matches, patch) / scale, 0, 1)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    low, high = _FITS
    share = np.clip((matches.score - low) / (high - low), 0.1, 1)
    if float(matches.score.max()) <= 0:  # distances in colour (`l2`) have no such scale
        share = np.ones_like(matches.score)
    alpha = (_COLOUR * share)[:, :, None]
    kept = _on_patches(255 * (1 - alpha).repeat(3, axis=2), patch, height, width)
    laid_over = _on_patches(alpha * colours, patch, height, width)
    mixed = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.multiply(mixed, kept, dst=mixed, scale=1 / 255)
    cv2.add(mixed, laid_over, dst=mixed)
    return np.asarray(mixed, np.uint8)


def _on_patches(
    values: npt.NDArray[np.float64], patch: tuple[int, int], height: int, width: int
) -> Image:
    """One colour a patch to one a pixel, uint8; the last row and column of patches are cut."""
    rows, columns = values.shape[:2]
    size = columns * patch[1], rows * patch[0]
    whole = cv2.resize(np.rint(values).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(whole[:height, :width], np.uint8)
