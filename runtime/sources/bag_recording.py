"""One camera of a ROS bag as a recording.

    bag:drive.bag,x=/left/image_raw,y=/right/image_raw     both cameras of a rig
    bag:drive,x=/left/image_raw/compressed,time=log         one camera

Opening reads the topic once, for the times and sizes of its pictures; none is decoded. Where both
cameras are named, the pictures that have one of the same moment in the other topic count, and both
cameras have the times of x.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

from dsin.runtime.errors import FrameError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.bag_files import BagFiles, BagMessage, bag_files
from dsin.runtime.sources.bag_spec import BagSpec, BagTime, parse_bag_spec
from dsin.runtime.sources.frames import StereoSide, limited, tolerance_ns
from dsin.runtime.sources.notices import tell
from dsin.runtime.sources.ros_images import COMPRESSED, RAW, ros_picture

_FIRST = 16
"""So many pictures tell the time between two."""


class _Entry(NamedTuple):
    """A picture of a topic: its time, and its place among the topic's messages."""

    time_ns: int
    place: int


class _Topic(NamedTuple):
    """Where a camera's pictures are, and by which of their times they count."""

    files: BagFiles
    name: str
    time: BagTime

    def picture_name(self, place: int) -> str:
        """As in messages."""
        return f"{self.files.path}: message {place} of {self.name}"


class BagRecording:
    """The pictures of a topic at some places, with the times that count for them.

    Frames cost little when asked for in increasing order. Raises FrameError for a picture that
    cannot be read.
    """

    def __init__(
        self, topic: _Topic, entries: tuple[_Entry, ...], times_ns: tuple[int, ...],
        size: tuple[int, int],
    ) -> None:  # fmt: skip
        self.size = size
        self._topic, self._entries, self._times_ns = topic, entries, times_ns
        self._messages: Iterator[BagMessage] = iter(())
        self._place = -1
        """Of the message before the next one; that of no message asks to begin."""

    def __len__(self) -> int:
        return len(self._entries)

    def timestamp_ns(self, number: int) -> int:
        """Nanoseconds of the bag's clock; FrameError if there is no such frame."""
        return self._times_ns[self._checked(number)]

    def image(self, number: int) -> Image:
        """A frame's picture, RGB, H×W×3."""
        place = self._entries[self._checked(number)].place
        if not 0 <= self._place < place:  # as a video: a bag need not be in order of its times
            self._messages, self._place = self._topic.files.messages(self._topic.name), -1
        for message in self._messages:
            self._place += 1
            if self._place == place:
                return ros_picture(message, self._topic.picture_name(place)).image()
        raise FrameError(f"{self._topic.files.path} has changed while it was read")

    def _checked(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise FrameError(f"there is no frame {number}: the source has {len(self)}")
        return number


def open_bag(spec: str, side: StereoSide, frames: int | None = None) -> BagRecording:
    """One camera of `bag:…`, at most `frames` frames. Raises FrameError for what cannot be used."""
    parsed = parse_bag_spec(spec)
    files = bag_files(parsed.path)
    if parsed.x is None and parsed.y is None:
        raise FrameError(f"{spec}: name a topic, as in x=/camera/image_raw; {_there(files)}")
    limited(1, frames)
    return _opened(parsed, files, side, frames)


def _opened(
    spec: BagSpec, files: BagFiles, side: StereoSide, frames: int | None
) -> BagRecording:  # fmt: skip
    topic = _Topic(files, spec.topic(side), spec.time)
    if spec.x is None or spec.y is None:
        entries = _entries_of(topic, frames)
        return BagRecording(topic, entries, tuple(e.time_ns for e in entries), _size(topic))
    pairs = _pairs(_Topic(files, spec.x, spec.time), _Topic(files, spec.y, spec.time), frames)
    own = tuple(pair[side == "right"] for pair in pairs)
    return BagRecording(topic, own, tuple(x.time_ns for x, _ in pairs), _size(topic))


@lru_cache(maxsize=8)
def _entries_of(topic: _Topic, frames: int | None) -> tuple[_Entry, ...]:
    """Of a camera alone; raises FrameError where there are none."""
    return tuple(islice(_index(topic), frames))


@lru_cache(maxsize=4)
def _pairs(x: _Topic, y: _Topic, frames: int | None) -> tuple[tuple[_Entry, _Entry], ...]:
    """The pictures of two topics that are of the same moments."""
    left, right = _index(x), _index(y)
    first = list(islice(left, _FIRST))
    most_ns = tolerance_ns([entry.time_ns for entry in first])
    found: list[tuple[_Entry, _Entry]] = []
    alone: list[_Entry] = []
    before, after = next(right), next(right, None)
    for entry in chain(first, left):
        while after and abs(after.time_ns - entry.time_ns) <= abs(before.time_ns - entry.time_ns):
            before, after = after, next(right, None)
        if abs(before.time_ns - entry.time_ns) <= most_ns:
            found.append((entry, before))
        else:
            alone.append(entry)
        if len(found) == frames:
            break
    near = f"within {most_ns / 1e6:.0f} ms"
    if not found:
        raise FrameError(
            f"{x.files.path}: no picture of {x.name} has one of {y.name} {near}: check the topics, "
            "or take the times of recording with ,time=log"
        )
    if alone:
        ends_s = (alone[-1].time_ns - before.time_ns) / 1e9
        stops = f": {y.name} stops {ends_s:.1f} s earlier" if not after and ends_s > 0 else ""
        tell(
            f"{x.files.path}: {len(alone)} of {len(alone) + len(found)} pictures of {x.name} have "
            f"none of {y.name} {near} and are left out{stops}"
        )
    return tuple(found)


def _index(topic: _Topic) -> Iterator[_Entry]:
    """The topic's pictures, checked: of one size, of increasing times."""
    before: int | None = None
    size = _size(topic)
    for place, message in enumerate(topic.files.messages(topic.name)):
        name = topic.picture_name(place)
        picture = ros_picture(message, name)
        if picture.size != size:
            shown = [f"{width}x{height}" for height, width in (picture.size, size)]
            raise FrameError(
                f"{name} is {shown[0]}, but the first one is {shown[1]}: all frames of a source "
                "need one size"
            )
        time_ns = message.log_ns if topic.time == "log" else picture.stamp_ns
        if before is not None and time_ns <= before:
            other = "header" if topic.time == "log" else "log"
            raise FrameError(
                f"{name} has a {topic.time} time that is not after the one before it: take the "
                f"other times with ,time={other}"
            )
        before = time_ns
        yield _Entry(time_ns, place)


@lru_cache(maxsize=16)
def _size(topic: _Topic) -> tuple[int, int]:
    """Of the topic's first picture. Raises FrameError where there is none."""
    message = next(topic.files.messages(topic.name), None)
    if message is None:
        raise FrameError(f"{topic.files.path} has no messages of {topic.name}; "
                         f"{_there(topic.files)}")  # fmt: skip
    picture = ros_picture(message, topic.picture_name(0))
    if picture.grey:
        tell(f"{topic.files.path}: {topic.name} is grey and is coded as colour, R = G = B")
    return picture.size


def _there(files: BagFiles) -> str:
    """The topics that can be used, for messages."""
    topics = files.topics()
    usable = sorted(name for name, kind in topics.items() if kind in (RAW, COMPRESSED))
    if usable:
        return f"its topics of pictures are {', '.join(usable)}"
    others = ", ".join(sorted(topics)[:20]) or "none at all"
    return f"it has no topics of pictures ({others})"
