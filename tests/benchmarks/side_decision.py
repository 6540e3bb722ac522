"""How well is a side image of the scene told from one of another: the share of blocks that the
search by flow finds (`FlowFound.shown`), for pairs as they are and altered, and both error rates.

python tests/benchmarks/side_decision.py LIST ROOT [COUNT [BUNDLE]]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.side_fusion import LEAST_SHOWN
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.runtime.patch_correlation.side_flow import find_side_views, prepare_flow_side
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import Image

RATES = 0, 4
LARGEST = 320, 960
LIMITS = (0.1, 0.15, 0.2, LEAST_SHOWN, 0.3, 0.35, 0.4)
RNG = np.random.default_rng(0)


def resized(image: Image, scale: float) -> Image:
    size = (int(image.shape[1] * scale), int(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def noisy(image: Image) -> Image:
    noise = RNG.normal(0, 6, image.shape)
    return np.asarray(np.clip(image + noise, 0, 255).round(), np.uint8)


CASES: dict[str, Callable[[Image, Image], tuple[Image, Image]]] = {
    "as they are": lambda x, y: (x, y),
    "half size": lambda x, y: (resized(x, 0.5), resized(y, 0.5)),
    "cut to 160x320": lambda x, y: (x[:160, :320], y[:160, :320]),
    "y darker by 40 %": lambda x, y: (x, np.rint(0.6 * y).astype(np.uint8)),
    "y noisy, sigma 6": lambda x, y: (x, noisy(y)),
}


def main() -> None:
    listed, root = map(Path, sys.argv[1:3])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    bundle = open_bundle(sys.argv[4] if len(sys.argv) > 4 else None)
    pairs = read_pair_list(listed, root)[:count]
    views = [(_cut(read_image(pair.x)), _cut(read_image(pair.y))) for pair in pairs]
    shown: dict[str, list[float]] = {}
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:

        def measure(name: str, x: Image, y: Image) -> None:
            rows, columns = (
                min(a, b) // 8 * 8 for a, b in zip(x.shape[:2], y.shape[:2], strict=True)
            )
            x, y = (np.ascontiguousarray(view[:rows, :columns]) for view in (x, y))
            side = prepare_flow_side(y, bundle.search)
            for rate in RATES:
                x_dec = decoder.decode(encoder.encode(x, rate), None).x_dec
                found = find_side_views(x_dec, side, bundle.search)
                shown.setdefault(name, []).append(found.shown)

        for n, (x, y) in enumerate(views):
            for name, alter in CASES.items():
                measure(name, *alter(x, y))
            measure("another scene", x, views[(n + len(views) // 2) % len(views)][1])
            measure("the same view, upside down", x, y[::-1])
    _report(shown)


def _cut(image: Image) -> Image:
    return image[: LARGEST[0], : LARGEST[1]]


def _report(shown: dict[str, list[float]]) -> None:
    for name, shares in shown.items():
        low, middle, high = np.quantile(shares, (0, 0.5, 1))
        print(f"{name:28} {low:.3f} {middle:.3f} {high:.3f} ({len(shares)})")
    same = np.concatenate([shown[name] for name in CASES])
    other = np.concatenate([v for name, v in shown.items() if name not in CASES])
    print("\nlimit   refused of the scene   taken of another")
    for limit in LIMITS:
        refused, taken = 100 * np.mean(same < limit), 100 * np.mean(other >= limit)
        print(f"{limit:5.2f}   {refused:20.2f} %   {taken:14.2f} %")


if __name__ == "__main__":
    main()
