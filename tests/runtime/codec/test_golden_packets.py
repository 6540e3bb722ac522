"""Packets that refer to others, made once, decode to the same latents for ever. Those that stand
alone are in the kit of `dsin selftest`."""

import base64
import json

import pytest
from golden import make_packets

from dsin.runtime import Packet, open_bundle, shipped_bundles


@pytest.mark.parametrize("name", shipped_bundles())
def test_packets_that_refer_to_others_decode_to_the_latents_they_were_made_of(name: str) -> None:
    bundle = open_bundle(name)
    stored = json.loads(make_packets.REFERRING.read_text())
    assert (name in stored) == bundle.refers, "run tests/golden/make_packets.py"
    if not bundle.refers:
        return
    assert stored[name]["codec_id"] == bundle.codec_id.hex(), "run tests/golden/make_packets.py"
    for rate, case in stored[name]["pairs"].items():
        first, second = (Packet.parse(base64.b64decode(each)) for each in case["packets"])
        assert second.header.reference == (1, first.checksum)
        assert make_packets.referring_hash(bundle, [first, second]) == case["latent"], rate
