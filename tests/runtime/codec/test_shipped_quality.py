"""What the shipped bundles make of the built-in rig, as literal values: constants that code and
reference share show here."""

import json

import numpy as np
import pytest
from golden.make_quality import FILE, RIGS, quality

from dsin.runtime import Decoder, Encoder, shipped_bundles

STORED = json.loads(FILE.read_text())


@pytest.mark.parametrize("name", shipped_bundles())
def test_bytes_and_quality_are_what_they_were(name: str) -> None:
    found, expected = quality(name), STORED[name]
    assert found.keys() == expected.keys(), "run tests/golden/make_quality.py"
    for rate, figures in found.items():
        stored = expected[rate]
        assert figures["used_side"] == stored["used_side"], rate
        # Networks are floats: now and then a value is rounded otherwise on another machine.
        assert figures["bytes"] == pytest.approx(stored["bytes"], rel=0.005), rate
        for kind in ("psnr_db", "psnr_db_no_side"):
            assert figures[kind] == pytest.approx(stored[kind], abs=0.03), (rate, kind)


def test_a_side_image_of_another_scene_is_left_alone() -> None:
    """And the true one is used."""
    frame = RIGS["edge"].frame(6)
    noise = np.random.RandomState(0).randint(0, 256, frame.right.shape).astype(np.uint8)
    with Encoder("edge") as encoder, Decoder("edge") as decoder:
        packet = encoder.encode(frame.left, 7)
        foreign, true = (decoder.decode(packet, side) for side in (noise, frame.right))
    assert not foreign.used_side
    assert np.array_equal(foreign.image, foreign.x_dec)
    assert true.used_side
    assert not np.array_equal(true.image, true.x_dec)
