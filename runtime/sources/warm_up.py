"""Pictures to warm up with, so that the first frame of a stream is no slower than the others.

On a fresh installation kernels are compiled when they are first called, for ten seconds and more.
Flat pictures would not do: the search leaves them early and calls few of its kernels.
"""

import numpy as np

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.pictures import Image
from dsin.runtime.sources.synthetic_rig import SyntheticRig

TILE = (160, 240)
"""Height and width of the scene: the smallest size that is enough to warm up with."""


def warm_up(encoder: Encoder, size: tuple[int, int], decoder: Decoder | None = None) -> None:
    """Compile and allocate for pictures of that height and width; with a decoder, for packets and
    side images of theirs too."""
    left, right = _pair(size)
    packet = encoder.encode(left)
    if decoder is not None:
        decoder.decode(packet, right)


def _pair(size: tuple[int, int]) -> tuple[Image, Image]:
    """Both views of a scene of the built-in rig, repeated: a large one takes seconds to draw."""
    rig = SyntheticRig(width=TILE[1], height=TILE[0], frames=1)
    return _tiled(rig.view(0, "left"), size), _tiled(rig.view(0, "right"), size)


def _tiled(tile: Image, size: tuple[int, int]) -> Image:
    height, width = size
    times = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    return np.ascontiguousarray(np.tile(tile, times)[:height, :width])
