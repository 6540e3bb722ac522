"""Reads the time line that `--trace` writes."""

import json
from pathlib import Path
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """A slice as a viewer shows it; times in microseconds."""

    process: str
    thread: str
    name: str
    start: float
    end: float
    known: dict[str, Any]


def slices_of(path: Path) -> list[Shown]:
    """All slices, by their start, those that last longer first."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["ph"] == "M"
    }
    shown = [
        Shown(
            names["process_name", e["pid"], 0], names["thread_name", e["pid"], e["tid"]],
            e["name"], e["ts"], e["ts"] + e["dur"], e["args"],
        )
        for e in events
        if e["ph"] == "X"
    ]  # fmt: skip
    return sorted(shown, key=lambda s: (s.start, -s.end))


def check_time_line(slices: list[Shown]) -> None:
    """Within a track slices nest and do not overlap, and what lies in a frame is of that frame."""
    assert slices
    rounding = 0.002
    for track in {(s.process, s.thread) for s in slices}:
        open_ones: list[Shown] = []
        for piece in (s for s in slices if (s.process, s.thread) == track):
            while open_ones and open_ones[-1].end <= piece.start + rounding:
                open_ones.pop()
            if open_ones:
                around = open_ones[-1]
                assert piece.end <= around.end + rounding, (around, piece)
                if "frame" in around.known:
                    assert piece.known["frame"] == around.known["frame"], (around, piece)
            open_ones.append(piece)
