"""Rebuilds the golden packets: `python tests/golden/make_packets.py`, for every shipped bundle.

REFERRING has, of each bundle whose packets may refer to earlier ones, pairs of packets at the
lowest and the highest rate, the second of which refers to the first, with the latent of the second.

A file for each bundle: its codec id, and packets (base64) with the sha256 of the latent that they
decode to, little-endian. They are of a picture of the built-in rig at every rate, and of numbers
that no picture reaches, so that every clip on the way is passed. A bundle whose codec id
is in its file already keeps that file: what decodes differently under the same codec id is a fault,
not a new golden packet.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dsin.runtime import Encoder, Packet, SentFrames, open_bundle, shipped_bundles
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.packet import PacketHeader
from dsin.runtime.codec.protocols import PictureDecoder, ReferringDecoder
from dsin.runtime.entropy.context_model import encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.pictures import padded_size
from dsin.runtime.sources.synthetic_rig import SyntheticRig

FOLDER = Path(__file__).parent / "packets"
REFERRING = Path(__file__).parent / "referring.json"
WIDTH, HEIGHT = 150, 100
SMALL = {"edge": (64, 64), "paper": (40, 48)}
"""Height and width of packets that hold no picture."""


@cache
def _decoder(name: str) -> PictureDecoder:
    bundle = open_bundle(name)
    return family_of(bundle).open_codecs(bundle, "cpu", 1)[1]


def latent_of(bundle: Bundle, packet: Packet) -> np.ndarray:
    """What a packet's payload decodes to, with a shipped bundle."""
    header = packet.header
    size = padded_size(header.height, header.width, bundle.frame_multiple)
    return _decoder(bundle.path.name).latent(packet.payload, size, header.rate)


def latent_hash(bundle: Bundle, packet: Packet) -> str:
    """The sha256 of that."""
    latent = latent_of(bundle, packet)
    return hashlib.sha256(latent.astype(latent.dtype.newbyteorder("<")).tobytes()).hexdigest()


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


def golden_packets(bundle: Bundle) -> dict[str, Packet]:
    """By name."""
    view = SyntheticRig(width=WIDTH, height=HEIGHT, frames=6).view(5, "left")
    packets = {}
    with Encoder(bundle, threads=1) as encoder:
        for rate in range(len(bundle.rate_points)):
            packets[f"picture, rate {rate}"] = encoder.encode(
                view, rate, frame_number=rate, timestamp_ns=10**18 + rate
            )
    for rate in sorted({0, len(bundle.rate_points) - 1}):
        packets[f"extremes, rate {rate}"] = extreme_packet(bundle, rate)
    return packets


def case(bundle: Bundle) -> dict[str, Any]:
    """What the file of a bundle holds."""
    packets = {
        name: {
            "packet": base64.b64encode(bytes(packet)).decode(),
            "latent": latent_hash(bundle, packet),
        }
        for name, packet in golden_packets(bundle).items()
    }
    return {"codec_id": bundle.codec_id.hex(), "packets": packets}


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
    decoder = _decoder(bundle.path.name)
    assert isinstance(decoder, ReferringDecoder)
    coded = None
    for packet in pair:
        header = packet.header
        size = padded_size(header.height, header.width, bundle.frame_multiple)
        coded = decoder.coded_latent(packet.payload, size, header.rate, coded)
    assert coded is not None
    return hashlib.sha256(coded.latent.astype("<f4").tobytes()).hexdigest()


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
    FOLDER.mkdir(exist_ok=True)
    for name in shipped_bundles():
        bundle, path = open_bundle(name), FOLDER / f"{name}.json"
        if path.is_file() and json.loads(path.read_text())["codec_id"] == bundle.codec_id.hex():
            print(f"{name}: unchanged")
            continue
        path.write_text(json.dumps(case(bundle), indent=1) + "\n")
        print(f"{name}: written")
    for path in FOLDER.glob("*.json"):
        if path.stem not in shipped_bundles():
            path.unlink()
            print(f"{path.stem}: removed")


if __name__ == "__main__":
    main()
