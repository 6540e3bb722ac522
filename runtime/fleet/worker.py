"""What the threads of a DecodePool work with where a fleet decodes."""

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.errors import StreamError
from dsin.runtime.fleet.decoders import BlockingFleet
from dsin.runtime.outputs.decoded_frame import SideView
from dsin.runtime.server.decode_worker import RemoteSide, SidePreparation, Work
from dsin.runtime.server.rig import ArrivedFrame


class FleetWorker:
    """Lets a fleet decode: each rig's side images and frames go to the same replica."""

    def __init__(self, bundle: Bundle, fleet: BlockingFleet) -> None:
        self.bundle = bundle
        self._fleet = fleet

    def prepare(self, rig: str, view: SideView, rate: int | None) -> SidePreparation:
        answer = self._fleet.side(rig, view.image, view.number, rate)
        return RemoteSide(rate, answer.stage_ms)

    def decode(
        self,
        rig: str,
        frame: ArrivedFrame,
        view: SideView | None,
        prepared: SidePreparation | None,
        *,
        references: DecodedFrames | None = None,
    ) -> Work:
        """As `DecodeWorker.decode`; the rig's decoder keeps references of its own."""
        number = None if view is None else view.number
        image = None if view is None else view.image
        answer = self._fleet.frame(rig, bytes(frame.packet), number, image)
        if answer.decoded is None:
            raise StreamError("the fleet was started without pictures: its decoders keep them")
        if view is None or not answer.side_known:
            return Work(answer.decoded, None)
        return Work(answer.decoded, prepared or RemoteSide(frame.rate, {}))
