"""What the demo's camera saw, for the figures and pictures that compare it with what was decoded.

The device's process leaves its pictures in memory that it shares with the server's, where they need
not be read or drawn once more. Decoding has no part in it.
"""

import math
import multiprocessing
from dataclasses import dataclass

import numpy as np

from dsin.runtime.pictures import Image
from dsin.runtime.sources.recordings import Recording, StereoRecording

SLOTS = 8
"""Pictures that are shared: those under way between the camera and the drawing, and two more."""


class SharedPictures:
    """The newest SLOTS pictures of a (height, width), by number. One process puts, another one
    takes; they get it when they are started, and at no other time."""

    def __init__(self, size: tuple[int, int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._shape = (SLOTS, *size, 3)
        self._numbers = context.RawArray("q", [-1] * SLOTS)
        self._memory = context.RawArray("B", math.prod(self._shape))

    def put(self, number: int, picture: Image) -> None:
        """Leave a picture, in the place of an older one."""
        slot = number % SLOTS
        self._numbers[slot] = -1
        self._pictures()[slot] = picture
        self._numbers[slot] = number

    def taken(self, number: int) -> Image | None:
        """A copy of that picture, if it is there and stayed there meanwhile."""
        slot = number % SLOTS
        if self._numbers[slot] != number:
            return None
        picture = self._pictures()[slot].copy()
        return picture if self._numbers[slot] == number else None

    def _pictures(self) -> Image:
        return np.frombuffer(self._memory, np.uint8).reshape(self._shape)


@dataclass(frozen=True)
class SharedRecording:
    """A Recording whose pictures are shared as they are read."""

    recording: Recording
    shared: SharedPictures

    @property
    def size(self) -> tuple[int, int]:
        return self.recording.size

    def __len__(self) -> int:
        return len(self.recording)

    def timestamp_ns(self, number: int) -> int:
        return self.recording.timestamp_ns(number)

    def image(self, number: int) -> Image:
        picture = self.recording.image(number)
        self.shared.put(number, picture)
        return picture


@dataclass(frozen=True)
class Originals:
    """The left views: those that are shared, else read. For one thread."""

    source: StereoRecording
    shared: SharedPictures | None

    def view(self, number: int) -> Image:
        """That of a frame, of a recording that is played again and again. Raises FrameError."""
        within = number % len(self.source)
        picture = None if self.shared is None else self.shared.taken(within)
        return self.source.view(within, "left") if picture is None else picture
