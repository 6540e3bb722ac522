"""The encoder: a frame to a packet. It never sees the other view.

frame ─► pad ─► network ─► latent ─► entropy coding ─► packet
"""

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.packet import PacketHeader, pack_packet
from dsin.runtime.codec.protocols import Latent, open_picture_encoder
from dsin.runtime.pictures import check_frame, pad, to_planes
from dsin.runtime.stopwatch import Stopwatch


class EncodedFrame(NamedTuple):
    """A coded frame in its parts; `stage_ms` has preprocess, network and entropy."""

    header: PacketHeader
    payload: bytes
    stage_ms: dict[str, float]


class Encoder:
    """Encodes frames of any size with one bundle.

        with Encoder() as encoder:
            packet = encoder.encode(frame)

    `threads` limits the CPU threads of the network (None: all). Raises BundleError for a bundle
    that cannot be used, BackendError for a backend that is not there.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str | None = None,
        backend: Backend = "cpu",
        *,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self._codec = open_picture_encoder(self.bundle, backend, threads)

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the network; the encoder cannot be used after that."""
        if hasattr(self, "_codec"):
            del self._codec

    def encode(
        self,
        frame: npt.NDArray[Any],
        *,
        rate: int | None = None,
        frame_number: int = 0,
        timestamp_ns: int = 0,
    ) -> bytes:
        """The packet of a frame, H×W×3 RGB uint8; `rate` None is the bundle's default.

        Raises FrameError for any other array, DsinError for a rate that the bundle lacks.
        """
        coded = self.encode_payload(
            frame, rate=rate, frame_number=frame_number, timestamp_ns=timestamp_ns
        )
        return pack_packet(coded.header, coded.payload)

    def encode_payload(
        self,
        frame: npt.NDArray[Any],
        *,
        rate: int | None = None,
        frame_number: int = 0,
        timestamp_ns: int = 0,
    ) -> EncodedFrame:
        """As `encode`, but in parts, with the time of each stage in milliseconds."""
        index = self.bundle.rate_index(rate)
        check_frame(frame)
        watch = Stopwatch()
        with watch.stage("preprocess"):
            planes = to_planes(pad(frame, self.bundle.frame_multiple))
        payload = self._codec.encode(planes, index, watch)
        height, width = frame.shape[:2]
        header = PacketHeader(
            self.bundle.codec_id, width, height, index, frame_number, timestamp_ns
        )
        return EncodedFrame(header, payload, watch.ms)

    def latent(self, frame: npt.NDArray[Any], *, rate: int | None = None) -> Latent:
        """The latent of a frame as the decoder will have it: symbols uint8 (C, h, w) with a causal
        bundle, ŷ float32 (C, h, w) with a hyperprior. Raises FrameError."""
        check_frame(frame)
        planes = to_planes(pad(frame, self.bundle.frame_multiple))
        return self._codec.latent(planes, self.bundle.rate_index(rate))
