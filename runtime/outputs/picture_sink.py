"""Decoded frames as picture files, one folder for each rig."""

from pathlib import Path

import numpy as np

from dsin.runtime.errors import DsinError
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.output_names import rig_name_in_paths
from dsin.runtime.outputs.panels import Panel, side_by_side
from dsin.runtime.quick_png import write_quickly

SUFFIXES = (".png", ".jpg", ".jpeg")
EMPTY_PANEL = 40
"""Grey level of a picture that is not there."""


class PictureSink:
    """Writes FOLDER/RIG/frame_000123.png, each file whole or not at all.

    `suffix` is .png, or .jpg (quality 95). With `panels` it also writes panels_000123 with four
    pictures on one sheet: x_dec, the side image, y_syn and the result. A camera that starts again
    counts from its own start, so its frames replace those of the same number. Raises DsinError for
    another suffix, and for a folder that cannot be made.
    """

    name = "pictures"

    def __init__(self, folder: Path, suffix: str = ".png", *, panels: bool = False) -> None:
        if suffix not in SUFFIXES:
            raise DsinError(f"pictures are written as {', '.join(SUFFIXES)}, not {suffix!r}")
        self.paths = [folder]
        self._folder = folder
        self._suffix = suffix
        self._panels = panels
        _make_folder(folder)

    def take(self, frame: DecodedFrame) -> None:
        """Write a frame's pictures. Raises DsinError, for a full disk for instance."""
        folder = self._folder / rig_name_in_paths(frame.rig)
        _make_folder(folder)
        number = f"{frame.number:06d}{self._suffix}"
        write_quickly(folder / f"frame_{number}", frame.decoded.image)
        if self._panels:
            sheet = side_by_side(frame_panels(frame))
            write_quickly(folder / f"panels_{number}", sheet)

    def close(self) -> None:
        """Nothing is pending."""


def frame_panels(frame: DecodedFrame) -> list[Panel]:
    """What decoding a frame saw and made, four panels; a picture that is not there is grey."""
    decoded = frame.decoded
    bpp = 8 * len(frame.packet) / (decoded.image.shape[0] * decoded.image.shape[1])
    empty = np.full_like(decoded.x_dec, EMPTY_PANEL)
    side = empty if frame.side is None else frame.side.image
    y_syn = empty if decoded.y_syn is None else decoded.y_syn
    return [
        Panel(decoded.x_dec, "x_dec", f"from the packet alone, {bpp:.4f} bit per pixel"),
        Panel(side, "y", f"side image: {frame.side_use.value}"),
        Panel(y_syn, "y_syn", "patches of the side image"),
        Panel(decoded.image, "result", f"frame {frame.number}, {frame.age_ms:.0f} ms old"),
    ]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DsinError(f"cannot write pictures to {folder}: {error.strerror}") from error
