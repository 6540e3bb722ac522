"""The frames that packets may refer to: those sent, on a device, and those decoded, on a server.

    device                                            server
    encode(frame, references=sent) ─► packet ══► decode(packet, references=decoded)
    sent.confirm(number)  ◄══ the answer says that it was decoded

A device refers to frames only that the server said it had decoded, so a lost packet costs its own
frame and no other. Both sides keep the last KEPT frames: of those sent, and of those decoded.
"""

import threading
from collections import deque
from dataclasses import dataclass

from dsin.runtime.codec.changes import SentPicture
from dsin.runtime.codec.packet import Packet, PacketHeader, Reference
from dsin.runtime.entropy.hyper_codec import CodedLatent
from dsin.runtime.errors import PacketError, ReferenceMissingError

KEPT = 8
"""A packet refers to one of so many frames before it."""


@dataclass
class _Sent:
    packet: Packet
    picture: SentPicture
    confirmed: bool = False


class SentFrames:
    """What a device knows of the frames of one stream that it has sent.

        sent = SentFrames()
        packet = encoder.encode(frame, frame_number=7, references=sent)
        sent.confirm(7)  # once the server has answered that it decoded it

    Frame numbers must grow. Any thread may confirm while another one encodes.
    """

    def __init__(self) -> None:
        self._frames: deque[_Sent] = deque(maxlen=KEPT)
        self._using = threading.Lock()

    def confirm(self, frame_number: int) -> None:
        """Note that the decoder has decoded that frame."""
        with self._using:
            for sent in self._frames:
                if sent.packet.header.frame_number == frame_number:
                    sent.confirmed = True

    def forget(self, frame_number: int | None = None) -> None:
        """Note that the decoder has none of the frames up to that number (None: none at all), as
        after a new connection."""
        with self._using:
            kept = [
                sent
                for sent in self._frames
                if frame_number is not None and sent.packet.header.frame_number > frame_number
            ]
            self._frames.clear()
            self._frames.extend(kept)

    def reference_for(self, header: PacketHeader) -> tuple[Reference, SentPicture] | None:
        """The newest confirmed frame that has the size and rate of this header, if there is one."""
        with self._using:
            for sent in reversed(self._frames):
                packet = sent.packet
                if sent.confirmed and _kind(packet.header) == _kind(header):
                    return Reference(packet.header.frame_number, packet.checksum), sent.picture
        return None

    def add(self, packet: Packet, picture: SentPicture) -> None:
        """Keep a frame, which is not confirmed yet."""
        with self._using:
            self._frames.append(_Sent(packet, picture))


class DecodedFrames:
    """What a decoder keeps of the frames of one stream that it has decoded, for later ones.

    Not for several threads at once.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[Packet, CodedLatent]] = deque(maxlen=KEPT)

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def nbytes(self) -> int:
        """What the frames take."""
        return sum(
            len(packet) + latent.latent.nbytes + latent.z.nbytes for packet, latent in self._frames
        )

    def clear(self) -> None:
        """Forget all."""
        self._frames.clear()

    def latent_for(self, header: PacketHeader) -> CodedLatent | None:
        """What the packet with this header refers to; None where it stands alone.

        Raises ReferenceMissingError for a frame that is not here, PacketError for one of another
        size or rate.
        """
        if header.reference is None:
            return None
        for packet, latent in reversed(self._frames):
            if (packet.header.frame_number, packet.checksum) == header.reference:
                if _kind(packet.header) != _kind(header):
                    raise PacketError("packet refers to a frame of another size or rate")
                return latent
        raise reference_missing(header.reference)

    def add(self, packet: Packet, latent: CodedLatent) -> None:
        """Keep a decoded frame."""
        self._frames.append((packet, latent))


def reference_missing(reference: Reference) -> ReferenceMissingError:
    """For a packet with that reference."""
    return ReferenceMissingError(
        f"packet refers to frame {reference.frame_number}, which is not among the last frames that "
        "were decoded here: send one that stands alone"
    )


def _kind(header: PacketHeader) -> tuple[int, int, int]:
    """What a frame must have in common with one that it refers to."""
    return header.rate, header.width, header.height
