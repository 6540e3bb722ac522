"""Results as a ROS 2 bag (extra `ros`), without ROS."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime.errors import RecordingError
from dsin.runtime.files import is_folder
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.output_names import unused_path
from dsin.runtime.outputs.recording_messages import RESULT_QUALITY

MESSAGE = "sensor_msgs/msg/CompressedImage"
METADATA_VERSION = 8
"""The newest that every supported release of ROS 2 reads."""
LATEST_S = 2**31
"""Times of ROS 2 have 32 bits for the seconds."""


class BagSink:
    """Writes a ROS 2 bag with MCAP storage: the folder `path`.

    Each rig has the topic /RIG/result/compressed of sensor_msgs/CompressedImage (JPEG, quality 90),
    frame id RIG/x. The stamp in the header and the time in the bag are the frame's capture time in
    its camera's clock; for what was streamed from a bag, those of its pictures. What in a rig's
    name is neither a letter nor a digit becomes _ in the topic.

    Something that exists is never touched, the new bag gets a number. The bag appears when it is
    closed, whole. Raises RecordingError without rosbags, where the folder cannot be made, and for a
    time that ROS cannot hold.
    """

    name = "bag"

    def __init__(self, path: Path) -> None:
        parent = path.absolute().parent
        if not is_folder(parent, RecordingError):
            raise RecordingError(f"cannot write {path}: its folder does not exist")
        try:
            from rosbags.rosbag2 import StoragePlugin, Writer
            from rosbags.typesys import Stores, get_typestore
        except ModuleNotFoundError as error:
            raise RecordingError(
                f"--bag needs {error.name}, which is missing: pip install 'dsin[ros]'"
            ) from error
        self.paths: list[Path] = []
        self._path = path
        self._store: Any = get_typestore(Stores.ROS2_HUMBLE)
        self._connections: dict[str, Any] = {}
        try:
            self._partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
            self._writer: Any = Writer(
                self._partial / path.name, version=METADATA_VERSION,
                storage_plugin=StoragePlugin.MCAP,
            )  # fmt: skip
            self._writer.open()
        except OSError as error:
            raise RecordingError(f"cannot write {path}: {error.strerror}") from error

    def take(self, frame: DecodedFrame) -> None:
        """Write a frame. Raises RecordingError; then the bag has those before it."""
        message = self._message(frame)
        topic = f"/{_name(frame.rig)}/result/compressed"
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, MESSAGE, typestore=self._store
            )
        try:
            self._writer.write(self._connections[topic], frame.timestamp_ns, message)
        except OSError as error:
            raise RecordingError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Finish the bag and put it in its place; without a frame there is none. Raises
        RecordingError, and leaves nothing then."""
        try:
            if not self._connections:
                self._writer.abort()
                return
            self._writer.close()
            target = unused_path(self._path)
            os.replace(self._partial / self._path.name, target)
            self.paths = [target]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._writer.abort()
            raise RecordingError(f"cannot write {self._path}: {error.strerror}") from error
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _message(self, frame: DecodedFrame) -> bytes:
        types = self._store.types
        seconds, nanoseconds = divmod(frame.timestamp_ns, 10**9)
        if not 0 <= seconds < LATEST_S:
            raise RecordingError(
                f"frame {frame.number} of rig {frame.rig} was taken at {seconds} s, which ROS "
                "cannot hold: times from 1970 to 2038 can be written"
            )
        stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=f"{frame.rig}/x")
        data = np.frombuffer(encode_picture(frame.decoded.image, RESULT_QUALITY), np.uint8)
        image = types[MESSAGE](header=header, format="jpeg", data=data)
        return bytes(self._store.serialize_cdr(image, MESSAGE))


def _name(rig: str) -> str:
    """A rig's name as a part of a topic, which ROS begins with a letter."""
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in rig)
    return name if name[:1].isalpha() else f"rig_{name}"
