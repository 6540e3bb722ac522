"""The report of `dsin stream`, and the time at which a recording is to begin."""

import logging
import time
from datetime import datetime
from types import SimpleNamespace

import pytest

from dsin.runtime.commands import stream as stream_module
from dsin.runtime.commands.stream import _Report, _start_s
from dsin.runtime.device.device import AnsweredFrame, DeviceCounts, MadeFrame
from dsin.runtime.errors import DsinError


def answered(number: int, age_ms: float, reason: str = "") -> AnsweredFrame:
    made = MadeFrame(number, 0, 0.0, bytes(1250), 0, {})
    status = "rejected" if reason else "decoded"
    return AnsweredFrame(made, status, "missing", 1.0, age_ms, 2.0, reason)


def test_a_report_tells_every_five_seconds_of_the_frames_since_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(s=100.0)
    monkeypatch.setattr(stream_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    told: list[str] = []
    report = _Report(told.append)
    for number in range(30):
        clock.s += 0.5
        report.add(answered(number, age_ms=10.0 * (number % 10)))
    assert told == ["2.0 frames/s, 20 kbit/s, age 50 ms (p50), 90 ms (most)"] * 3
    assert not caplog.records
    report.add(answered(30, 1.0, "payload is damaged"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "frame 30 was rejected: payload is damaged"
    counts = DeviceCounts(
        captured=12, dropped=2, sent=9, lost=3, answered=6, reconnects=2, sent_bytes=4321,
        statuses={"decoded": 5, "rejected": 1},
    )  # fmt: skip
    assert report.line(counts) == (
        "12 frames in 15.0 s: 5 decoded, 1 rejected, 2 dropped, 3 lost, 1 unsent; "
        "4.3 kB sent, 2 attempts to connect again"
    )


def test_a_start_is_a_time_of_today() -> None:
    """On the clock that goes on steadily."""
    noon = datetime.now().replace(hour=12, minute=30, second=15, microsecond=0)
    start_s = _start_s("12:30:15")
    assert start_s is not None
    away_s = noon.timestamp() - time.time()
    assert start_s - time.monotonic() == pytest.approx(away_s, abs=1)
    assert _start_s(None) is None
    with pytest.raises(DsinError, match="--start noon: give a time of day, HH:MM:SS"):
        _start_s("noon")
