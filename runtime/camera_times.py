"""When the pictures of a recording were taken: the text files beside KITTI's pictures."""

from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path

from dsin.runtime.errors import FrameError


def read_timestamps(path: Path, count: int) -> tuple[int, ...]:
    """`count` times of a KITTI raw drive, one `2011-09-26 13:02:25.103400000` a line.

    In nanoseconds since 1970, UTC, increasing. Raises FrameError for any other file.
    """
    return _read(path, count, "KITTI raw drives", "2011-09-26 13:02:25.103400000", _timestamp_ns)


def read_times(path: Path, count: int) -> tuple[int, ...]:
    """`count` times of a KITTI odometry sequence, one `1.036224e-01` a line, in seconds.

    In nanoseconds since the sequence's start, increasing. Raises FrameError for any other file.
    """
    return _read(path, count, "KITTI odometry sequences", "1.036224e-01", _seconds_ns)


def _read(
    path: Path, count: int, owners: str, example: str, parse: Callable[[str], int | None]
) -> tuple[int, ...]:
    if not path.is_file():
        raise FrameError(f"there is no {path}: {owners} have one")
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FrameError(f"{path} is not a list of timestamps") from error
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        time = parse(line.strip())
        if time is None:
            raise FrameError(
                f"{path}, line {number}: {line.strip()[:40]!r} is not a time like {example}"
            )
        if times and time <= times[-1]:
            raise FrameError(f"{path}, line {number}: the time is not after the one before it")
        times.append(time)
    if len(times) != count:
        raise FrameError(f"{path} has {len(times)} times for {count} frames")
    return tuple(times)


def _timestamp_ns(text: str) -> int | None:
    """Nanoseconds since 1970, or None; datetime alone would keep only microseconds."""
    seconds, _, fraction = text.partition(".")
    if len(fraction) > 9 or not (fraction or "0").isdecimal():
        return None
    try:
        moment = datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0"))


def _seconds_ns(text: str) -> int | None:
    try:
        seconds = Decimal(text)
        # The bound (30 years) also keeps 1e999999 from becoming an integer of a million digits.
        return int(seconds * 1_000_000_000) if 0 <= seconds < 1_000_000_000 else None
    except InvalidOperation:  # no number, or "nan"
        return None
