"""Kills decoders of a fleet while ten rigs play, and tells whether the rigs of the others stall.

    python tests/benchmarks/fleet_kills.py [--times 10]      (needs dsin[fleet])

Two replicas of Ray Serve on this machine, a frame of each rig every 0.4 s. For each kill: how long
the longest call (a side image and a packet, to the decoded picture) of a rig that was not concerned
took before and after it, how long the replica itself worked on that frame, how busy the machine's
processors were, and how long it took until the replacement decoded. What a call takes beyond the
work is waiting: for the front, Ray, or a processor.
"""

import argparse
import asyncio
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.fleet_play import RIGS, Killing, PlayedFrame, kill_one, small_scene

from dsin.runtime.fleet.decoders import FleetDecoder, FleetOptions, start_fleet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Ray's
    with start_fleet(FleetOptions(replicas=2, cpus=0.5, timeout_s=10)) as fleet:
        asyncio.run(kill(fleet, arguments.times))


async def kill(fleet: FleetDecoder, times: int) -> None:
    scene = small_scene()
    print(f"{'other rigs: before':>26} {'after the kill':>28} {'own rigs':>22}")
    print("longest (work) p50   busy   longest (work) p50   busy   away, s  lost, most  moved")
    for number in range(times + 1):
        killing = await kill_one(fleet, scene)
        if number:  # the first one finds caches cold
            print(row(killing))


def row(killing: Killing) -> str:
    """A line of the table, milliseconds."""
    spans = (killing.begun_s, killing.killed_s), (killing.killed_s, killing.replaced_s)
    parts = []
    for (start_s, end_s), busy in zip(spans, killing.busy, strict=True):
        frames: list[PlayedFrame] = []
        for name in killing.others:
            frames += killing.seen[name].between(start_s, end_s)
        worst = max(frames, key=lambda frame: frame.call_ms)
        usual = float(np.median([frame.call_ms for frame in frames]))
        parts.append(f"{worst.call_ms:7.0f} {f'({worst.work_ms:.0f})':>6} {usual:3.0f} {busy:5.0%}")
    moved = sum(len(killing.seen[name].homes) > 1 for name in killing.others)
    lost = max(killing.seen[name].lost for name in RIGS)
    away_s = killing.replaced_s - killing.killed_s
    return f"{parts[0]}  {parts[1]}  {away_s:8.1f} {lost:11} {moved:6}"


if __name__ == "__main__":
    main()
