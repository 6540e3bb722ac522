"""The `edge` codec: one set of weights for all rates, a hyperprior and context steps.

    frame, rate ─► encoder.onnx ─► y, z ─► hyper.onnx, step….onnx ─► rANS ─► payload
    payload ─► the same, with the integers taken from it ─► ŷ ─► x_decoder.onnx ─► x_dec, features

The graphs of the entropy model are exact in float32 only, whatever the others run in.
"""

import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend, open_session
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.changes import SentPicture, changed_blocks, sent_after, sent_alone
from dsin.runtime.codec.int8_support import check_int8
from dsin.runtime.codec.protocols import CodedChanges, Reconstruction
from dsin.runtime.entropy.hyper_codec import CodedLatent, HyperCodec, HyperTables, Kept
from dsin.runtime.entropy.kernel_network import KernelNetwork
from dsin.runtime.entropy.session_network import SessionNetwork
from dsin.runtime.entropy.stored_layers import read_layers
from dsin.runtime.errors import BundleError
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.pictures import Image, to_planes
from dsin.runtime.stopwatch import Stopwatch

Floats = npt.NDArray[np.float32]


def open_hyper_codec(
    bundle: Bundle, tables: HyperTables, backend: Backend, threads: int | None
) -> HyperCodec:
    """The coder of a bundle's latents: on the CPU by compiled kernels, elsewhere by sessions of its
    graphs. Raises BackendError, and BundleError for graphs that the kernels do not know."""
    if backend == "cpu":
        return HyperCodec(open_kernels(bundle, tables, threads), tables)
    return HyperCodec(open_sessions(bundle, tables, backend, threads), tables)


def open_kernels(bundle: Bundle, tables: HyperTables, threads: int | None) -> KernelNetwork:
    """The networks of a bundle's entropy model as kernels. Raises BundleError."""
    name, *names = bundle.entropy_graphs
    hyper = read_layers(bundle.graph_path(name), tables.z_scales.shape[1])
    inputs = bundle.channels + len(hyper[-1].weight) // hyper[-1].shuffle ** 2
    steps = [read_layers(bundle.graph_path(step), inputs) for step in names]
    return KernelNetwork(hyper, steps, tables, threads)


def open_sessions(
    bundle: Bundle, tables: HyperTables, backend: Backend, threads: int | None
) -> SessionNetwork:
    """The same as sessions. Raises BackendError."""
    hyper, *steps = (
        open_session(bundle.graph_path(name), backend, threads=threads, exact=True)
        for name in bundle.entropy_graphs
    )
    return SessionNetwork(hyper, steps, tables)


class EdgePictureEncoder:
    """See `dsin.runtime.codec.protocols.PictureEncoder`."""

    def __init__(
        self, bundle: Bundle, codec: HyperCodec, backend: Backend, threads: int | None
    ) -> None:
        self._path = bundle.graph_path("encoder")
        self._channels = bundle.channels
        self._takes_levels = bundle.has_level_pictures
        self._session = open_session(self._path, backend, threads=threads)
        self._codec = codec

    def given(self, frame: Image) -> Tensor:
        return frame[None] if self._takes_levels else to_planes(frame)

    def encode(self, given: Tensor, rate: int, watch: Stopwatch) -> bytes:
        with watch.stage("compute"):
            y, z = self._analyse(given, rate)
        with watch.stage("entropy"):
            payload, _ = self._codec.encode(y, z, rate)
        return payload

    def encode_changes(
        self, given: Tensor, rate: int, watch: Stopwatch, before: SentPicture | None
    ) -> CodedChanges:
        with watch.stage("compute"):
            y, z = self._analyse(given, rate)
        with watch.stage("entropy"):
            changed = None if before is None else changed_blocks(y, before)
            kept = None if before is None or changed is None else Kept(before.coded, changed)
            coded = self._codec.quantised(y, z, rate, kept)
            payload, bits = self._codec.payload(coded), self._codec.block_bits(coded)
            if before is None or changed is None:
                return CodedChanges(payload, sent_alone(y, coded.latent, bits), refers=False)
            picture = sent_after(before, y, changed, coded.latent, bits)
            return CodedChanges(payload, picture, refers=True)

    def latent(self, given: Tensor, rate: int) -> Floats:
        return self._codec.quantised(*self._analyse(given, rate), rate).latent.latent

    def _analyse(self, given: Tensor, rate: int) -> tuple[Floats, Floats]:
        out = self._session.run(x=given, rate=np.array([rate], np.int64))
        y, z = out["y"][0], out["z"][0]
        if len(y) != self._channels or not (np.isfinite(y).all() and np.isfinite(z).all()):
            raise BundleError(f"{self._path} does not yield the latents of this bundle")
        return y, z


class EdgePictureDecoder:
    """See `dsin.runtime.codec.protocols.PictureDecoder`."""

    def __init__(
        self, bundle: Bundle, codec: HyperCodec, backend: Backend, threads: int | None
    ) -> None:
        self._bundle = bundle
        self._session = open_session(bundle.graph_path("x_decoder"), backend, threads=threads)
        self._codec = codec

    def latent(self, payload: bytes, size: tuple[int, int], rate: int) -> Floats:
        return self.coded_latent(payload, size, rate, None).latent

    def coded_latent(
        self, payload: bytes, size: tuple[int, int], rate: int, before: CodedLatent | None
    ) -> CodedLatent:
        rows, columns = (length // self._bundle.stride for length in size)
        return self._codec.decoded(payload, (self._bundle.channels, rows, columns), rate, before)

    def reconstruct(self, latent: Floats, rate: int) -> Reconstruction:
        out = self._session.keep(y_hat=latent[None], rate=np.array([rate], np.int64))
        return Reconstruction(out["x_dec"], out["features"])


def open_encoder(bundle: Bundle, backend: Backend, threads: int | None) -> EdgePictureEncoder:
    """The encoder of a bundle of this family. Raises BackendError."""
    check_int8(bundle)
    codec = open_hyper_codec(bundle, bundle.hyper_tables, backend, threads)
    return EdgePictureEncoder(bundle, codec, backend, threads)


def open_codecs(
    bundle: Bundle, backend: Backend, threads: int | None
) -> tuple[EdgePictureEncoder, EdgePictureDecoder]:
    """Both halves, with one entropy coder. Raises BackendError."""
    check_int8(bundle)
    codec = open_hyper_codec(bundle, bundle.hyper_tables, backend, threads)
    return (
        EdgePictureEncoder(bundle, codec, backend, threads),
        EdgePictureDecoder(bundle, codec, backend, threads),
    )
