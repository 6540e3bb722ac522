"""What the threads of a DecodePool work with: a decoder here, or one elsewhere."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.decoder import Decoded, Decoder, SideFeatures
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.codec.scene_memory import SceneMemory
from dsin.runtime.outputs.decoded_frame import SideView
from dsin.runtime.server.rig import ArrivedFrame


@dataclass(frozen=True)
class RemoteSide:
    """A side image that a decoder elsewhere has prepared for a rate."""

    rate: int | None
    stage_ms: dict[str, float]


SidePreparation = SideFeatures | RemoteSide


class Work(NamedTuple):
    """A decoded frame. `prepared` is the side image as it is prepared now, None if there is none
    or the decoder did not have it."""

    decoded: Decoded
    prepared: SidePreparation | None


class DecodeWorker(Protocol):
    """Works for one thread at a time."""

    @property
    def bundle(self) -> Bundle:
        """Whose packets it decodes."""

    def prepare(self, rig: str, view: SideView, rate: int | None) -> SidePreparation:
        """All that depends on a side image alone. Raises DsinError."""

    def decode(
        self,
        rig: str,
        frame: ArrivedFrame,
        view: SideView | None,
        prepared: SidePreparation | None,
        *,
        references: DecodedFrames | None = None,
    ) -> Work:
        """Decode a frame beside a side image, prepared or not, after the frames that it may refer
        to. Raises DsinError."""


class LocalWorker:
    """Decodes here. Workers that serve the same rigs share a memory."""

    def __init__(self, decoder: Decoder, memory: SceneMemory | None = None) -> None:
        self.bundle = decoder.bundle
        self._decoder = decoder
        self._memory = SceneMemory() if memory is None else memory

    def prepare(self, rig: str, view: SideView, rate: int | None) -> SidePreparation:
        return self._decoder.prepare_side(view.image, rate=rate)

    def decode(
        self,
        rig: str,
        frame: ArrivedFrame,
        view: SideView | None,
        prepared: SidePreparation | None,
        *,
        references: DecodedFrames | None = None,
    ) -> Work:
        if view is None:
            return Work(self._decoder.decode(frame.packet, None, references=references), None)
        known = prepared if isinstance(prepared, SideFeatures) else view.image
        features = self._decoder.prepare_side(known, rate=frame.rate)
        reminded = self._memory.remind(rig, features)
        decoded = self._decoder.decode(frame.packet, reminded, references=references)
        self._memory.note(rig, decoded)
        return Work(decoded, features)
