"""The decoder: a packet and the receiver's own view to a picture.

    y ─► blurred, halved, …                                   as soon as y arrives: prepare_side
                      │
    packet ─► latent ─│─► decoder's network ─► x_dec ─► search(x_dec, y) ─► what y shows of it
                      └──────────────────────────│─────────┘                      │
                                                 └──────► fusion ◄────────────────┘
                                                            └─► picture

Without y the picture is x_dec. Bundles that do not search by flow need y_dec too: y encoded and
decoded.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.layouts import as_picture
from dsin.runtime.codec.packet import Bytes, Packet, PacketHeader, check_codec
from dsin.runtime.codec.precision import at_precision
from dsin.runtime.codec.protocols import (
    Latent,
    PictureDecoder,
    PictureEncoder,
    ReferringDecoder,
)
from dsin.runtime.codec.references import DecodedFrames, reference_missing
from dsin.runtime.codec.side_fusion import Side, SideFusion
from dsin.runtime.errors import DsinError, FrameError, PacketError
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.patch_correlation import Matches
from dsin.runtime.pictures import (
    Image,
    check_frame,
    pad,
    padded_size,
)
from dsin.runtime.stopwatch import Stopwatch


@dataclass(frozen=True)
class SideFeatures:
    """What decoding needs from a side image, uint8 H×W×3, prepared for one rate, or for all of them
    where `rate` is None. `stage_ms` has prepare, and compute where networks look at it. It never
    changes, so threads may share it."""

    image: Image
    rate: int | None
    side: Side
    stage_ms: dict[str, float]

    def after(self, related: bool | None) -> "SideFeatures":
        """The same for a stream whose last side image showed the scene, or did not; None: nobody
        knows."""
        if related is self.side.related_before:
            return self
        return replace(self, side=self.side._replace(related_before=related))


@dataclass(frozen=True)
class Decoded:
    """A decoded frame: `image` with side information, `x_dec` without, uint8 H×W×3.

    `y_syn` (the side image's patches put where they match) and `matches` are None without a side
    image; then, and where the side image shows another scene, `image` is `x_dec` and `used_side`
    is false. `header` is None where decoding started from symbols.
    `stage_ms` has entropy, x_decoder, search, fusion and postprocess, as far as they ran.
    """

    image: Image
    x_dec: Image
    y_syn: Image | None
    matches: Matches | None
    used_side: bool
    header: PacketHeader | None
    stage_ms: dict[str, float]


class _Halves(NamedTuple):
    """What a decoder has open."""

    encoder: PictureEncoder
    decoder: PictureDecoder
    fusion: SideFusion


class Decoder:
    """Decodes packets of one bundle.

        with Decoder() as decoder:
            picture = decoder.decode(packet, side).image

    `threads` limits the CPU threads of each network and of the search (None: all). One decoder may
    serve several threads, which it makes wait for each other where the backend needs that; a bundle
    may be shared by any number of encoders and decoders. Raises BundleError for a bundle that
    cannot be used, BackendError for a backend that is not there.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | None = None,
        backend: Backend = "cpu",
        *,
        threads: int | None = None,
    ) -> None:
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.bundle = at_precision(opened, backend)
        family = family_of(self.bundle)
        self._halves: _Halves | None = _Halves(
            *family.open_codecs(self.bundle, backend, threads),
            family.open_fusion(self.bundle, backend, threads),
        )

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the networks; the decoder cannot be used after that."""
        self._halves = None

    def prepare_side(
        self, side: npt.NDArray[Any] | SideFeatures, *, rate: int | None = None
    ) -> SideFeatures:
        """All that depends on the side image alone, H×W×3 RGB uint8: do it when y arrives.

        `rate` is that of the packet to come, None the bundle's default; a packet of another rate
        is decoded too, but later. A side image that is prepared already is returned as it is,
        or prepared anew where it was for another rate. Raises FrameError for a side image that is
        anything else, DsinError for a rate that the bundle lacks and for a closed decoder.
        """
        halves = self._open_halves()
        if isinstance(side, SideFeatures) and side.rate is None:
            return side
        index = self.bundle.rate_index(rate)
        if isinstance(side, SideFeatures):
            if side.rate == index:
                return side
            side = side.image
        check_frame(side, "side image")
        watch = Stopwatch()
        y_dec = None
        if halves.fusion.decodes_side:
            with watch.stage("compute"):
                given = halves.encoder.given(pad(side, self.bundle.frame_multiple))
                y_dec = halves.decoder.reconstruct(halves.encoder.latent(given, index), index)
        with watch.stage("prepare"):
            prepared = halves.fusion.prepare(side, y_dec)
        prepared_for = index if halves.fusion.side_depends_on_rate else None
        return SideFeatures(side, prepared_for, prepared, watch.ms)

    def decode(
        self,
        packet: Packet | Bytes,
        side: npt.NDArray[Any] | SideFeatures | None,
        *,
        references: DecodedFrames | None = None,
    ) -> Decoded:
        """The picture of a packet beside the side image, H×W×3 RGB uint8 or prepared; with None,
        what can be decoded alone.

        `references` are the frames of its stream that were decoded before; this one is added.
        Raises ReferenceMissingError for a packet that refers to a frame that is not among them,
        PacketError for bytes that are not a packet of this bundle, FrameError for a side
        image that is not 8-bit colour or not of the packet's size, DsinError for a closed decoder.
        """
        halves = self._open_halves()
        if not isinstance(packet, Packet):
            packet = Packet.parse(packet)
        header = packet.header
        check_codec(header.codec_id, self.bundle.codec_id)
        if header.rate >= len(self.bundle.rate_points):
            raise PacketError(f"packet has rate {header.rate}, which its bundle does not have")
        size = header.height, header.width
        features = self._features(side, size, header.rate)
        watch = Stopwatch()
        with watch.stage("entropy"):
            padded = padded_size(*size, self.bundle.frame_multiple)
            latent = _latent(halves.decoder, packet, padded, references)
        return self._decode(latent, features, size, header.rate, header, watch)

    def decode_latent(
        self,
        latent: Latent,
        side: npt.NDArray[Any] | SideFeatures | None,
        height: int,
        width: int,
        *,
        rate: int | None = None,
    ) -> Decoded:
        """As `decode`, from the latent of a frame of that size (see `Encoder.latent`)."""
        size, index = (height, width), self.bundle.rate_index(rate)
        features = self._features(side, size, index)
        return self._decode(latent, features, size, index, None, Stopwatch())

    def _features(
        self, side: npt.NDArray[Any] | SideFeatures | None, size: tuple[int, int], rate: int
    ) -> SideFeatures | None:
        """Check the side image's size before anything is computed."""
        if side is None:
            return None
        image = side.image if isinstance(side, SideFeatures) else side
        check_frame(image, "side image")
        if image.shape[:2] != size:
            raise FrameError(
                f"side image is {image.shape[1]}x{image.shape[0]}, but the packet is of "
                f"{size[1]}x{size[0]}: both views must have one size"
            )
        return self.prepare_side(side, rate=rate)

    def _decode(
        self,
        latent: Latent,
        features: SideFeatures | None,
        size: tuple[int, int],
        rate: int,
        header: PacketHeader | None,
        watch: Stopwatch,
    ) -> Decoded:
        halves = self._open_halves()
        with watch.stage("x_decoder"):
            decoded = halves.decoder.reconstruct(latent, rate)
        if features is None:
            with watch.stage("postprocess"):
                alone = self._picture(decoded.x_dec, size)
            return Decoded(alone, alone, None, None, False, header, watch.ms)
        fused = halves.fusion.fuse(decoded, features.side, rate, watch)
        with watch.stage("postprocess"):
            image, y_syn, alone = (
                self._picture(shown, size) for shown in (fused.x_hat, fused.y_syn, fused.x_dec)
            )
        return Decoded(image, alone, y_syn, fused.matches, fused.related, header, watch.ms)

    def _open_halves(self) -> _Halves:
        if self._halves is None:
            raise DsinError("this decoder is closed: open another one")
        return self._halves

    def _picture(self, shown: Tensor, size: tuple[int, int]) -> Image:
        return as_picture(shown, size, truncate=self.bundle.truncate_to_uint8)


def _latent(
    decoder: PictureDecoder, packet: Packet, size: tuple[int, int], references: DecodedFrames | None
) -> Latent:
    """The latent of a packet of that padded size, which becomes one of the references."""
    header = packet.header
    if references is None or not isinstance(decoder, ReferringDecoder):
        if header.reference is not None:
            raise reference_missing(header.reference)
        return decoder.latent(packet.payload, size, header.rate)
    before = references.latent_for(header)
    coded = decoder.coded_latent(packet.payload, size, header.rate, before)
    references.add(packet, coded)
    return coded.latent
