"""Decoded frames as a Rerun recording (extra `rerun`)."""

from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime.errors import RecordingError
from dsin.runtime.files import is_folder
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.output_names import rig_name_in_paths, unused_path
from dsin.runtime.outputs.recording_messages import RESULT_QUALITY
from dsin.runtime.pictures import Image


class RerunSink:
    """Writes an .rrd file: for each rig the pictures x_dec, result and y (JPEG, quality 90), and
    plots of bpp, age_ms and the stages, on the timelines `frame` and `captured`.

    An existing file is never touched, the new one gets a number. Each frame is handed to the file
    before `take` returns; after a kill the viewer opens what is there. Rerun reports a full disk in
    its own log only. Raises RecordingError without the package rerun-sdk, for another suffix, and
    for a folder that does not exist.
    """

    name = "rerun"

    def __init__(self, path: Path) -> None:
        if path.suffix != ".rrd":
            raise RecordingError(f"cannot write {path}: Rerun's recordings end with .rrd")
        if not is_folder(path.absolute().parent, RecordingError):
            raise RecordingError(f"cannot write {path}: its folder does not exist")
        try:
            import rerun
        except ModuleNotFoundError as error:
            raise RecordingError(
                f"--rerun needs {error.name}, which is missing: pip install 'dsin[rerun]'"
            ) from error
        self._rerun: Any = rerun
        self._stream = rerun.RecordingStream("dsin")
        self.paths = [unused_path(path)]
        try:
            self._stream.save(self.paths[0])
        except RuntimeError as error:  # all that Rerun raises where a file cannot be made
            raise RecordingError(f"cannot write {self.paths[0]}: {error}") from error

    def take(self, frame: DecodedFrame) -> None:
        """Log a frame."""
        rig = rig_name_in_paths(frame.rig)
        pixels = frame.decoded.image.shape[0] * frame.decoded.image.shape[1]
        self._stream.set_time("frame", sequence=frame.number)
        captured = np.datetime64(min(max(frame.captured_ns, 0), 2**63 - 1), "ns")
        self._stream.set_time("captured", timestamp=captured)
        self._picture(f"{rig}/x_dec", frame.decoded.x_dec)
        self._picture(f"{rig}/result", frame.decoded.image)
        if frame.side is not None:
            self._picture(f"{rig}/y", frame.side.image)
        scalars = {"bpp": 8 * len(frame.packet) / pixels, "age_ms": frame.age_ms}
        scalars |= {f"stage_ms/{name}": ms for name, ms in frame.stage_ms.items()}
        for name, value in scalars.items():
            self._stream.log(f"{rig}/{name}", self._rerun.Scalars(value))
        self._stream.flush()

    def close(self) -> None:
        """Write the footer."""
        self._stream.disconnect()

    def _picture(self, entity: str, image: Image) -> None:
        data = encode_picture(image, RESULT_QUALITY)
        encoded = self._rerun.EncodedImage(contents=data, media_type="image/jpeg")
        self._stream.log(entity, encoded)
