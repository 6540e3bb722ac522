"""Rebuilds `quality.json`: `python tests/golden/make_quality.py`, for every shipped bundle.

What a bundle makes of three frames of the built-in rig at its lowest, its default and its highest
rate: mean bytes of a packet and PSNR with the side image and without, and how many frames used it.
"""

import json
from pathlib import Path

import numpy as np

from dsin.runtime import Decoder, Encoder, shipped_bundles
from dsin.runtime.metrics import psnr_db
from dsin.runtime.sources.synthetic_rig import SyntheticRig

FILE = Path(__file__).parent / "quality.json"
RIGS = {
    "edge": SyntheticRig(width=621, height=187, frames=12),
    "paper": SyntheticRig(width=240, height=120, frames=12),
}
"""By family: a search over whole pictures is slow."""
FRAMES = (0, 6, 11)


def quality(name: str) -> dict[str, dict[str, float]]:
    """By rate."""
    found = {}
    exact = f"{name}@float"  # whatever this machine would take by itself
    with Encoder(exact) as encoder, Decoder(exact) as decoder:
        bundle = encoder.bundle
        rig = RIGS[bundle.family]
        frames = [rig.frame(number) for number in FRAMES]
        for rate in sorted({0, bundle.default_rate, len(bundle.rate_points) - 1}):
            figures = []
            for frame in frames:
                packet = encoder.encode(frame.left, rate)
                decoded = decoder.decode(packet, frame.right)
                psnr = [psnr_db(picture, frame.left) for picture in (decoded.image, decoded.x_dec)]
                figures.append((len(packet), *psnr, 3.0 * decoded.used_side))
            means = np.round(np.mean(figures, axis=0), 3).tolist()
            names = ("bytes", "psnr_db", "psnr_db_no_side", "used_side")
            found[str(rate)] = dict(zip(names, means, strict=True))
    return found


if __name__ == "__main__":
    FILE.write_text(
        json.dumps({name: quality(name) for name in shipped_bundles()}, indent=1) + "\n"
    )
