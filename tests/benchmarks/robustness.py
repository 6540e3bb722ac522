"""What a bad side image costs against none: gain in dB over x_dec, mean and worst picture, and the
search's median scores, by which a picture of another scene is known.

python tests/benchmarks/robustness.py val.txt KITTI [DRIVE [BUNDLE]]

With a KITTI raw drive, its right view from 1 s earlier (10 frames) as well.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.runtime.metrics import psnr_db
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image, centre_crop
from dsin.runtime.sources.recordings import open_stereo

Pairs = list[tuple[Image, Image]]
CROP = (320, 1224)
RATES = 1, 3, 6
EARLIER = 10

ALTERED: dict[str, Callable[[Image], Image]] = {
    "as it is": lambda y: y,
    "darker by 30 %": lambda y: np.rint(0.7 * y).astype(np.uint8),
    "blurred, sigma 2": lambda y: np.asarray(cv2.GaussianBlur(y, (0, 0), 2), np.uint8),
    "4 px up": lambda y: np.roll(y, -4, 0),
    "4 px down": lambda y: np.roll(y, 4, 0),
}


def main() -> None:
    pairs, root, *drive = map(Path, sys.argv[1:4])
    bundle = open_bundle(sys.argv[4] if len(sys.argv) > 4 else None)
    views = [
        tuple(centre_crop(read_image(path), CROP) for path in (pair.x, pair.y))
        for pair in read_pair_list(pairs, root)
    ]
    cases: dict[str, Pairs] = {
        name: [(x, alter(y)) for x, y in views] for name, alter in ALTERED.items()
    }
    half = len(views) // 2
    others = [views[(n + half) % len(views)][1] for n in range(len(views))]
    cases["another scene"] = [(x, other) for (x, _), other in zip(views, others, strict=True)]
    if drive:
        source = open_stereo(drive[0])
        numbers = range(EARLIER, len(source), EARLIER)
        for name, lag in (("drive", 0), ("drive, 1 s earlier", EARLIER)):
            cases[name] = [(source.view(n, "left"), source.view(n - lag, "right")) for n in numbers]
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        for name, given in cases.items():
            for rate in RATES:
                gains, scores, used = [], [], 0
                for x, y in given:
                    packet = encoder.encode(np.ascontiguousarray(x), rate=rate)
                    decoded = decoder.decode(packet, np.ascontiguousarray(y))
                    gains.append(psnr_db(decoded.image, x) - psnr_db(decoded.x_dec, x))
                    used += decoded.used_side
                    assert decoded.matches is not None
                    scores.append(float(np.median(decoded.matches.score)))
                print(
                    f"{name:20} rate {rate}: {np.mean(gains):+.2f} dB, worst {min(gains):+.2f}, "
                    f"used in {used} of {len(given)}, "
                    f"median score {min(scores):.3f} to {max(scores):.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
