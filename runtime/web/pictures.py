"""The pictures of a frame as a browser takes them: made when first asked for, then kept."""

from concurrent.futures import Executor, Future
from typing import Any

import cv2
import numpy as np

from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.displacement_map import displacement_map, displacements_px, scale_px
from dsin.runtime.pictures import Image

VIEWS = ("result", "x_dec", "side", "matches", "y_syn", "positions")
"""`positions` is no picture: for each patch, row by row, column and row where it was found, int16
little-endian."""
QUALITY = 85
WIDEST = 1280
"""Wider pictures are made smaller: the page shows two side by side."""


class FramePictures:
    """Views of one frame, each encoded once for all viewers by `workers`.

    `patch` is the search's (rows, columns). Used from one thread.
    """

    def __init__(self, frame: DecodedFrame, patch: tuple[int, int], workers: Executor) -> None:
        self.frame = frame
        self._patch = patch
        self._workers = workers
        self._made: dict[str, Future[bytes]] = {}

    @property
    def available(self) -> list[str]:
        """Names of the views that this frame has."""
        parts = self.frame.decoded
        views = ["result", "x_dec"]
        if self.frame.side is not None:
            views.append("side")
        if parts.matches is not None:
            views += ["matches", "positions"]
        if parts.y_syn is not None:
            views.append("y_syn")
        return views

    def get(self, view: str) -> "Future[bytes]":
        """A JPEG file (or the positions) of an available view."""
        if view not in self._made:
            self._made[view] = self._workers.submit(self._make, view)
        return self._made[view]

    def search(self) -> dict[str, Any] | None:
        """What the page needs to know of the matches: grid and patch size, scale of colours."""
        matches = self.frame.decoded.matches
        if matches is None:
            return None
        rows, columns = matches.row.shape
        scale = scale_px(displacements_px(matches, self._patch))
        return {"rows": rows, "columns": columns, "patch": self._patch, "scale_px": scale}

    def _make(self, view: str) -> bytes:
        if view == "positions":
            matches = self.frame.decoded.matches
            assert matches is not None
            return np.stack([matches.col, matches.row], axis=-1).astype("<i2").tobytes()
        return to_jpeg(self._picture(view))

    def _picture(self, view: str) -> Image:
        frame = self.frame
        if view == "side":
            assert frame.side is not None
            return frame.side.image
        if view == "matches":
            matches = frame.decoded.matches
            assert matches is not None
            scale = scale_px(displacements_px(matches, self._patch))
            return displacement_map(frame.decoded.x_dec, matches, self._patch, scale)
        picture: Image = {
            "result": frame.decoded.image, "x_dec": frame.decoded.x_dec,
            "y_syn": frame.decoded.y_syn,
        }[view]  # type: ignore[assignment]  # fmt: skip
        return picture


def to_jpeg(picture: Image) -> bytes:
    """RGB uint8 as a JPEG file, at most WIDEST pixels wide."""
    height, width = picture.shape[:2]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if width > WIDEST:
        size = WIDEST, max(1, round(height * WIDEST / width))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV made no JPEG of {width}x{height} pixels")
    return data.tobytes()
