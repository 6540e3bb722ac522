"""Rebuilds the interoperability kit of all shipped bundles: `python tests/golden/make_packets.py`.

See `dsin.runtime.diagnosis.kit` for what is in it. The packets of pictures are made by this
machine; those of extremes have numbers that no picture reaches, so that every clip on the way is
passed. A bundle whose codec id is in its file already keeps its packets: what decodes differently
under the same codec id is a fault, not a new golden packet. Where its 8-bit networks are others
than those of the file, packets that these make join, and those of before stay, to be decoded for
ever. Folders of older formats are not touched.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dsin.runtime import Decoder, Encoder, Packet, SentFrames, open_bundle, shipped_bundles
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.codec.exact import ExactCoder, latent_sha256
from dsin.runtime.codec.packet import REFERRING, VERSION, PacketHeader
from dsin.runtime.codec.precision import precision_of
from dsin.runtime.diagnosis.kit import (
    FOLDER,
    Golden,
    KitFile,
    built_in_pictures,
    int8_sha256,
    kit_folder,
    read_kit,
)
from dsin.runtime.entropy.context_model import encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.files import write_image
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import padded_size
from dsin.runtime.sources.synthetic_rig import SyntheticRig

Make = Callable[[Bundle], Iterator[Golden]]
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


def referring_pairs(bundle: Bundle) -> Iterator[tuple[Packet, Packet]]:
    """A picture, and the same with a changed square, at the lowest and the highest rate."""
    view, _ = built_in_pictures()
    changed = view.copy()
    changed[70:95, 20:60] = 255 - changed[70:95, 20:60]
    with Encoder(bundle, threads=1) as encoder:
        for rate in (0, len(bundle.rate_points) - 1):
            sent = SentFrames()
            first = encoder.encode(view, rate, frame_number=1, references=sent)
            sent.confirm(1)
            second = encoder.encode(changed, rate, frame_number=2, references=sent)
            assert second.header.reference is not None
            yield first, second


def of_pairs(bundle: Bundle) -> Iterator[Golden]:
    """Packets that refer to another one."""
    exact = ExactCoder(bundle, "cpu", 1)
    for first, second in referring_pairs(bundle):
        latent = latent_sha256(exact.decode(second, first))
        rate = second.header.rate
        yield Golden("referring", None, rate, bytes(second), latent, None, None, bytes(first))


def case(bundle: Bundle, goldens: Iterable[Golden]) -> dict[str, Any]:
    """What the file of a bundle holds."""
    listed = list(goldens)
    held: dict[str, Any] = {"codec_id": bundle.codec_id.hex()}
    if any(golden.networks == "8 bits" for golden in listed):
        held["int8_sha256"] = int8_sha256(bundle)
    return {**held, "packets": [golden.to_json() for golden in listed]}


def with_new_int8(bundle: Bundle, kept: KitFile) -> list[Golden]:
    """Those of a file whose 8-bit networks were others: the new ones take the place of the old."""
    old = [golden for golden in kept.packets if golden.networks == "8 bits"]
    others = [golden for golden in kept.packets if golden.networks != "8 bits"]
    new = list(of_pictures(f"{bundle.path.name}@int8"))
    first = kept.packets.index(old[0])
    past = [replace(g, networks=None, psnr_db=None, psnr_db_no_side=None) for g in old]
    return [*others[:first], *new, *others[first:], *past]


def standing_alone(bundle: Bundle) -> Iterator[Golden]:
    """Packets of format 1."""
    name = bundle.path.name
    for precision in ("float", "int8") if bundle.int8 else ("float",):
        yield from of_pictures(f"{name}@{precision}")
    yield from of_extremes(bundle)


def write(version: int, bundles: dict[str, Bundle], make: Make) -> None:
    """The files of one format."""
    folder = kit_folder(version)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {file.bundle: file for file in read_kit() if file.format == version}
    for name, bundle in bundles.items():
        goldens: Iterable[Golden] = make(bundle)
        if name in kept and kept[name].codec_id == bundle.codec_id.hex():
            if version == REFERRING or kept[name].int8_sha256 == int8_sha256(bundle):
                print(f"format {version}, {name}: unchanged")
                continue
            goldens = with_new_int8(bundle, kept[name])
        written = json.dumps(case(bundle, goldens), indent=1) + "\n"
        (folder / f"{name}.json").write_text(written)
        print(f"format {version}, {name}: written")
    for path in folder.glob("*.json"):
        if path.stem not in bundles:
            path.unlink()
            print(f"format {version}, {path.stem}: removed")


def main() -> None:
    if not (FOLDER / "x.png").is_file():
        frame = SyntheticRig(width=WIDTH, height=HEIGHT, frames=6).frame(5)
        write_image(FOLDER / "x.png", frame.left)
        write_image(FOLDER / "y.png", frame.right)
    bundles = {name: open_bundle(name) for name in shipped_bundles()}
    write(VERSION, bundles, standing_alone)
    write(REFERRING, {n: bundle for n, bundle in bundles.items() if bundle.refers}, of_pairs)


if __name__ == "__main__":
    main()
