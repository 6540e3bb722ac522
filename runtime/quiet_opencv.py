"""OpenCV without its warnings, which repeat on stderr what our errors say in one line."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import cv2

SILENT = 0
"""The lowest of OpenCV's log levels."""

_lock = threading.Lock()
_inside = 0
_level_before = SILENT


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's log silent within.

    The level is the whole process's, so it comes back when the last of the threads that are within
    leaves.
    """
    global _inside, _level_before
    logging: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 has it, and 4
    with _lock:
        if not _inside:
            _level_before = logging.getLogLevel()
            logging.setLogLevel(SILENT)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                logging.setLogLevel(_level_before)
