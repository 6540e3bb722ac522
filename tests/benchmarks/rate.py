"""What the coder costs above the model, and the integer model above the float one.

    python tests/benchmarks/rate.py PAIRS ROOT [CHECKPOINT]

Prints bytes of the payloads of the left images of a pair list (centre crop 320x1224, the shipped
bundle), the integer model's own cross-entropy, and with the bundle's CHECKPOINT the float model's.
"""

import sys
from pathlib import Path

from dsin.calibration.integer_context import float_bits
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.entropy.context_model import cross_entropy_bits
from dsin.runtime.evaluation.pairs import read_pair_list
from dsin.runtime.picture_files import read_image
from dsin.runtime.pictures import centre_crop
from dsin.training.checkpoint import load_checkpoint

CROP = (320, 1224)


def main() -> None:
    pairs, root, *checkpoint = map(Path, sys.argv[1:])
    bundle = open_bundle("paper")
    model = load_checkpoint(checkpoint[0])[0] if checkpoint else None
    total = {"coded": 0.0, "integer": 0.0, "float": 0.0}
    worst = 0.0
    with Encoder(bundle) as encoder:
        for pair in read_pair_list(pairs, root):
            frame = centre_crop(read_image(pair.x), CROP)
            coded = len(encoder.encode(frame).payload)
            symbols = encoder.latent(frame)
            own = cross_entropy_bits(bundle.context_model, symbols) / 8
            total["coded"] += coded
            total["integer"] += own
            worst = max(worst, coded - own)
            if model is not None:
                centers = model.quantiser.centers
                total["float"] += float_bits(model.context, centers, symbols) / 8
    print(f"coded {total['coded']:.0f} bytes, integer model {total['integer']:.1f} bytes")
    print(f"coder above the integer model: {total['coded'] / total['integer'] - 1:+.3%}, ", end="")
    print(f"at most {worst:.1f} bytes an image")
    if model is not None:
        above = total["integer"] / total["float"] - 1
        print(f"integer model above the float model: {above:+.3%}")


if __name__ == "__main__":
    main()
