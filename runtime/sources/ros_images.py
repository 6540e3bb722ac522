"""Pictures in messages of ROS: sensor_msgs/Image and sensor_msgs/CompressedImage."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dsin.runtime.errors import FrameError
from dsin.runtime.link.side_pictures import decode_picture, picture_size
from dsin.runtime.pictures import Image, check_size
from dsin.runtime.sources.bag_files import INSTALL, BagMessage

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
FORWARD, BACKWARD = slice(0, 3), slice(2, None, -1)
ENCODINGS = {
    "rgb8": (3, FORWARD), "bgr8": (3, BACKWARD), "rgba8": (4, FORWARD), "bgra8": (4, BACKWARD),
    "mono8": (1, FORWARD),
}  # fmt: skip
"""Channels of a pixel, and which of them are red, green and blue."""


class RosPicture(NamedTuple):
    """A message's picture: when it was taken, how large it is (height, width), whether it is grey,
    and the message itself."""

    stamp_ns: int
    size: tuple[int, int]
    grey: bool
    name: str
    content: Any

    def image(self) -> Image:
        """RGB, H×W×3. Raises FrameError for a picture that is damaged."""
        if not hasattr(self.content, "encoding"):
            try:
                return decode_picture(self.content.data.tobytes(), self.size)
            except FrameError as error:
                raise FrameError(f"{self.name} is a damaged picture") from error
        channels, order = ENCODINGS[self.content.encoding]
        (height, width), step = self.size, self.content.step
        rows = self.content.data[: height * step].reshape(height, step)
        pixels = rows[:, : width * channels].reshape(height, width, channels)
        if channels == 1:
            return np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels[:, :, order])


def ros_picture(message: BagMessage, name: str) -> RosPicture:
    """Read a message without decoding its picture; `name` is what errors call it.

    Raises FrameError for another kind of message, pictures that are no 8-bit colour or grey, and
    messages that are damaged.
    """
    if message.kind not in (RAW, COMPRESSED):
        raise FrameError(f"{name} is a {message.kind}: give a topic of Image or CompressedImage")
    content = _deserialized(message, name)
    stamp_ns = content.header.stamp.sec * 10**9 + content.header.stamp.nanosec
    if message.kind == COMPRESSED:
        size, grey = _compressed(content, name)
        return RosPicture(stamp_ns, size, grey, name, content)
    _check_encoding(content.encoding, name)
    check_size(content.height, content.width, name)
    least = content.width * ENCODINGS[content.encoding][0]
    if content.step < least or len(content.data) < content.height * content.step:
        raise FrameError(f"{name} has fewer bytes than its size and encoding need: it is damaged")
    size = content.height, content.width
    return RosPicture(stamp_ns, size, content.encoding == "mono8", name, content)


def _compressed(content: Any, name: str) -> tuple[tuple[int, int], bool]:
    """Size, and whether it is known to be grey."""
    _check_format(content.format, name)
    data = content.data.tobytes()
    try:
        size = picture_size(data)
    except FrameError as error:
        raise FrameError(f"{name} is neither JPEG nor PNG, or was cut off") from error
    check_size(*size, name)
    depth, colours = (data[24], data[25]) if data.startswith(b"\x89PNG") else (8, None)
    if depth != 8:
        raise FrameError(f"{name} has {depth} bits, as depth has: 8-bit pictures can be coded")
    return size, colours == 0 or content.format.startswith("mono8")


def _deserialized(message: BagMessage, name: str) -> Any:
    try:
        store = _typestore(message.ros1)
        how = store.deserialize_ros1 if message.ros1 else store.deserialize_cdr
        return how(message.data, message.kind)
    except ModuleNotFoundError as error:
        raise FrameError(f"bags need {error.name}, which is missing: {INSTALL}") from error
    except Exception as error:  # as in dsin.runtime.sources.bag_files
        raise FrameError(f"{name} is damaged: it is no {message.kind}") from error


@lru_cache
def _typestore(ros1: bool) -> Any:
    """Both messages are the same in every release."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)


def _check_format(text: str, name: str) -> None:
    """CompressedImage names what was compressed, as in `16UC1; compressedDepth`, or only how."""
    encoding = text.partition(";")[0].strip()
    if "compressedDepth" in text or encoding[:4] in ("16UC", "32FC", "mono16"):
        raise FrameError(f"{name} is depth ({text[:40]}): give a topic of colour or grey pictures")
    if encoding.startswith("bayer"):
        _check_encoding(encoding, name)


def _check_encoding(encoding: str, name: str) -> None:
    if encoding in ENCODINGS:
        return
    shown = encoding[:20]
    if encoding.startswith("bayer"):
        raise FrameError(
            f"{name} is {shown}, raw values of a Bayer sensor: give the topic of colour pictures "
            "that image_proc or the camera's driver makes of it (image_color, image_rect_color)"
        )
    if encoding.startswith(("16UC", "32FC")):
        raise FrameError(f"{name} is depth ({shown}): give a topic of colour or grey pictures")
    raise FrameError(f"{name} is {shown!r}: {', '.join(ENCODINGS)} can be coded")
