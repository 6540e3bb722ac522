"""Files that appear whole or not at all."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.errors import DsinError


def is_file(path: Path, error: type[DsinError] = DsinError) -> bool:
    """Whether there is a file. Raises `error` where that cannot be known, as below a folder that
    one may not enter; Path's own raise PermissionError there, or say no, depending on Python."""
    mode = _mode(path, error)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path, error: type[DsinError] = DsinError) -> bool:
    """Whether there is a folder, as `is_file` tells of files."""
    mode = _mode(path, error)
    return mode is not None and stat.S_ISDIR(mode)


def exists(path: Path, error: type[DsinError] = DsinError) -> bool:
    """Whether there is anything, as `is_file` tells of files."""
    return _mode(path, error) is not None


def entries(folder: Path, error: type[DsinError] = DsinError) -> list[Path]:
    """What is in a folder, in any order. Raises `error` where it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError as problem:
        raise error(f"cannot read {folder}: {problem.strerror}") from problem


def _mode(path: Path, error: type[DsinError]) -> int | None:
    """Of what is there, or None where nothing is."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise error(f"cannot look at {path}: {problem.strerror}") from problem
    except ValueError as problem:  # a null within
        raise error(f"{str(path)!r} is not a path") from problem


def check_target(*paths: Path | None) -> None:
    """Raise DsinError for a file that could not be written because its folder does not exist; to be
    found out now, not after minutes of work."""
    for path in paths:
        if path is not None and not is_folder(path.absolute().parent):
            raise DsinError(f"cannot write {path}: its folder does not exist")


def check_picture_target(path: Path) -> None:
    """Raise DsinError, too, for a suffix that `write_image` does not know."""
    import cv2

    check_target(path)
    if not cv2.haveImageWriter("x" + path.suffix):
        raise DsinError(f"cannot write {path}: use a suffix such as .png")


def write_bytes_atomically(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write to a temporary name beside `path`, then rename; an existing file is replaced.

    What is no regular file (a pipe, /dev/null) is written to as it is. Raises DsinError where that
    is not possible; then nothing is left behind and an existing file stays as it was.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # By this name: what /dev/stdout stands for may have none, as a pipe.
            path.write_bytes(data)
            return
        _write_and_rename(path.resolve(), data)
    except (OSError, RuntimeError) as error:  # resolve() raises RuntimeError for a symlink loop
        reason = getattr(error, "strerror", None) or error
        raise DsinError(f"cannot write {path}: {reason}") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain data as indented UTF-8 JSON, atomically. Raises DsinError."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes_atomically(path, text.encode() + b"\n")


def write_image(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an RGB picture, H×W×3 uint8, in the format that the suffix names, atomically.

    Raises DsinError for a suffix that OpenCV does not write, or an unwritable path.
    """
    import cv2

    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise DsinError(f"cannot write {path}: use a suffix such as .png") from error
    if not done:
        raise DsinError(f"cannot write {path}: this picture does not fit that format")
    write_bytes_atomically(path, encoded.tobytes())


def _write_and_rename(target: Path, data: bytes | bytearray | memoryview) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
