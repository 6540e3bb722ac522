"""What happened when: slices of time, one track for each thread, in a file that Perfetto opens.

    with tracing(path, "server"):     # off without a path, and then free
        with traced("decode", frame=7, rate=2, bytes=1834):
            ...

Stages of a `Stopwatch` are slices too, within what is traced around them, and have its frame
number. Times are of `time.perf_counter_ns`, which on Linux is one clock for all processes of a
machine. The format is Chrome's: https://ui.perfetto.dev and chrome://tracing show it.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dsin.runtime.errors import DsinError
from dsin.runtime.files import is_folder, write_bytes_atomically

KEPT = 500_000
"""Slices of a process; older ones are forgotten."""


class Slice(NamedTuple):
    """From one moment to another in one thread; `known` has the frame's number where there is one,
    and whatever else is told of it."""

    name: str
    thread: str
    start_ns: int
    end_ns: int
    known: dict[str, Any]


class _Frame(threading.local):
    number: int | None = None


_slices: deque[Slice] | None = None
"""None: off. Appending to it, and taking from it, needs no lock."""
_frame = _Frame()


def trace_this_process() -> None:
    """From now on keep slices, until they are taken."""
    global _slices
    _slices = deque(maxlen=KEPT)


def stop_tracing() -> None:
    """Keep none any longer."""
    global _slices
    _slices = None


def taken_slices() -> list[Slice]:
    """Those that are complete since they were last taken; none where tracing is off."""
    found: list[Slice] = []
    while _slices:
        found.append(_slices.popleft())
    return found


def add_slice(name: str, start_ns: int, end_ns: int, **known: Any) -> None:
    """Keep a slice of this thread, if tracing is on. Its frame is that of what is traced around it
    where `known` names none."""
    slices = _slices
    if slices is None:
        return
    if "frame" not in known and _frame.number is not None:
        known["frame"] = _frame.number
    slices.append(Slice(name, threading.current_thread().name, start_ns, end_ns, known))


@contextmanager
def traced(name: str, *, frame: int | None = None, **known: Any) -> Iterator[dict[str, Any]]:
    """Keep what runs within as a slice, with what is known of it; more may be put into the
    dictionary meanwhile. Slices within are of the same frame."""
    if _slices is None:
        yield {}
        return
    before = _frame.number
    if frame is not None:
        _frame.number = frame
    start_ns = time.perf_counter_ns()
    try:
        yield known
    finally:
        add_slice(name, start_ns, time.perf_counter_ns(), **known)
        _frame.number = before


@contextmanager
def tracing(path: Path | None, process: str) -> Iterator[None]:
    """Trace this process, and write the file at the end, whatever that is. Without a path nothing
    happens. Raises DsinError for a file that cannot be written."""
    if path is None:
        yield
        return
    trace_this_process()
    try:
        yield
    finally:
        slices = taken_slices()
        stop_tracing()
        write_trace(path, {process: slices})


def check_trace_path(path: Path | None) -> None:
    """Raise DsinError where the folder of that file is missing."""
    if path is not None and not is_folder(path.absolute().parent):
        raise DsinError(f"cannot write {path}: its folder does not exist")


def write_trace(path: Path, processes: Mapping[str, Sequence[Slice]]) -> None:
    """Write the slices of processes, by their names, atomically; nothing where there are none.
    Raises DsinError."""
    if not any(processes.values()):
        return
    events: list[dict[str, Any]] = []
    for process, (name, slices) in enumerate(processes.items(), start=1):
        events.append(_named("process_name", process, 0, name))
        threads = {s.thread: n for n, s in reversed(list(enumerate(slices, start=1)))}
        for thread, number in threads.items():
            events.append(_named("thread_name", process, number, thread))
        events += [_event(s, process, threads[s.thread]) for s in slices]
    content = {"traceEvents": events, "displayTimeUnit": "ms"}
    write_bytes_atomically(path, json.dumps(content, separators=(",", ":")).encode())


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _event(piece: Slice, process: int, thread: int) -> dict[str, Any]:
    """Times in microseconds, as the format wants."""
    return {
        "ph": "X", "name": piece.name, "pid": process, "tid": thread,
        "ts": piece.start_ns / 1000, "dur": (piece.end_ns - piece.start_ns) / 1000,
        "args": piece.known,
    }  # fmt: skip
