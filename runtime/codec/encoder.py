"""The encoder: a frame to a packet. It never sees the other view.

frame ─► pad ─► compute ─► latent ─► entropy coding ─► packet
"""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.bundle import Bundle, open_bundle
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.codec.precision import at_precision
from dsin.runtime.codec.protocols import Latent, PictureEncoder, ReferringEncoder
from dsin.runtime.codec.references import SentFrames
from dsin.runtime.errors import DsinError
from dsin.runtime.gpu.device_tensor import Tensor
from dsin.runtime.pictures import check_frame, pad
from dsin.runtime.stopwatch import Stopwatch


class Encoder:
    """Encodes frames of any size with one bundle.

        with Encoder() as encoder:
            packet = encoder.encode(frame)
            link.send(bytes(packet))

    `threads` limits the CPU threads of the network (None: all). One encoder may serve several
    threads, which it makes wait for each other where the backend needs that; a bundle may be shared
    by any number of encoders and decoders. Raises BundleError for a bundle that cannot be used,
    BackendError for a backend that is not there.
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
        self._codec: PictureEncoder | None = family.open_encoder(self.bundle, backend, threads)

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
        """Release the network; the encoder cannot be used after that."""
        self._codec = None

    def encode(
        self,
        frame: npt.NDArray[Any],
        rate: int | None = None,
        *,
        frame_number: int = 0,
        timestamp_ns: int = 0,
        references: SentFrames | None = None,
    ) -> Packet:
        """The packet of a frame, H×W×3 RGB uint8; `rate` None is the bundle's default.

        `frame_number` (below 2³²) and `timestamp_ns` (nanoseconds, below 2⁶⁴) go into the packet's
        header. With `references`, the frames of its stream that were sent before, the packet refers
        to the newest confirmed one where that saves bytes, and is kept there in turn; without, it
        stands alone. Raises FrameError for a frame that is anything else, PacketError for a number
        that does not fit, DsinError for a rate that the bundle lacks, for references with a bundle
        whose frames all stand alone (`Bundle.refers`), and for a closed encoder.
        """
        codec = self._open_codec()
        index = self.bundle.rate_index(rate)
        check_frame(frame)
        watch = Stopwatch()
        with watch.stage("preprocess"):
            given = codec.given(pad(frame, self.bundle.frame_multiple))
        height, width = frame.shape[:2]
        header = PacketHeader(
            self.bundle.codec_id, width, height, index, frame_number, timestamp_ns
        )
        if references is not None:
            return self._encode_changes(given, header, watch, references)
        payload = codec.encode(given, index, watch)
        with watch.stage("packetise"):
            return Packet(header, payload, watch.ms)

    def _encode_changes(
        self, given: Tensor, header: PacketHeader, watch: Stopwatch, references: SentFrames
    ) -> Packet:
        codec = self._open_codec()
        if not isinstance(codec, ReferringEncoder):
            raise DsinError(
                f"frames of bundle {self.bundle.path.name} all stand alone: encode without "
                "references"
            )
        found = references.reference_for(header)
        reference, before = (None, None) if found is None else found
        coded = codec.encode_changes(given, header.rate, watch, before)
        with watch.stage("packetise"):
            if coded.refers:
                header = replace(header, reference=reference)
            packet = Packet(header, coded.payload, watch.ms)
        references.add(packet, coded.picture)
        return packet

    def latent(self, frame: npt.NDArray[Any], *, rate: int | None = None) -> Latent:
        """The latent of a frame as the decoder will have it: symbols uint8 (C, h, w) with a causal
        bundle, ŷ float32 (C, h, w) with a hyperprior. Raises as `encode` does."""
        codec = self._open_codec()
        index = self.bundle.rate_index(rate)
        check_frame(frame)
        return codec.latent(codec.given(pad(frame, self.bundle.frame_multiple)), index)

    def _open_codec(self) -> PictureEncoder:
        if self._codec is None:
            raise DsinError("this encoder is closed: open another one")
        return self._codec
