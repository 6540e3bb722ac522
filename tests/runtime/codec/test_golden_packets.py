"""Packets of every shipped bundle and rate, made once, decode to the same latents for ever."""

import base64
import json

import numpy as np
import pytest
from golden import make_packets

from dsin.runtime import Packet, open_bundle, shipped_bundles
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.entropy.context_model import encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.entropy.integer_coder import IntegerDecoder

FILES = sorted(make_packets.FOLDER.glob("*.json"))
CASES = [(path.stem, name) for path in FILES for name in json.loads(path.read_text())["packets"]]


def test_every_bundle_has_packets_of_every_rate() -> None:
    expected = []
    for name in shipped_bundles():
        last = len(open_bundle(name).rate_points) - 1
        expected += [(name, f"picture, rate {rate}") for rate in range(last + 1)]
        expected += [(name, f"extremes, rate {rate}") for rate in {0, last}]
    assert sorted(CASES) == sorted(expected), "run tests/golden/make_packets.py"


@pytest.fixture(scope="module", params=[path.stem for path in FILES])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return open_bundle(request.param)


def packets(bundle: Bundle) -> dict[str, tuple[Packet, str]]:
    """Packets and the hashes of their latents, by name."""
    stored = json.loads((make_packets.FOLDER / f"{bundle.path.name}.json").read_text())
    assert stored["codec_id"] == bundle.codec_id.hex(), "run tests/golden/make_packets.py"
    return {
        name: (Packet.parse(base64.b64decode(case["packet"])), case["latent"])
        for name, case in stored["packets"].items()
    }


def test_packets_decode_to_the_latents_they_were_made_of(bundle: Bundle) -> None:
    for name, (packet, latent) in packets(bundle).items():
        assert make_packets.latent_hash(bundle, packet) == latent, name


def test_packets_that_refer_to_others_decode_to_the_latents_they_were_made_of(
    bundle: Bundle,
) -> None:
    stored = json.loads(make_packets.REFERRING.read_text())
    assert (bundle.path.name in stored) == bundle.refers
    if not bundle.refers:
        return
    assert stored[bundle.path.name]["codec_id"] == bundle.codec_id.hex()
    for name, case in stored[bundle.path.name]["pairs"].items():
        first, second = (Packet.parse(base64.b64decode(each)) for each in case["packets"])
        assert second.header.reference == (1, first.checksum)
        assert make_packets.referring_hash(bundle, [first, second]) == case["latent"], name


def test_headers_say_what_the_frame_was(bundle: Bundle) -> None:
    for name, (packet, _) in packets(bundle).items():
        kind, rate = name.split(", rate ")
        header = packet.header
        assert (header.codec_id, header.rate) == (bundle.codec_id, int(rate))
        if kind == "picture":
            assert (header.width, header.height) == (150, 100)
            assert (header.frame_number, header.timestamp_ns) == (int(rate), 10**18 + int(rate))


def test_the_latents_are_coded_to_the_same_payloads(bundle: Bundle) -> None:
    """So that an old receiver reads new packets."""
    codec = None
    if bundle.family == "edge":
        codec = open_hyper_codec(bundle, bundle.hyper_tables, "cpu", 1)
    for name, (packet, _) in packets(bundle).items():
        latent = make_packets.latent_of(bundle, packet)
        if codec is None:
            assert encode_symbols(bundle.context_model, latent) == packet.payload, name
            continue
        tables, rate = bundle.hyper_tables, packet.header.rate
        shape = (tables.z_scales.shape[1], *(n // HYPER_STRIDE for n in latent.shape[1:]))
        choice = tables.z_scales[rate].repeat(shape[1] * shape[2])
        z = IntegerDecoder(tables.scales, packet.payload).take(choice).reshape(shape)
        if name.startswith("extremes"):
            assert np.abs(z).max() > 128, "nothing to clip"
            assert np.abs(latent).max() > 64, "nothing to clip"
        payload, _ = codec.encode(latent, z.astype(np.float32), rate)
        assert payload == packet.payload, name
