"""BD-rate of one bundle against a codec that has a bundle for each of its rates.

python tests/benchmarks/bundles_bd_rate.py val.txt KITTI OURS THEIRS [THEIRS ...]

All are measured with real packets on centre crops of 320x1224; their points, of all rates of all
their bundles, make one curve. Prints every point and the BD-rates, with and without the side image.
"""

import sys
from pathlib import Path

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.evaluation.comparison import Point, bd_rates
from dsin.runtime.evaluation.evaluate import evaluate
from dsin.runtime.evaluation.pairs import Pair, read_pair_list

CROP = (320, 1224)


def points(name: str, pairs: list[Pair]) -> list[tuple[Point, Point]]:
    """With and without the side image, at every rate."""
    bundle = open_bundle(name)
    found = []
    for rate in bundle.rate_points:
        mean = evaluate(bundle, pairs, rate=rate.index, crop=CROP)["mean"]
        both = [
            Point(rate.index, mean["bpp"], mean["psnr_db" + s], mean["ms_ssim" + s])
            for s in ("", "_no_side")
        ]
        for label, point in zip(("", ", no side image"), both, strict=True):
            print(
                f"{bundle.path.name} {rate.index}{label}: {point.bpp:.4f} bpp, "
                f"{point.psnr_db:.2f} dB, MS-SSIM {point.ms_ssim:.4f}",
                flush=True,
            )
        found.append((both[0], both[1]))
    return found


def main() -> None:
    listed, root, ours, *theirs = sys.argv[1:]
    pairs = read_pair_list(Path(listed), Path(root))
    own = points(ours, pairs)
    others = [point for name in theirs for point in points(name, pairs)]
    for label, which in (("with the side image", 0), ("without", 1)):
        rates = bd_rates([p[which] for p in own], [p[which] for p in others])
        shown = {name: None if v is None else f"{v:+.1f} %" for name, v in rates.items()}
        print(f"BD-rate {label}: PSNR {shown['psnr']}, MS-SSIM {shown['ms_ssim']}")


if __name__ == "__main__":
    main()
