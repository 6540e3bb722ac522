"""Messages of ROS bags, ROS 1 and ROS 2 (SQLite and MCAP), without ROS.

rosbags (extra `ros`) reads ROS 1 and SQLite. MCAP goes through McapReader, which needs no index and
reads a file that was cut off up to the cut. No bag is believed: what a chunk unpacks to is bounded,
and the definitions of messages in it are not used.
"""

import bz2
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dsin.runtime.errors import FrameError, RecordingError
from dsin.runtime.files import entries, exists, is_folder
from dsin.runtime.sources.mcap_reader import RECORD_BYTES, McapReader, unpack_lz4, unpack_zstd
from dsin.runtime.sources.notices import tell
from dsin.runtime.sources.picture_folders import natural_order

INSTALL = "pip install 'dsin[ros]'"
ROS1, SQLITE, MCAP = ".bag", ".db3", ".mcap"
_ZSTD, _LZ4, _BZIP2 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"BZh"


class BagMessage(NamedTuple):
    """A message as the bag has it; `kind` is its type, as sensor_msgs/msg/Image."""

    topic: str
    kind: str
    log_ns: int
    data: bytes
    ros1: bool


class BagFiles(NamedTuple):
    """The files of a bag, in the order of recording, each with its size and time of change."""

    path: Path
    files: tuple[tuple[Path, int, int], ...]

    def messages(self, topic: str) -> Iterator[BagMessage]:
        """Of one topic, in the order of recording. Raises FrameError for a file that cannot be
        read."""
        for file, _, _ in self.files:
            with _readable(file):
                yield from _READERS[file.suffix](file, topic)

    def topics(self) -> dict[str, str]:
        """The type of each topic's messages. Raises FrameError."""
        found: dict[str, str] = {}
        for file, _, _ in self.files:
            with _readable(file):
                found |= _TOPICS[file.suffix](file)
        return found


def bag_files(path: Path) -> BagFiles:
    """The files of a ROS 1 bag (.bag), or of a ROS 2 bag: a folder, or one of its files.

    Raises FrameError for what is none.
    """
    if is_folder(path, FrameError):
        visible = (file for file in entries(path, FrameError) if not file.name.startswith("."))
        found = sorted(visible, key=natural_order)
        files = [file for file in found if file.suffix in (SQLITE, MCAP)]
        compressed = [file for file in found if file.suffix == ".zstd"]
        if compressed and not files:
            raise FrameError(f"{path} is compressed as a whole: unpack it (unzstd {compressed[0]})")
        if not files:
            raise FrameError(f"{path} is not a bag: a ROS 2 bag is a folder with .db3 or .mcap")
    elif not exists(path, FrameError):
        raise FrameError(f"there is no bag {path}")
    elif path.suffix not in _READERS:
        raise FrameError(f"{path} is not a bag: .bag, .db3, .mcap and folders of them can be read")
    else:
        files = [path]
    states = [file.stat() for file in files]
    return BagFiles(
        path, tuple((f, s.st_size, s.st_mtime_ns) for f, s in zip(files, states, strict=True))
    )  # fmt: skip


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Whatever goes wrong in reading a file that may hold anything is told in one line."""
    try:
        yield
    except FrameError:
        raise
    except RecordingError as error:
        raise FrameError(str(error)) from error
    except ModuleNotFoundError as error:
        raise FrameError(f"bags need {error.name}, which is missing: {INSTALL}") from error
    except Exception as error:  # rosbags lets struct's, SQLite's and others' errors through
        if "not indexed" in str(error):
            raise FrameError(f"{file} has no index: make one (rosbag reindex {file})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        cure = "rosbag reindex" if file.suffix == ROS1 else "ros2 bag reindex"
        raise FrameError(
            f"{file} is damaged, was cut off or is no bag ({reason[:120]}): try {cure}"
        ) from error


def _ros1_messages(file: Path, topic: str) -> Iterator[BagMessage]:
    with _ros1(file) as reader:
        connections = [each for each in reader.connections if each.topic == topic]
        if not connections:
            return
        for connection, log_ns, data in reader.messages(connections):
            yield BagMessage(topic, connection.msgtype, log_ns, bytes(data), True)


def _ros1_topics(file: Path) -> dict[str, str]:
    with _ros1(file) as reader:
        return {each.topic: each.msgtype for each in reader.connections}


@contextmanager
def _ros1(file: Path) -> Iterator[Any]:
    from rosbags.rosbag1 import Reader

    with Reader(file) as reader:
        for place, chunk in reader.chunks.items():
            if chunk.datasize > RECORD_BYTES:
                raise FrameError(f"{file} has a chunk of {chunk.datasize} bytes: it is damaged")
            reader.chunks[place] = chunk._replace(decompressor=_unpacked)
        yield reader


def _sqlite_messages(file: Path, topic: str) -> Iterator[BagMessage]:
    from rosbags.rosbag2 import Reader

    with Reader(file) as reader:
        connections = [each for each in reader.connections if each.topic == topic]
        if not connections:
            return
        for connection, log_ns, data in reader.messages(connections):
            yield BagMessage(topic, connection.msgtype, log_ns, _unpacked(bytes(data)), False)


def _sqlite_topics(file: Path) -> dict[str, str]:
    from rosbags.rosbag2 import Reader

    with Reader(file) as reader:
        return {each.topic: each.msgtype for each in reader.connections}


def _mcap_messages(file: Path, topic: str) -> Iterator[BagMessage]:
    reader = McapReader(file)
    for message in reader:
        if message.topic == topic:
            ros1, data = message.encoding == "ros1", _unpacked(message.data)
            kind = _normal_kind(message.schema)
            yield BagMessage(topic, kind, message.log_ns, data, ros1)
    if not reader.complete:
        tell(f"{file} was cut off: what lies before the cut is read")
    if reader.lost_ns or (reader.complete and reader.lost_bytes):
        lost = f"{reader.lost_bytes} bytes of it, {reader.lost_ns / 1e9:.1f} s,"
        tell(f"{file} is damaged: {lost} could not be used")


def _mcap_topics(file: Path) -> dict[str, str]:
    return {each.topic: _normal_kind(each.schema) for each in McapReader(file)}


def _normal_kind(schema: str) -> str:
    """ROS 1's sensor_msgs/Image is ROS 2's sensor_msgs/msg/Image."""
    package, _, name = schema.partition("/")
    return f"{package}/msg/{name}" if name and "/" not in name else schema


_READERS = {ROS1: _ros1_messages, SQLITE: _sqlite_messages, MCAP: _mcap_messages}
_TOPICS = {ROS1: _ros1_topics, SQLITE: _sqlite_topics, MCAP: _mcap_topics}


def _unpacked(data: bytes) -> bytes:
    """A chunk or message, decompressed if it is compressed, within RECORD_BYTES.

    No message begins as these formats do: ROS 1 begins with a small length, ROS 2 with 0.
    """
    if data.startswith(_ZSTD):
        unpacked = unpack_zstd(data, RECORD_BYTES)
    elif data.startswith(_LZ4):
        unpacked = unpack_lz4(data, RECORD_BYTES)
    elif data.startswith(_BZIP2):
        unpacked = bz2.BZ2Decompressor().decompress(data, RECORD_BYTES + 1)
    else:
        return data
    if len(unpacked) > RECORD_BYTES:
        raise FrameError(f"a chunk unpacks to more than {RECORD_BYTES} bytes: the bag is damaged")
    return unpacked
