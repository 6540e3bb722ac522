"""How near a target in kbit/s comes on a KITTI raw drive, over every window of two seconds.

python tests/benchmarks/rate_control.py DRIVE [KBPS ...]
"""

import sys
from pathlib import Path

import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import PACKET_HEADER_BYTES
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.sources.recordings import open_stereo

FPS = 10
WINDOW = 2 * FPS


def main() -> None:
    source = open_stereo(Path(sys.argv[1]))
    targets = [float(a) for a in sys.argv[2:]] or [150.0, 300.0, 500.0, 800.0]
    bundle = open_bundle()
    height, width = source.size
    points = [point.target_bpp for point in bundle.rate_points]
    sizes = np.zeros((len(source), len(points)), int)
    with Encoder(bundle) as encoder:
        for number in range(len(source)):
            frame = source.view(number, "left")
            for rate in range(len(points)):
                sizes[number, rate] = len(encoder.encode(frame, rate).payload)
    sizes += PACKET_HEADER_BYTES
    for target in targets:
        control = RateController(points, pixels=height * width, target_kbps=target, fps=FPS)
        spent = []
        for row in sizes:
            rate = control.next_rate()
            control.sent(rate, int(row[rate]))
            spent.append(int(row[rate]))
        sums = np.convolve(spent, np.ones(WINDOW), "valid") * 8 * FPS / WINDOW / 1000
        worst = np.abs(sums / target - 1).max()
        print(f"{target:.0f} kbit/s: mean {np.mean(spent) * 8 * FPS / 1000:.1f}, "
              f"worst window of 2 s {worst:+.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
