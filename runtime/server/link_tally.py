"""What the server counts of the way to it, for each rig, whatever its connections."""

from collections import Counter, deque

from dsin.runtime.datagrams.loss import LossMeter
from dsin.runtime.datagrams.pieces import Shape
from dsin.runtime.outputs.rig_status import LinkStatus

FRAMES = 50
"""Parity is the mean of so many frames."""


class LinkTally:
    """Counts since the server's start; the loop's thread writes them, others read."""

    def __init__(self) -> None:
        self.transport = ""
        self.loss = LossMeter()
        self.bursts = 0
        """Datagrams of this connection that were lost in bursts, which `loss` leaves out."""
        self.lost = self.received = self.incomplete = self.repaired = self.late = 0
        self.rejected: Counter[str] = Counter()
        self._shapes: deque[tuple[int, int]] = deque(maxlen=FRAMES)

    def begin(self, transport: str, loss: LossMeter | None = None) -> None:
        """From now on frames come that way, `grpc` or `datagram`, and `loss` measures its loss."""
        self.transport = transport
        self.loss = loss or LossMeter()
        self.bursts = 0
        self._shapes.clear()

    def frame(self, shape: Shape) -> None:
        """A frame came whole."""
        self._shapes.append((shape.data, shape.total))

    def status(self) -> LinkStatus:
        """Figures of this moment."""
        shapes = list(self._shapes)
        data = sum(data for data, _ in shapes)
        return LinkStatus(
            transport=self.transport,
            loss=self.loss.loss,
            parity=sum(total for _, total in shapes) / data - 1 if data else 0.0,
            received=self.received,
            lost=self.lost + self.loss.lost + self.bursts,
            incomplete=self.incomplete,
            repaired=self.repaired,
            late=self.late,
            rejected=dict(self.rejected),
        )
