"""Bags as ROS's own tools write them, made by the writers of rosbags."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.pictures import Image

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
STEP_NS = 100_000_000
Storage = Literal["ros1", "sqlite", "mcap"]


class Shot(NamedTuple):
    """A message to write: `content` is a picture, H×W×3 or H×W, or the bytes of a file."""

    topic: str
    stamp_ns: int
    content: Image | bytes
    encoding: str = "rgb8"
    log_ns: int | None = None


@lru_cache
def typestore(ros1: bool) -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)


def picture(number: int, size: tuple[int, int] = (24, 32)) -> Image:
    """One that differs for each number, in red from green and blue."""
    picture = np.full((*size, 3), 3 * number, np.uint8)
    picture[:, :, 0] += 100
    picture[: size[0] // 2, :, 2] += 50
    return picture


def rig(count: int = 4, *, encoding: str = "rgb8", late_ns: int = 3_000_000) -> list[Shot]:
    """Two cameras, /l and /r, whose pictures differ; those of /r are taken a little later."""
    shots = []
    for number in range(count):
        for topic, first, late in (("/l", 0, 0), ("/r", 40, late_ns)):
            content = _as_encoded(picture(first + number), encoding)
            shots.append(Shot(topic, 10**9 + number * STEP_NS + late, content, encoding))
    return shots


def _as_encoded(image: Image, encoding: str) -> Image | bytes:
    if encoding in ("png", "jpeg"):
        return encode_picture(image, None if encoding == "png" else 95)
    if encoding == "mono8":
        return np.ascontiguousarray(image[:, :, 0])
    order = [2, 1, 0] if encoding.startswith("bgr") else [0, 1, 2]
    pixels = image[:, :, order]
    if encoding.endswith("a8"):
        pixels = np.concatenate([pixels, np.full((*image.shape[:2], 1), 7, np.uint8)], axis=2)
    return np.ascontiguousarray(pixels)


def message(shot: Shot, ros1: bool) -> tuple[bytes, str]:
    """A serialised message and its type."""
    store = typestore(ros1)
    kinds = store.types
    time = kinds["builtin_interfaces/msg/Time"](*divmod(shot.stamp_ns, 10**9))
    fields: dict[str, Any] = {"stamp": time, "frame_id": "camera"} | ({"seq": 0} if ros1 else {})
    header = kinds["std_msgs/msg/Header"](**fields)
    if isinstance(shot.content, bytes):
        kind, data = COMPRESSED, np.frombuffer(shot.content, np.uint8)
        content = kinds[kind](header=header, format=shot.encoding, data=data)
    else:
        kind, pixels = RAW, shot.content
        height, width = pixels.shape[:2]
        # Some drivers pad their rows.
        rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, 4)))
        content = kinds[kind](
            header=header, height=height, width=width, encoding=shot.encoding, is_bigendian=0,
            step=rows.shape[1], data=rows.reshape(-1),
        )  # fmt: skip
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    return bytes(serialize(content, kind)), kind


def write_bag(
    path: Path, shots: Sequence[Shot], storage: Storage, compression: str = ""
) -> Path:  # fmt: skip
    """A bag with these messages; where `path` says, or for ROS 2 a folder of that name."""
    ros1 = storage == "ros1"
    store, connections = typestore(ros1), dict[str, Any]()
    with _writer(path, storage, compression) as writer:
        for shot in shots:
            data, kind = message(shot, ros1)
            if shot.topic not in connections:
                connections[shot.topic] = writer.add_connection(shot.topic, kind, typestore=store)
            log_ns = shot.stamp_ns if shot.log_ns is None else shot.log_ns
            writer.write(connections[shot.topic], log_ns, data)
    return path


def _writer(path: Path, storage: Storage, compression: str) -> Any:
    if storage == "ros1":
        from rosbags.rosbag1 import Writer as Writer1

        one = Writer1(path)
        if compression:
            one.set_compression(Writer1.CompressionFormat[compression.upper()])
        return one
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    two = Writer(path, version=8, storage_plugin=plugin)
    if compression:
        two.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    return two
