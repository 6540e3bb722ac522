"""Milliseconds of every stage of a bundle on 320x1224 frames: what the README's figures are.

python tests/benchmarks/latency.py val.txt KITTI [BUNDLE [RATE]]

Every frame is coded and decoded three times; the first round only warms up. Medians, and the least
of all in brackets. The speed of a large matrix product before and after tells how fast the machine
was meanwhile.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import centre_crop

CROP = (320, 1224)
ROUNDS = 3
SIDE = 2048


def product_gmac_per_s() -> float:
    a = np.ones((SIDE, SIDE), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return SIDE**3 / min(times) / 1e9


def main() -> None:
    listed, root = Path(sys.argv[1]), Path(sys.argv[2])
    bundle = open_bundle(sys.argv[3] if len(sys.argv) > 3 else None)
    rate = int(sys.argv[4]) if len(sys.argv) > 4 else None
    pairs = [
        [np.ascontiguousarray(centre_crop(read_image(path), CROP)) for path in (pair.x, pair.y)]
        for pair in read_pair_list(listed, root)
    ]
    speed = product_gmac_per_s()
    rows: dict[str, list[float]] = {}
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        for count in range(ROUNDS):
            for x, y in pairs:
                start = time.perf_counter()
                side = decoder.prepare_side(y, rate=rate)
                ready = time.perf_counter()
                packet = encoder.encode(x, rate)
                sent = time.perf_counter()
                decoded = decoder.decode(bytes(packet), side)
                done = time.perf_counter()
                if count == 0:
                    continue
                measured = {
                    "side image to features": 1e3 * (ready - start),
                    **{f"  {name}": ms for name, ms in side.stage_ms.items()},
                    "picture to packet": 1e3 * (sent - ready),
                    **{f"  {name} ": ms for name, ms in packet.stage_ms.items()},
                    "packet to picture": 1e3 * (done - sent),
                    **{f"  {name}  ": ms for name, ms in decoded.stage_ms.items()},
                }
                for name, ms in measured.items():
                    rows.setdefault(name, []).append(ms)
    after = product_gmac_per_s()
    print(f"{bundle.path.name}, {len(pairs)} frames: ms, p50 (least)")
    for name, times in rows.items():
        print(f"{name:24} {statistics.median(times):8.1f} ({min(times):.1f})")
    print(f"matrix product: {speed:.0f} GMAC/s before, {after:.0f} after")


if __name__ == "__main__":
    main()
