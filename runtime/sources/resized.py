"""Recordings of another size than is needed, as the side camera of a rig may have."""

from typing import Protocol

import cv2
import numpy as np

from dsin.runtime.pictures import Image
from dsin.runtime.sources.frames import Timed


class Recorded(Timed, Protocol):
    """Whatever has numbered pictures."""

    def image(self, number: int) -> Image:
        """RGB, H×W×3."""


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The image, H×W×3 uint8, in that height and width; the same where it has them."""
    height, width = size
    if image.shape[:2] == size:
        return image
    smaller = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


class ResizedRecording:
    """A recording in another size, (height, width) in pixels."""

    def __init__(self, recording: Recorded, size: tuple[int, int]) -> None:
        self.size = size
        self._recording = recording

    def __len__(self) -> int:
        return len(self._recording)

    def timestamp_ns(self, number: int) -> int:
        """As the recording has it."""
        return self._recording.timestamp_ns(number)

    def image(self, number: int) -> Image:
        """RGB, H×W×3; FrameError if it cannot be had."""
        return resized(self._recording.image(number), self.size)
