"""OpenCV without its warnings, which repeat on stderr what our errors say in one line."""

import contextlib
from collections.abc import Iterator
from typing import Any

import cv2

SILENT = 0
"""The lowest of OpenCV's log levels."""


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's log silent within."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 has it, and 4
    level = logging.getLogLevel()
    logging.setLogLevel(SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
