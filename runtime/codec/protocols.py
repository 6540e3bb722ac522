"""One picture to bytes and back, whatever entropy model its bundle has.

Planes are RGB float32 (1, 3, H, W) in 0..255, padded to the bundle's multiples. A *latent* is what
the decoder's network takes: symbols uint8 (C, h, w) with the causal context model, ŷ float32
(C, h, w) in quantiser steps with the hyperprior.
"""

from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.int8_support import check_int8
from dsin.runtime.entropy.hyper_codec import HyperTables
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.pictures import Planes
from dsin.runtime.stopwatch import Stopwatch

Latent = npt.NDArray[Any]


class Reconstruction(NamedTuple):
    """A picture as the decoder's network has it, where that runs: planes x_dec, and with the
    hyperprior the features (1, F, H/8, W/8) that it was made of."""

    x_dec: Tensor
    features: Tensor | None


class PictureEncoder(Protocol):
    """The device's half. `watch` gets the stages compute and entropy."""

    def encode(self, planes: Planes, rate: int, watch: Stopwatch) -> bytes:
        """The payload of a picture."""

    def latent(self, planes: Planes, rate: int) -> Latent:
        """What the decoder will have, without the bytes between."""


class PictureDecoder(Protocol):
    """The server's half."""

    def latent(self, payload: bytes, size: tuple[int, int], rate: int) -> Latent:
        """From the payload of planes of that (height, width). Raises PacketError."""

    def reconstruct(self, latent: Latent, rate: int) -> Reconstruction:
        """The picture."""


def open_picture_encoder(bundle: Bundle, backend: Backend, threads: int | None) -> PictureEncoder:
    """The encoder of a bundle. Raises BackendError."""
    check_int8(bundle)
    if isinstance(bundle.entropy, HyperTables):
        from dsin.runtime.codec.edge import EdgePictureEncoder, open_hyper_codec

        codec = open_hyper_codec(bundle, bundle.entropy, backend, threads)
        return EdgePictureEncoder(bundle, codec, backend, threads)
    from dsin.runtime.codec.paper import CausalPictureEncoder

    return CausalPictureEncoder(bundle, bundle.entropy, backend, threads)


def open_picture_codecs(
    bundle: Bundle, backend: Backend, threads: int | None
) -> tuple[PictureEncoder, PictureDecoder]:
    """Both halves of a bundle, as a decoder needs them, with one entropy coder. Raises
    BackendError."""
    check_int8(bundle)
    if isinstance(bundle.entropy, HyperTables):
        from dsin.runtime.codec.edge import (
            EdgePictureDecoder,
            EdgePictureEncoder,
            open_hyper_codec,
        )

        codec = open_hyper_codec(bundle, bundle.entropy, backend, threads)
        encoder = EdgePictureEncoder(bundle, codec, backend, threads)
        return encoder, EdgePictureDecoder(bundle, codec, backend, threads)
    from dsin.runtime.codec.paper import CausalPictureDecoder, CausalPictureEncoder

    tables = bundle.entropy
    return (
        CausalPictureEncoder(bundle, tables, backend, threads),
        CausalPictureDecoder(bundle, tables, backend, threads),
    )
