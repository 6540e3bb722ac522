"""The time line of what a process does: what is kept, and what the file has."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.time_line import check_time_line, slices_of

from dsin.runtime.errors import DsinError
from dsin.runtime.stopwatch import Stopwatch
from dsin.runtime.trace import (
    check_trace_path,
    stop_tracing,
    taken_slices,
    trace_this_process,
    traced,
    tracing,
)


@pytest.fixture(autouse=True)
def off() -> Iterator[None]:
    yield
    stop_tracing()


def work(number: int) -> None:
    with traced("frame", frame=number, rate=2) as known:
        with Stopwatch().stage("compute"):
            pass
        with Stopwatch().stage("entropy"):
            pass
        known["bytes"] = 10 * number


def test_stages_lie_in_their_frame(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with tracing(path, "device"):
        work(1)
        other = threading.Thread(target=work, args=(2,), name="decode-0")
        other.start()
        work(3)
        other.join()
        with traced("wait"):
            pass
    slices = slices_of(path)
    check_time_line(slices)
    assert {(s.process, s.thread) for s in slices} == {
        ("device", "MainThread"), ("device", "decode-0"),
    }  # fmt: skip
    assert [s.known for s in slices if s.name == "wait"] == [{}]
    for number in (1, 2, 3):
        own = {s.name: s for s in slices if s.known.get("frame") == number}
        assert set(own) == {"frame", "compute", "entropy"}
        assert own["frame"].known == {"frame": number, "rate": 2, "bytes": 10 * number}
        assert own["compute"].end <= own["entropy"].start
    assert all(s.thread == "decode-0" for s in slices if s.known.get("frame") == 2)


def test_nothing_is_kept_when_nobody_asked() -> None:
    work(1)
    assert taken_slices() == []
    trace_this_process()
    work(2)
    assert len(taken_slices()) == 3
    assert taken_slices() == []
    stop_tracing()
    work(3)
    assert taken_slices() == []


def test_what_ends_a_command_does_not_cost_the_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"

    def interrupted() -> None:
        with tracing(path, "server"):
            work(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(slices_of(path)) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_path_or_a_frame_there_is_no_file(tmp_path: Path) -> None:
    with tracing(None, "server"):
        work(1)
        assert taken_slices() == []
    with tracing(tmp_path / "trace.json", "server"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_told_before(tmp_path: Path) -> None:
    check_trace_path(None)
    check_trace_path(tmp_path / "trace.json")
    with pytest.raises(DsinError, match="cannot write"):
        check_trace_path(tmp_path / "none" / "trace.json")


def test_the_file_is_what_viewers_read(tmp_path: Path) -> None:
    """Complete events in microseconds, and names of processes and threads."""
    path = tmp_path / "trace.json"
    with tracing(path, "device"):
        work(1)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["ts"] > 0
            assert event["dur"] >= 0
