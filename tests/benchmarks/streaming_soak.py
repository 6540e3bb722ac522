"""Streams for a long time through `dsin serve` and `dsin stream`, and watches both processes.

    python tests/benchmarks/streaming_soak.py --minutes 30 [--json FILE]      (24 h: --minutes 1440)

Small frames of the built-in rig (256x128, so that two cores have time for 10 a second) go round and
round through the real codec, with a recording and a metrics endpoint. Resident memory and file
descriptors are read every few seconds. It passes if the medians of the first and the last fifth
(after a tenth to warm up) differ by less than 1 % in memory and not at all in descriptors.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dsin.runtime.sources.synthetic_rig import SyntheticRig

WIDTH, HEIGHT, FRAMES, FPS = 256, 128, 20, 10
GROWTH_PERCENT = 1.0


class Reading(NamedTuple):
    """Of one process at one time."""

    second: float
    rss_kib: int
    descriptors: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every-s", type=float, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = soak(Path(folder), 60 * arguments.minutes, arguments.every_s)
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result["passed"] else 1)


def soak(folder: Path, seconds: float, every_s: float) -> dict[str, Any]:
    """Run both processes for so long, and judge them."""
    write_rig(folder)
    port, metrics = free_port(), free_port()
    server = start(
        "serve", f"127.0.0.1:{port}", "--plaintext", "--side", str(folder), "--metrics",
        str(metrics), "--mcap", str(folder / "soak.mcap"),
    )  # fmt: skip
    device = None
    try:
        wait_for(metrics)
        device = start(
            "stream", f"127.0.0.1:{port}", "--plaintext", "--source", str(folder), "--loop",
            "--fps", str(FPS), "--kbps", "100",
        )  # fmt: skip
        readings = watch({"server": server.pid, "device": device.pid}, seconds, every_s)
        counts = read_counts(metrics)
        device.send_signal(signal.SIGTERM)
        last_words = device.communicate(timeout=30)[0].strip().splitlines()[-1]
    finally:
        for process in (device, server):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
    judged = {name: judge(of) for name, of in readings.items()}
    decoded = counts.get('dsin_frames_total{rig="rig",status="decoded"}', 0)
    return {
        "seconds": seconds,
        "frames_decoded": decoded,
        "last_words": last_words,
        **judged,
        "passed": decoded > 0.5 * FPS * seconds and all(one["passed"] for one in judged.values()),
    }


def judge(readings: list[Reading]) -> dict[str, Any]:
    """Growth between the first and the last fifth, after a tenth to warm up."""
    kept = readings[len(readings) // 10 :]
    fifth = max(1, len(kept) // 5)
    first, last = kept[:fifth], kept[-fifth:]
    rss = [statistics.median(r.rss_kib for r in part) for part in (first, last)]
    descriptors = [statistics.median(r.descriptors for r in part) for part in (first, last)]
    growth = 100 * (rss[1] / rss[0] - 1)
    return {
        "rss_mib": [round(value / 1024, 2) for value in rss],
        "growth_percent": round(growth, 3),
        "descriptors": descriptors,
        "readings": [(round(r.second), r.rss_kib) for r in readings],
        "passed": growth < GROWTH_PERCENT and descriptors[0] == descriptors[1],
    }


def watch(pids: dict[str, int], seconds: float, every_s: float) -> dict[str, list[Reading]]:
    """Read both processes until the time is over."""
    start_s = time.monotonic()
    found: dict[str, list[Reading]] = {name: [] for name in pids}
    while (now_s := time.monotonic() - start_s) < seconds:
        for name, pid in pids.items():
            found[name].append(Reading(now_s, rss_kib(pid), len(os.listdir(f"/proc/{pid}/fd"))))
        time.sleep(every_s)
    return found


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no memory")


def write_rig(folder: Path) -> None:
    """Frames of the built-in rig as two folders of pictures. The right view is the left one moved
    by a few pixels: in a true one of that size the search finds too little for fusion to run."""
    for frame in SyntheticRig(width=WIDTH, height=HEIGHT, frames=FRAMES):
        for side, view in (("left", frame.left), ("right", np.roll(frame.left, -4, axis=1))):
            (folder / side).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / side / f"{frame.number:04d}.png"), view[:, :, ::-1])


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dsin.runtime.commands.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Until the server's metrics can be read."""
    for _ in range(600):
        try:
            read_counts(port)
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server does not start")


def read_counts(port: int) -> dict[str, float]:
    """The server's metrics by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {n: float(v) for n, v in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


if __name__ == "__main__":
    main()
