"""The paper's codec: symbols of few centres, coded under a causal context model.

frame ─► planes ─► encoder.onnx ─► symbols ─► frequencies ─► rANS ─► payload
"""

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend, open_session
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.protocols import Reconstruction
from dsin.runtime.entropy.context_model import IntegerContextModel, decode_symbols, encode_symbols
from dsin.runtime.errors import BundleError
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.pictures import Image, to_planes
from dsin.runtime.stopwatch import Stopwatch

Symbols = npt.NDArray[np.uint8]


class CausalPictureEncoder:
    """See `dsin.runtime.codec.protocols.PictureEncoder`. One weight set, one rate: rates are
    ignored."""

    def __init__(
        self, bundle: Bundle, context: IntegerContextModel, backend: Backend, threads: int | None
    ) -> None:
        self._path = bundle.graph_path("encoder")
        self._context = context
        self._session = open_session(self._path, backend, threads=threads)

    def given(self, frame: Image) -> Tensor:
        return to_planes(frame)

    def encode(self, given: Tensor, rate: int, watch: Stopwatch) -> bytes:
        with watch.stage("compute"):
            symbols = self.latent(given, rate)
        with watch.stage("entropy"):
            return encode_symbols(self._context, symbols)

    def latent(self, given: Tensor, rate: int) -> Symbols:
        symbols: Symbols = self._session.run(x=given)["symbols"][0]
        # The coder's tables end at the last centre, so a foreign graph is stopped here.
        if symbols.dtype != np.uint8 or int(symbols.max()) >= self._context.symbols_per_alphabet:
            raise BundleError(f"{self._path} does not yield the symbols of this bundle")
        return symbols


class CausalPictureDecoder:
    """See `dsin.runtime.codec.protocols.PictureDecoder`."""

    def __init__(
        self, bundle: Bundle, context: IntegerContextModel, backend: Backend, threads: int | None
    ) -> None:
        self._bundle = bundle
        self._context = context
        self._session = open_session(bundle.graph_path("x_decoder"), backend, threads=threads)

    def latent(self, payload: bytes, size: tuple[int, int], rate: int) -> Symbols:
        rows, columns = (length // self._bundle.stride for length in size)
        return decode_symbols(self._context, payload, (self._bundle.channels, rows, columns))

    def reconstruct(self, latent: Symbols, rate: int) -> Reconstruction:
        return Reconstruction(self._session.keep(symbols=latent[None])["x_dec"], None)


def open_encoder(bundle: Bundle, backend: Backend, threads: int | None) -> CausalPictureEncoder:
    """The encoder of a bundle of this family. Raises BackendError."""
    return CausalPictureEncoder(bundle, bundle.context_model, backend, threads)


def open_codecs(
    bundle: Bundle, backend: Backend, threads: int | None
) -> tuple[CausalPictureEncoder, CausalPictureDecoder]:
    """Both halves. Raises BackendError."""
    decoder = CausalPictureDecoder(bundle, bundle.context_model, backend, threads)
    return open_encoder(bundle, backend, threads), decoder
