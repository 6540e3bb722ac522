"""Rebuilds the interoperability kit of all shipped bundles: `python tests/golden/make_packets.py`.

See `dsin.runtime.diagnosis.kit` for what is in it. The packets of pictures are made by this
machine; those of extremes have numbers that no picture reaches, so that every clip on the way is
passed. A bundle whose codec id is in its file already keeps that file: what decodes differently
under the same codec id is a fault, not a new golden packet. Folders of older formats are not
touched.

REFERRING, which is not part of the kit, has of each bundle whose packets may refer to earlier ones
pairs of packets at the lowest and the highest rate, the second of which refers to the first, with
the latent of the second.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime import Decoder, Encoder, Packet, SentFrames, open_bundle, shipped_bundles
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.codec.exact import ExactCoder, latent_sha256
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.packet import VERSION, PacketHeader
from dsin.runtime.codec.precision import precision_of
from dsin.runtime.codec.protocols import ReferringDecoder
from dsin.runtime.diagnosis.kit import (
    FOLDER,
    Golden,
    built_in_pictures,
    kit_folder,
)
from dsin.runtime.entropy.context_model import encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.files import write_image
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import padded_size
from dsin.runtime.sources.synthetic_rig import SyntheticRig

REFERRING = Path(__file__).parent / "referring.json"
WIDTH, HEIGHT = 150, 100
SMALL = {"edge": (64, 64), "paper": (40, 48)}
"""Height and width of packets that hold no picture."""


def extreme_packet(bundle: Bundle, rate: int) -> Packet:
    """A packet with values far outside those of pictures."""
    rng = np.random.RandomState(rate)
    height, width = SMALL[bundle.family]
    padded = padded_size(height, width, bundle.frame_multiple)
    shape = (bundle.channels, *(length // bundle.stride for length in padded))
    header = PacketHeader(bundle.codec_id, width, height, rate)
    if bundle.family == "paper":
        kinds = bundle.context_model.symbols_per_alphabet
        symbols = rng.randint(0, kinds, shape).astype(np.uint8)
        return Packet(header, encode_symbols(bundle.context_model, symbols))
    small = (bundle.hyper_tables.z_scales.shape[1], *(n // HYPER_STRIDE for n in shape[1:]))
    y, z = rng.standard_cauchy(shape) * 2, rng.standard_cauchy(small) * 60
    codec = open_hyper_codec(bundle, bundle.hyper_tables, "cpu", 1)
    payload, _ = codec.encode(y.astype(np.float32), z.astype(np.float32), rate)
    return Packet(header, payload)


def of_pictures(name: str) -> Iterator[Golden]:
    """The built-in picture at every rate of a bundle, `name` with its precision."""
    x, y = built_in_pictures()
    with Encoder(name, threads=1) as encoder, Decoder(name, threads=1) as decoder:
        networks = precision_of(encoder.bundle)
        exact = ExactCoder(encoder.bundle, "cpu", 1)
        for rate in range(len(encoder.bundle.rate_points)):
            packet = encoder.encode(x, rate, frame_number=rate, timestamp_ns=10**18 + rate)
            decoded = decoder.decode(packet, y)
            psnr = [round(psnr_db(picture, x), 4) for picture in (decoded.image, decoded.x_dec)]
            latent = latent_sha256(exact.decode(packet))
            yield Golden("picture", networks, rate, bytes(packet), latent, psnr[0], psnr[1])


def of_extremes(bundle: Bundle) -> Iterator[Golden]:
    """At the lowest and the highest rate."""
    exact = ExactCoder(bundle, "cpu", 1)
    for rate in sorted({0, len(bundle.rate_points) - 1}):
        packet = extreme_packet(bundle, rate)
        latent = latent_sha256(exact.decode(packet))
        yield Golden("extremes", None, rate, bytes(packet), latent, None, None)


def case(name: str) -> dict[str, Any]:
    """What the file of a bundle holds."""
    bundle = open_bundle(name)
    precisions = ("float", "int8") if bundle.int8 else ("float",)
    goldens = [golden for p in precisions for golden in of_pictures(f"{name}@{p}")]
    goldens += of_extremes(bundle)
    return {
        "codec_id": bundle.codec_id.hex(),
        "packets": [golden.to_json() for golden in goldens],
    }


def referring_pairs(bundle: Bundle) -> dict[str, list[Packet]]:
    """By name: a picture, and the same with a square that has changed."""
    view = SyntheticRig(width=WIDTH, height=HEIGHT, frames=6).view(5, "left")
    changed = view.copy()
    changed[70:95, 20:60] = 255 - changed[70:95, 20:60]
    pairs = {}
    with Encoder(bundle, threads=1) as encoder:
        for rate in (0, len(bundle.rate_points) - 1):
            sent = SentFrames()
            first = encoder.encode(view, rate, frame_number=1, references=sent)
            sent.confirm(1)
            second = encoder.encode(changed, rate, frame_number=2, references=sent)
            assert second.header.reference is not None
            pairs[f"rate {rate}"] = [first, second]
    return pairs


def referring_hash(bundle: Bundle, pair: Sequence[Packet]) -> str:
    """The sha256 of the latent of a pair's second packet."""
    decoder = family_of(bundle).open_codecs(bundle, "cpu", 1)[1]
    assert isinstance(decoder, ReferringDecoder)
    coded = None
    for packet in pair:
        header = packet.header
        size = padded_size(header.height, header.width, bundle.frame_multiple)
        coded = decoder.coded_latent(packet.payload, size, header.rate, coded)
    assert coded is not None
    return latent_sha256(coded.latent)


def referring_case(bundle: Bundle) -> dict[str, Any]:
    """What REFERRING holds of a bundle."""
    pairs = {
        name: {
            "packets": [base64.b64encode(bytes(packet)).decode() for packet in pair],
            "latent": referring_hash(bundle, pair),
        }
        for name, pair in referring_pairs(bundle).items()
    }
    return {"codec_id": bundle.codec_id.hex(), "pairs": pairs}


def write_referring() -> None:
    """As `main` does for the packets that stand alone."""
    stored = json.loads(REFERRING.read_text()) if REFERRING.is_file() else {}
    bundles = [bundle for bundle in map(open_bundle, shipped_bundles()) if bundle.refers]
    kept = {}
    for bundle in bundles:
        before = stored.get(bundle.path.name, {})
        same = before.get("codec_id") == bundle.codec_id.hex()
        kept[bundle.path.name] = before if same else referring_case(bundle)
    REFERRING.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    write_referring()
    folder = kit_folder(VERSION)
    folder.mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "x.png").is_file():
        frame = SyntheticRig(width=WIDTH, height=HEIGHT, frames=6).frame(5)
        write_image(FOLDER / "x.png", frame.left)
        write_image(FOLDER / "y.png", frame.right)
    for name in shipped_bundles():
        bundle, path = open_bundle(name), folder / f"{name}.json"
        if path.is_file() and json.loads(path.read_text())["codec_id"] == bundle.codec_id.hex():
            print(f"{name}: unchanged")
            continue
        path.write_text(json.dumps(case(name), indent=1) + "\n")
        print(f"{name}: written")
    for path in folder.glob("*.json"):
        if path.stem not in shipped_bundles():
            path.unlink()
            print(f"{path.stem}: removed")


if __name__ == "__main__":
    main()
