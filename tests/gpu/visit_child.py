"""A program with a time limit, in a process group of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 3.0
"""Between being asked to end and being killed."""
_POLL_S = 0.05


@dataclass(frozen=True)
class Ended:
    """How a child ended. `status` is its exit status, negative for a signal; None where it was
    killed for its time limit."""

    status: int | None
    seconds: float


def run_child(
    command: Sequence[str], log: Path, limit_s: float, environment: Mapping[str, str],
    folder: Path,
) -> Ended:  # fmt: skip
    """Run in `folder` with all output appended to `log`. At the limit, and when this function is
    left by an exception, the whole process group is ended. Raises OSError where it cannot start.
    """
    began = time.monotonic()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=dict(environment), cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            status = _wait(child, began + limit_s)
        finally:
            _end_group(child)
    return Ended(status, time.monotonic() - began)


def _wait(child: "subprocess.Popen[bytes]", deadline: float) -> int | None:
    while time.monotonic() < deadline:
        status = child.poll()
        if status is not None:
            return status
        time.sleep(_POLL_S)
    return None


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """Also what a child that has ended left running."""
    _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):  # nobody is left in it
        os.killpg(child.pid, number)


def last_line(log: Path, start: int) -> str:
    """The last line that is not empty of a log from a byte on, at most 300 characters."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:300] if said else ""


def shorten(log: Path, start: int, most: int) -> None:
    """Cut the middle out of what a log has from byte `start` on, where that is beyond `most`."""
    size = log.stat().st_size
    if size - start <= most:
        return
    with log.open("r+b") as file:
        file.seek(start)
        head = file.read(most // 2)
        file.seek(size - most // 2)
        tail = file.read()
        file.seek(start)
        left_out = size - start - len(head) - len(tail)
        file.write(head + f"\n[… {left_out} bytes left out …]\n".encode() + tail)
        file.truncate()
