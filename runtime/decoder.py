"""The decoder: a packet and the receiver's own view to a picture.

    y ─► encoder.onnx ─► x_decoder.onnx ─► y_dec            as soon as y arrives: prepare_side
                                             │
    packet ─► rANS ─► symbols ─► x_decoder.onnx ─► x_dec ─► search(x_dec, y_dec, y) ─► y_syn
                                             │                                           │
                                             └────────► fusion.onnx ◄────────────────────┘
                                                             └─► picture

Without y the picture is x_dec.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsin.runtime.backend import Backend, open_session
from dsin.runtime.bitstream import PacketHeader, check_codec, parse_packet
from dsin.runtime.bundle import Bundle, open_bundle
from dsin.runtime.context_model import decode_symbols
from dsin.runtime.encoder import Encoder
from dsin.runtime.errors import FrameError, PacketError
from dsin.runtime.patch_correlation import Matches, PreparedSide
from dsin.runtime.pictures import (
    Image,
    check_frame,
    from_planes,
    pad,
    padded_size,
    to_planes,
    to_uint8,
)
from dsin.runtime.side_search import open_search
from dsin.runtime.stopwatch import Stopwatch


@dataclass(frozen=True)
class SideFeatures:
    """What the search needs of a side image, all padded to the bundle's multiples.

    `y` is uint8 H×W×3, `y_dec` float32 H×W×3 in 0..255; `height` and `width` are those of the
    image itself; `prepared` is None on a backend that prepares nothing. `stage_ms` has preprocess,
    network and prepare.
    """

    height: int
    width: int
    y: Image
    y_dec: npt.NDArray[np.float32]
    prepared: PreparedSide | None
    stage_ms: dict[str, float]


@dataclass(frozen=True)
class Decoded:
    """A decoded frame: `image` with side information, `x_dec` without, uint8 H×W×3.

    `y_syn` (the side image's patches put where they match) and `matches` are None without a side
    image; then `image` is `x_dec`. `header` is None where decoding started from symbols.
    `stage_ms` has entropy, x_decoder, search, fusion and postprocess, as far as they ran.
    """

    image: Image
    x_dec: Image
    y_syn: Image | None
    matches: Matches | None
    used_side: bool
    header: PacketHeader | None
    stage_ms: dict[str, float]


class Decoder:
    """Decodes packets of one bundle.

        with Decoder() as decoder:
            image = decoder.decode(packet, side)

    `threads` limits the CPU threads of each network and of the search (None: all). Raises
    BundleError for a bundle that cannot be used, BackendError for a backend that is not there.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | None = None,
        backend: Backend = "cpu",
        *,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._x_decoder = open_session(
            self.bundle.graph_path("x_decoder"), backend, threads=threads
        )
        self._fusion = open_session(self.bundle.graph_path("fusion"), backend, threads=threads)
        self._encoder = Encoder(self.bundle, backend, threads=threads)
        self._search = open_search(self.bundle.search, backend, threads)

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
        """Let go of the networks; the decoder cannot be used after that."""
        if hasattr(self, "_x_decoder"):
            self._encoder.close()
            del self._x_decoder, self._fusion

    def prepare_side(self, side: npt.NDArray[Any]) -> SideFeatures:
        """All that depends on the side image alone, H×W×3 RGB uint8: do it when y arrives.

        Raises FrameError for any other array.
        """
        check_frame(side, "side image")
        watch = Stopwatch()
        with watch.stage("preprocess"):
            y = pad(side, self.bundle.frame_multiple)
        with watch.stage("network"):
            symbols = self._encoder.symbols(y)
            y_dec = from_planes(self._x_decoder.run(symbols=symbols[None])["x_dec"])
        with watch.stage("prepare"):
            prepared = self._search.prepare(y_dec)
        height, width = side.shape[:2]
        return SideFeatures(height, width, y, y_dec, prepared, watch.ms)

    def decode(self, packet: bytes, side: npt.NDArray[Any] | SideFeatures | None) -> Image:
        """The picture, H×W×3 RGB uint8; without a side image, what can be decoded alone.

        Raises PacketError for bytes that are no packet of this bundle, FrameError for a side image
        that is not 8-bit colour or not of the packet's size.
        """
        return self.decode_parts(*parse_packet(packet), side).image

    def decode_parts(
        self,
        header: PacketHeader,
        payload: bytes | memoryview,
        side: npt.NDArray[Any] | SideFeatures | None,
    ) -> Decoded:
        """As `decode`, from a parsed packet, with all intermediate pictures and times."""
        check_codec(header.codec_id, self.bundle.codec_id)
        if header.rate >= len(self.bundle.rate_points):
            raise PacketError(f"packet has rate {header.rate}, which its bundle does not have")
        size = header.height, header.width
        features = self._features(side, size)
        rows, columns = padded_size(*size, self.bundle.frame_multiple)
        stride = self.bundle.stride
        shape = self.bundle.channels, rows // stride, columns // stride
        watch = Stopwatch()
        with watch.stage("entropy"):
            symbols = decode_symbols(self.bundle.context, bytes(payload), shape)
        return self._decode(symbols, features, size, header, watch)

    def decode_symbols(
        self,
        symbols: npt.NDArray[np.uint8],
        side: npt.NDArray[Any] | SideFeatures | None,
        height: int,
        width: int,
    ) -> Decoded:
        """As `decode_parts`, from symbols (C, h, w) of a frame of that size."""
        size = height, width
        return self._decode(symbols, self._features(side, size), size, None, Stopwatch())

    def _features(
        self, side: npt.NDArray[Any] | SideFeatures | None, size: tuple[int, int]
    ) -> SideFeatures | None:
        """Check the side image's size before anything is computed."""
        if side is None:
            return None
        if not isinstance(side, SideFeatures):
            check_frame(side, "side image")
        theirs = (side.height, side.width) if isinstance(side, SideFeatures) else side.shape[:2]
        if theirs != size:
            raise FrameError(
                f"side image is {theirs[1]}x{theirs[0]}, but the packet is of "
                f"{size[1]}x{size[0]}: both views must have one size"
            )
        return side if isinstance(side, SideFeatures) else self.prepare_side(side)

    def _decode(
        self,
        symbols: npt.NDArray[np.uint8],
        side: SideFeatures | None,
        size: tuple[int, int],
        header: PacketHeader | None,
        watch: Stopwatch,
    ) -> Decoded:
        with watch.stage("x_decoder"):
            x_dec = self._x_decoder.run(symbols=symbols[None])["x_dec"]
        if side is None:
            with watch.stage("postprocess"):
                image = self._picture(from_planes(x_dec), size)
            return Decoded(image, image, None, None, False, header, watch.ms)
        with watch.stage("search"):
            matches, y_syn = self._search.find(
                from_planes(x_dec), side.y_dec, side.y, side.prepared
            )
        with watch.stage("fusion"):
            x_hat = self._fusion.run(x_dec=x_dec, y_syn=to_planes(y_syn))["x_hat"]
        with watch.stage("postprocess"):
            image, alone, synthesised = (
                self._picture(p, size) for p in (from_planes(x_hat), from_planes(x_dec), y_syn)
            )
        return Decoded(image, alone, synthesised, matches, True, header, watch.ms)

    def _picture(self, image: npt.NDArray[Any], size: tuple[int, int]) -> Image:
        return to_uint8(image, size, truncate=self.bundle.truncate_to_uint8)
