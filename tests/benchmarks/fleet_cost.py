"""What a stereo stream costs a server: processor time, bytes, memory; for .docs/fleet.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/fleet_cost.py [KITTI DRIVE] [FRAMES] [--ray]

Processor seconds of the process with one thread, not wall-clock time: other work on the machine
disturbs them little. Without a drive, the synthetic rig. `--ray` adds what forwarding to a Ray
Serve replica costs on either side.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.fleet.replica import stored_bytes
from dsin.runtime.link.side_pictures import decode_picture
from dsin.runtime.pictures import Image
from dsin.runtime.sources.recordings import open_stereo

RATES = (0, 2, 7)


class StereoFrame(NamedTuple):
    """One moment seen by both cameras; images H×W×3 RGB of the same size."""

    left: Image
    right: Image


def cpu_ms(work: Callable[[], object], times: int = 1) -> float:
    """Processor milliseconds of one call, the least of three rounds."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, 1e3 * (time.process_time() - start) / times)
    return best


def codec(frames: list[StereoFrame]) -> None:
    bundle = open_bundle("edge")
    print(
        f"{'rate':>4} {'packet B':>9} {'encode':>7} {'side':>7} {'decode':>7} {'no side':>8} CPU ms"
    )
    with Encoder(bundle, threads=1) as encoder, Decoder(bundle, threads=1) as decoder:
        for rate in RATES:
            rows = []
            for frame in frames:
                packet = encoder.encode(frame.left, rate=rate)
                side = decoder.prepare_side(frame.right, rate=rate)
                rows.append(
                    (
                        len(packet),
                        cpu_ms(partial(encoder.encode, frame.left, rate)),
                        cpu_ms(partial(decoder.prepare_side, frame.right, rate=rate)),
                        cpu_ms(partial(decoder.decode, packet, side)),
                        cpu_ms(partial(decoder.decode, packet, None)),
                    )
                )
            size, encode, prepare, decode, alone = map(statistics.median, zip(*rows, strict=True))
            print(f"{rate:4} {size:9.0f} {encode:7.0f} {prepare:7.0f} {decode:7.0f} {alone:8.0f}")
        stages = decoder.decode(packet, side).stage_ms
        print("decode, ms:", {name: round(ms, 1) for name, ms in stages.items()})
        print(f"side features: {stored_bytes(side) / 2**20:.1f} MiB a side image")


def pictures(frames: list[StereoFrame]) -> None:
    view = np.ascontiguousarray(frames[0].right[:, :, ::-1])
    for name, options in (
        ("png", []),
        ("jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
        ("jpg", [cv2.IMWRITE_JPEG_QUALITY, 85]),
    ):
        data = cv2.imencode(f".{name}", view, options)[1].tobytes()
        write = cpu_ms(partial(cv2.imencode, f".{name}", view, options), 5)
        read = cpu_ms(partial(decode_picture, data, view.shape[:2]), 5)
        print(f"{name} {options[1:]}: {len(data)} bytes, write {write:.1f}, read {read:.1f} CPU ms")


def process_cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def forwarding(frames: list[StereoFrame], *, with_pictures: bool, rounds: int = 20) -> None:
    from dsin.runtime.fleet.decoders import FleetOptions, start_fleet

    with Encoder(threads=1) as encoder:
        packet = bytes(encoder.encode(frames[0].left))
    view = np.ascontiguousarray(frames[0].right[:, :, ::-1])
    side = cv2.imencode(".png", view)[1].tobytes()

    async def run() -> None:
        process = (await fleet.side("a", side, 0)).process
        await fleet.frame("a", packet, 0)
        print(f"replica: {resident_mib(process):.0f} MiB resident with one rig")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "side": lambda: fleet.side("a", side, 0),
            "frame": lambda: fleet.frame("a", packet, 0),
        }
        for name, call in calls.items():
            front, there = time.process_time(), process_cpu_s(process)
            for _ in range(rounds):
                await call()
            front = 1e3 * (time.process_time() - front) / rounds
            there = 1e3 * (process_cpu_s(process) - there) / rounds
            print(f"{name}: front {front:.1f}, replica {there:.1f} CPU ms")
        for number in range(20):
            await fleet.side(f"rig-{number}", side, 0)
            await fleet.side(f"rig-{number}", side, 1)
        print(f"replica: {resident_mib(process):.0f} MiB with 21 rigs, two side images each")

    print("with pictures:" if with_pictures else "without pictures:")
    options = FleetOptions(replicas=1, timeout_s=30, bundle="edge", pictures=with_pictures)
    with start_fleet(options) as fleet:
        asyncio.run(run())


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a != "--ray"]
    drive = next((Path(a) for a in arguments if not a.isdigit()), None)
    count = next((int(a) for a in arguments if a.isdigit()), 8)
    source = open_stereo(drive, count)
    frames = [
        StereoFrame(source.view(number, "left"), source.view(number, "right"))
        for number in range(len(source))
    ]
    print(f"{len(frames)} frames of {source.size[1]}x{source.size[0]}, one thread")
    cv2.setNumThreads(1)
    if "--ray" not in sys.argv:
        codec(frames)
        pictures(frames)
        return
    for with_pictures in (False, True):
        forwarding(frames, with_pictures=with_pictures)


if __name__ == "__main__":
    main()
