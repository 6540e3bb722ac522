"""Pictures to warm up with, so that the first frame of a stream is no slower than the others.

On a fresh installation kernels are compiled when they are first called, for ten seconds and more,
long enough for a camera to take the server for dead. Which of them a frame calls depends on what it
shows: the search leaves flat pictures early, and has kernels of their own for those in which much
looks alike or nothing fits. So small pictures of every kind come first.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.compiled import quick_compilation
from dsin.runtime.patch_correlation import match
from dsin.runtime.pictures import Image
from dsin.runtime.sources.compile_ahead import compile_ahead
from dsin.runtime.sources.synthetic_rig import SyntheticRig

TILE = (160, 240)
"""Height and width of the scene: the smallest size that is enough to warm up with."""


@quick_compilation()
def warm_up(encoder: Encoder, size: tuple[int, int], decoder: Decoder | None = None) -> None:
    """Compile and allocate for pictures of that height and width; with a decoder, for packets and
    side images of theirs too."""
    if decoder is not None:
        with compile_ahead() as compile_rest:
            compile_rest(lambda: decoder.decode(encoder.encode(_pair(TILE)[0]), None))
        _match_noise()
        highest = len(encoder.bundle.rate_points) - 1
        for rate in sorted({0, highest}):
            for left, right in _kinds():
                decoder.decode(encoder.encode(left, rate), right)
    left, right = _pair(size)
    packet = encoder.encode(left)
    if decoder is not None:
        decoder.decode(packet, right)


def _match_noise() -> None:
    """Search where so many patches are like so many places that they are compared with all."""
    x, y = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    match(x, y, patch=(8, 8))


def _kinds() -> Iterator[tuple[Image, Image]]:
    """Small pairs of all kinds: where all fits, nothing does, or all is the same."""
    scene, view = _pair(TILE)
    noise = np.random.default_rng(0).integers(0, 256, (*TILE, 3), np.uint8)
    flat = np.full((*TILE, 3), 128, np.uint8)
    yield scene, view
    yield scene, noise
    yield noise, noise
    yield flat, view
    yield scene, flat


def _pair(size: tuple[int, int]) -> tuple[Image, Image]:
    """Both views of a scene of the built-in rig, repeated: a large one takes seconds to draw."""
    left, right = _scene()
    return _tiled(left, size), _tiled(right, size)


@cache
def _scene() -> tuple[Image, Image]:
    rig = SyntheticRig(width=TILE[1], height=TILE[0], frames=1)
    return rig.view(0, "left"), rig.view(0, "right")


def _tiled(tile: Image, size: tuple[int, int]) -> Image:
    height, width = size
    times = (-(-height // tile.shape[0]), -(-width // tile.shape[1]), 1)
    return np.ascontiguousarray(np.tile(tile, times)[:height, :width])
