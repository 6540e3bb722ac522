"""What frames that refer to earlier ones cost, against the same frames each on its own.

    python tests/benchmarks/standing_still.py [--kitti DRIVE] [--frames N] [--rates 0,2,7]
        [--delays 1,3] [--json FILE]

Two scenes of the built-in rig, or of a KITTI drive: one picture with a sensor's noise of sigma 2,
and the moving pictures. A frame may refer to the one `delay` frames before it, whose decoding is
known by then. No link and no clock is involved, so the figures are the same on every machine but
for encoders' last bits. JSON: {scene: [{"rate", "delay", "bytes_ratio", "psnr_db",
"psnr_db_independent", "referring"}]}; bytes of the first `delay` frames, which have nothing to
refer to, do not count.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dsin.runtime import DecodedFrames, Decoder, Encoder, SentFrames
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image
from dsin.runtime.sources.recordings import StereoRecording, open_stereo
from dsin.runtime.sources.synthetic_rig import SyntheticRig

NOISE = 2.0


def measured(
    picture: Callable[[int], Image], frames: int, rate: int, delay: int
) -> dict[str, float]:
    """Figures of `frames` pictures at a rate."""
    sent, seen = SentFrames(), DecodedFrames()
    sizes, alone, quality, quality_alone, referring = [], [], [], [], 0
    with Encoder() as encoder, Decoder() as decoder:
        for number in range(frames):
            image = picture(number)
            packet = encoder.encode(image, rate, frame_number=number, references=sent)
            independent = encoder.encode(image, rate)
            decoded = decoder.decode(bytes(packet), None, references=seen)
            sizes.append(len(packet))
            alone.append(len(independent))
            quality.append(psnr_db(decoded.image, image))
            quality_alone.append(psnr_db(decoder.decode(independent, None).image, image))
            referring += packet.header.reference is not None
            if number >= delay - 1:
                sent.confirm(number - delay + 1)
    return {
        "rate": rate,
        "delay": delay,
        "bytes_ratio": round(sum(sizes[delay:]) / sum(alone[delay:]), 4),
        "psnr_db": round(float(np.mean(quality)), 3),
        "psnr_db_independent": round(float(np.mean(quality_alone)), 3),
        "referring": referring,
    }


def standing(scene: Image) -> Callable[[int], Image]:
    """One picture, with a sensor's noise."""

    def picture(number: int) -> Image:
        noise = np.random.default_rng(number).normal(0, NOISE, scene.shape)
        return np.clip(np.rint(scene + noise), 0, 255).astype(np.uint8)

    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kitti", type=Path)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rates", type=lambda text: list(map(int, text.split(","))), default=[2])
    parser.add_argument("--delays", type=lambda text: list(map(int, text.split(","))), default=[1])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rig: SyntheticRig | StereoRecording
    if arguments.kitti is None:
        rig = SyntheticRig(width=640, height=360, frames=max(2, arguments.frames))
    else:
        rig = open_stereo(arguments.kitti, arguments.frames)
    scenes = {
        "standing": standing(rig.view(0, "left")),
        "moving": lambda number: rig.view(number, "left"),
    }
    results: dict[str, list[dict[str, float]]] = {}
    for name, picture in scenes.items():
        results[name] = []
        for rate in arguments.rates:
            for delay in arguments.delays:
                figures = measured(picture, arguments.frames, rate, delay)
                results[name].append(figures)
                print(
                    f"{name:10}rate {rate}, {delay} frames later: "
                    f"{figures['bytes_ratio']:7.2%} of the bytes, {figures['psnr_db']:.2f} dB, "
                    f"{figures['psnr_db_independent']:.2f} dB each on its own; "
                    f"{figures['referring']} of {arguments.frames} refer",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
