"""The part of a codec that is exact on every machine, by itself: between payloads and latents."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import open_hyper_codec
from dsin.runtime.codec.packet import Packet
from dsin.runtime.entropy.context_model import decode_symbols, encode_symbols
from dsin.runtime.entropy.hyper_codec import HYPER_STRIDE
from dsin.runtime.entropy.integer_coder import IntegerDecoder
from dsin.runtime.pictures import padded_size


def latent_sha256(latent: npt.NDArray[Any]) -> str:
    """The sha256 of a latent's values, little-endian, in C order."""
    little = np.ascontiguousarray(latent.astype(latent.dtype.newbyteorder("<")))
    return hashlib.sha256(little.tobytes()).hexdigest()


class ExactCoder:
    """Between payloads and latents: the part of a codec that is exact on every machine."""

    def __init__(self, bundle: Bundle, backend: Backend, threads: int | None = None) -> None:
        self._bundle = bundle
        self._hyper = None
        if bundle.family == "edge":
            self._hyper = open_hyper_codec(bundle, bundle.hyper_tables, backend, threads)

    def decode(self, packet: Packet, reference: Packet | None = None) -> npt.NDArray[Any]:
        """The latent of a packet, which may refer to another one that stands alone. Raises
        PacketError."""
        if self._hyper is None:
            return decode_symbols(self._bundle.context_model, packet.payload, self._shape(packet))
        before = None
        if reference is not None:
            shape, rate = self._shape(reference), reference.header.rate
            before = self._hyper.decoded(reference.payload, shape, rate, None)
        shape, rate = self._shape(packet), packet.header.rate
        return self._hyper.decoded(packet.payload, shape, rate, before).latent

    def _shape(self, packet: Packet) -> tuple[int, int, int]:
        """Of a packet's latent."""
        header, bundle = packet.header, self._bundle
        rows, columns = padded_size(header.height, header.width, bundle.frame_multiple)
        return bundle.channels, rows // bundle.stride, columns // bundle.stride

    def encode_again(self, packet: Packet, latent: npt.NDArray[Any]) -> bytes:
        """The payload of a packet's latent. What a payload has besides, z, is the packet's."""
        if self._hyper is None:
            return encode_symbols(self._bundle.context_model, latent)
        z = self.hyper_symbols(packet, latent)
        return self._hyper.encode(latent, z.astype(np.float32), packet.header.rate)[0]

    def hyper_symbols(
        self, packet: Packet, latent: npt.NDArray[Any]
    ) -> npt.NDArray[np.int32]:  # fmt: skip
        """z of a packet of a bundle with a hyperprior."""
        tables, rate = self._bundle.hyper_tables, packet.header.rate
        shape = (tables.z_scales.shape[1], *(n // HYPER_STRIDE for n in latent.shape[1:]))
        choice = tables.z_scales[rate].repeat(shape[1] * shape[2])
        return IntegerDecoder(tables.scales, packet.payload).take(choice).reshape(shape)
