"""Frames put together from pieces that come late, twice, in any order, or not at all."""

from collections import deque
from dataclasses import dataclass, field

from dsin.runtime.datagrams.pieces import Piece, PieceError, Shape, enough, joined

MOST_OPEN = 4
"""Frames that may be half there; one more, and the oldest is given up. Bounds the memory to
MOST_OPEN * MAX_BODY and the parity of that."""
MOST_IN_A_ROW = 64
"""So many frames given up one after the other, though most of their datagrams came, are no loss."""
REMEMBERED = 32
"""Frames that are known to have been complete, so that what comes of them is not called late."""


@dataclass
class _Open:
    shape: Shape
    pieces: dict[int, bytes] = field(default_factory=dict)


class Assembly:
    """One camera's frames. A frame is waited for until a newer one is complete, and no longer.

    assembly = Assembly()
    body = assembly.add(piece)
    """

    def __init__(self) -> None:
        self._open: dict[int, _Open] = {}
        self._newest: int | None = None
        self._done: deque[int] = deque(maxlen=REMEMBERED)
        self.incomplete = 0
        """Frames of which pieces came, but not enough."""
        self.late = 0
        """Pieces that came when their frame was given up already."""
        self.repaired = 0
        """Frames that parity has completed."""
        self.in_a_row = 0
        """Frames given up since the last one that was complete."""

    @property
    def half_done(self) -> tuple[int, Shape, list[int]] | None:
        """The newest frame that is not complete: its number, shape and the pieces that came."""
        if not self._open:
            return None
        number = max(self._open)
        return number, self._open[number].shape, sorted(self._open[number].pieces)

    def add(self, piece: Piece) -> bytes | None:
        """The frame's body, if this piece completes it. Raises PieceError for one that contradicts
        the others of its frame."""
        number = piece.number
        if self._newest is not None and number <= self._newest:
            self.late += number not in self._done
            return None
        frame = self._open.get(number)
        if frame is None:
            frame = self._open[number] = _Open(piece.shape)
            if len(self._open) > MOST_OPEN:
                self._give_up(min(self._open))
            if number not in self._open:  # it was itself the oldest
                return None
        if frame.shape != piece.shape or frame.pieces.get(piece.index, piece.body) != piece.body:
            raise PieceError(f"pieces of frame {number} contradict each other")
        frame.pieces[piece.index] = piece.body
        if not enough(frame.shape, list(frame.pieces)):
            return None
        self._newest = number
        self._done.append(number)
        for older in [n for n in self._open if n < number]:
            self._give_up(older)
        self.in_a_row = 0
        del self._open[number]
        self.repaired += any(index not in frame.pieces for index in range(frame.shape.data))
        return joined(frame.shape, frame.pieces)

    def _give_up(self, number: int) -> None:
        del self._open[number]
        self.incomplete += 1
        self.in_a_row += 1
