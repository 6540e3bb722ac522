"""One picture to bytes and back, whatever entropy model its bundle has.

A frame is RGB uint8 H×W×3, padded to the bundle's multiples; what a network takes and yields of it
is in one of the layouts of `dsin.runtime.codec.layouts`. A *latent* is what
the decoder's network takes: symbols uint8 (C, h, w) with the causal context model, ŷ float32
(C, h, w) in quantiser steps with the hyperprior.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy.typing as npt

from dsin.runtime.codec.changes import SentPicture
from dsin.runtime.entropy.hyper_codec import CodedLatent
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.pictures import Image
from dsin.runtime.stopwatch import Stopwatch

Latent = npt.NDArray[Any]


class Reconstruction(NamedTuple):
    """A picture as the decoder's network has it, where that runs: x_dec, and with the hyperprior
    the features at 1/8 of its size that it was made of (`dsin.runtime.codec.layouts`)."""

    x_dec: Tensor
    features: Tensor | None


class PictureEncoder(Protocol):
    """The device's half. `watch` gets the stages compute and entropy."""

    def given(self, frame: Image) -> Tensor:
        """What the network takes of a frame."""

    def encode(self, given: Tensor, rate: int, watch: Stopwatch) -> bytes:
        """The payload of a picture."""

    def latent(self, given: Tensor, rate: int) -> Latent:
        """What the decoder will have, without the bytes between."""


@runtime_checkable
class ReferringEncoder(PictureEncoder, Protocol):
    """One whose payloads may say what has changed since an earlier picture."""

    def encode_changes(
        self, given: Tensor, rate: int, watch: Stopwatch, before: SentPicture | None
    ) -> "CodedChanges":
        """The payload of a picture, after one of the same size and rate if that saves bytes."""


class CodedChanges(NamedTuple):
    """A payload, what to keep of the picture, and whether the payload refers to the one before."""

    payload: bytes
    picture: SentPicture
    refers: bool


class PictureDecoder(Protocol):
    """The server's half."""

    def latent(self, payload: bytes, size: tuple[int, int], rate: int) -> Latent:
        """From the payload of a frame of that (height, width). Raises PacketError."""

    def reconstruct(self, latent: Latent, rate: int) -> Reconstruction:
        """The picture."""


@runtime_checkable
class ReferringDecoder(PictureDecoder, Protocol):
    """One that decodes what a `ReferringEncoder` made."""

    def coded_latent(
        self, payload: bytes, size: tuple[int, int], rate: int, before: CodedLatent | None
    ) -> CodedLatent:
        """As `latent`, after the picture that the payload refers to, if any. Raises PacketError."""
