"""What the looks of a bundle make of the same packets.

    python tests/benchmarks/looks.py val.txt KITTI [--bundle edge] [--count N] [--picture OUT.jpg]

Prints, for each look and rate, PSNR, MS-SSIM and the strength of detail that is missing (squared
difference of standard deviations in grey levels, `dsin.training.edge.appearance`), means over the
first N pairs, cut to 320×1216. `--picture` draws a frame of the built-in rig: the camera's picture,
what the bytes alone give, and each look.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.codec.bundle import FAITHFUL
from dsin.runtime.evaluation.pairs import read_pair, read_pair_list
from dsin.runtime.metrics import psnr_db
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.training.edge.appearance import texture_error_of_each
from dsin.training.losses import ms_ssim_of_each

SIZE = (320, 1216)
RATES = (1, 3, 6)
Image = npt.NDArray[np.uint8]


def figures(x: Image, picture: Image) -> tuple[float, float, float]:
    """PSNR in dB, MS-SSIM, missing strength of detail."""
    mine, theirs = (
        torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))[None]).float()
        for view in (picture, x)
    )
    structure, texture = ms_ssim_of_each(theirs, mine), texture_error_of_each(theirs, mine)
    return psnr_db(x, picture), float(structure), float(texture)


def looks_of(bundle: str) -> list[str]:
    return [FAITHFUL, *open_bundle(bundle).looks]


def named(bundle: str, look: str) -> str:
    return bundle if look == FAITHFUL else f"{bundle}@{look}"


def table(bundle: str, pairs: list[tuple[Image, Image]]) -> Iterator[str]:
    for look in looks_of(bundle):
        with Encoder(bundle) as encoder, Decoder(named(bundle, look)) as decoder:
            for rate in RATES:
                found = [
                    figures(x, decoder.decode(encoder.encode(x, rate), y).image) for x, y in pairs
                ]
                psnr, structure, texture = np.mean(found, axis=0)
                yield f"{look:10} {rate}  {psnr:.2f} dB  {structure:.4f}  {texture:.1f}"


def draw(bundle: str, out: Path, rate: int = 1) -> None:
    frame = next(iter(SyntheticRig(frames=1)))
    x = np.ascontiguousarray(frame.left[60:260, 200:900])
    panels = [x]
    for look in looks_of(bundle):
        with Encoder(bundle) as encoder, Decoder(named(bundle, look)) as decoder:
            decoded = decoder.decode(encoder.encode(frame.left, rate), frame.right)
        for picture in (decoded.x_dec, decoded.image)[look != FAITHFUL :]:
            panels.append(np.ascontiguousarray(picture[60:260, 200:900]))
    cv2.imwrite(str(out), np.concatenate(panels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--bundle", default="edge@float")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if options.picture:
        draw(options.bundle, options.picture)
    listed = read_pair_list(options.pairs, options.root)[: options.count]
    pairs = [read_pair(pair, SIZE) for pair in listed]
    for line in table(options.bundle, pairs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
