"""Pictures of x_dec and y_syn, which the search by flow has already in whole levels."""

from typing import Any

import numpy as np
import pytest
from support.pictures import smooth_picture

from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.layouts import as_picture
from dsin.runtime.codec.side_fusion import FlowFusion, Fused

SIZE = (61, 90)


@pytest.mark.parametrize("truncate", [False, True])
def test_pictures_beside_a_side_image(monkeypatch: pytest.MonkeyPatch, truncate: bool) -> None:
    kept: list[Fused] = []
    fuse = FlowFusion.fuse

    def keep(*arguments: Any) -> Fused:
        kept.append(fuse(*arguments))
        return kept[-1]

    monkeypatch.setattr(FlowFusion, "fuse", keep)
    bundle = open_bundle()
    object.__setattr__(bundle, "truncate_to_uint8", truncate)
    x, y = smooth_picture(SIZE, seed=1), smooth_picture(SIZE, seed=2)
    packet = Encoder(bundle, threads=1).encode(x)
    decoder = Decoder(bundle, threads=1)
    beside, alone = decoder.decode(packet, y), decoder.decode(packet, None)
    np.testing.assert_array_equal(beside.x_dec, alone.image)
    (fused,) = kept
    np.testing.assert_array_equal(beside.y_syn, as_picture(fused.y_syn, SIZE))
    for picture in (beside.image, beside.x_dec, beside.y_syn):
        assert picture is not None
        assert picture.flags.c_contiguous
        assert picture.shape == x.shape
