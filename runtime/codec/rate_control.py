"""Which rate point to take for the next frame, so that a link's bits per second are used but not
exceeded.

A token bucket over what was really sent: the budget of every frame is added, its bytes are taken
away. The size of the next frame at each rate point is predicted from the last frames: their sizes
follow the rate points' declared bits, times a factor for the scene that is learnt on the way. The
point whose predicted size is nearest to what the bucket holds, spread over the next frames, wins.
Where even the lowest rate is too much, frames have to become rarer: `pause_s` tells by how much.
"""

import math
from collections.abc import Sequence

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.errors import DsinError

HORIZON = 1.5
"""Frames over which an excess or a remainder is made good: longer ones leave the rate alone for
longer, and miss the target by more over two seconds."""
MOST_SAVED = 0.25
"""Of a frame's budget, where the target follows a link."""
MOST_SPARED = 0.5
"""Of a frame's budget, where frames take over most of earlier ones."""
MOST_HELD = 2.5
"""Frames that refer to each other keep their rate until one that stands alone would take so many
budgets."""
MOST_KEPT, MOST_OWED = 2.0, 2.0
"""Frames' budgets that may be saved or overdrawn: no long burst after an easy scene, and none that
lower rates cannot make good."""
LEARNT = 0.5
"""Share of the newest frame in the scene's factor."""


class RateController:
    """Rate indices for a target bit rate.

        controller = RateController.for_bundle(bundle, kbps=300, fps=10, size=(height, width))
        packet = encoder.encode(frame, controller.next_rate())
        controller.sent(packet.header.rate, len(packet))

    `points` are the bundle's bits per pixel, ascending, and `pixels` those of a frame. It keeps
    account of one stream: give each stream its own, and use it from one thread. Raises DsinError
    for a target that is not positive.
    """

    def __init__(
        self, points: Sequence[float], *, pixels: int, target_kbps: float, fps: float
    ) -> None:
        if not (0 < target_kbps < math.inf and 0 < fps < math.inf and points):
            raise DsinError("a target bit rate needs kbit/s and frames per second above 0")
        self.target_kbps = target_kbps
        self._sizes = [max(1.0, bpp * pixels / 8) for bpp in points]
        self.pace(fps)
        self._saved = 0.0
        self._factors = [1.0] * len(points)

    @classmethod
    def for_bundle(
        cls, bundle: Bundle, kbps: float, fps: float, *, size: tuple[int, int]
    ) -> "RateController":
        """For the rate points of a bundle: `kbps` in kbit/s (1000 bits), `fps` in frames per
        second, `size` the height and width of the frames in pixels. Raises DsinError as the class
        does."""
        points = [point.target_bpp for point in bundle.rate_points]
        return cls(points, pixels=size[0] * size[1], target_kbps=kbps, fps=fps)

    def pace(self, fps: float) -> None:
        """Note how many frames per second are sent from now on."""
        self._fps = fps
        self._budget = 1000 * self.target_kbps / 8 / fps

    def aim(self, target_kbps: float) -> None:
        """Aim at another bit rate from now on (kbit/s, above 0), and forget most of what was saved
        or overdrawn: it was of a link that is another one now, and on a link that may narrow no
        frame should be much larger than the others."""
        self.target_kbps = target_kbps
        self.pace(self._fps)
        most = MOST_SAVED * self._budget
        self._saved = min(most, max(-most, self._saved))

    @property
    def predicted_sizes(self) -> list[float]:
        """Bytes that the next frame would take at each rate, by what the last ones took."""
        return [size * f for size, f in zip(self._sizes, self._factors, strict=True)]

    @property
    def least_kbps(self) -> float:
        """What frames of the lowest rate that stand alone would take (kbit/s), at this pace."""
        return 0.008 * self._fps * self.predicted_sizes[0]

    @property
    def pause_s(self) -> float:
        """Seconds by which the next frame must come later than the pace has it, for the target not
        to be exceeded; 0 as long as lower rates can make good what was overdrawn."""
        owed = -self._saved - MOST_OWED * self._budget
        return max(0.0, owed / (1000 * self.target_kbps / 8))

    def paused(self, seconds: float) -> None:
        """Note that for so long nothing was sent because of `pause_s`."""
        self._saved += 1000 * self.target_kbps / 8 * seconds

    def next_rate(self, held: int | None = None) -> int:
        """The rate index for the next frame. `held` is that of the frames before it, if they took
        over most of each other (`spared`): a frame of another rate would have to start anew, so
        only a higher one is taken, or a lower one where the budget has shrunk."""
        wanted = self._budget + self._saved / HORIZON
        predicted = self.predicted_sizes
        best = min(range(len(predicted)), key=lambda i: abs(predicted[i] - wanted))
        if held is None or best > held or predicted[held] > MOST_HELD * self._budget:
            return best
        return held

    def spared(self, size: int) -> None:
        """Note that a frame of `size` bytes was sent that took over most of an earlier one: it
        tells nothing of its rate, and what it saves is no reason for a large one later."""
        self._saved = min(MOST_SPARED * self._budget, self._saved + self._budget - size)

    def sent(self, rate: int, size: int) -> None:
        """Note that a frame of `size` bytes was sent at that rate."""
        self._saved = min(MOST_KEPT * self._budget, self._saved + self._budget - size)
        seen = size / self._sizes[rate]
        for index in range(len(self._factors)):
            # Neighbouring points learn from each other, the less the further away.
            share = LEARNT / (1 + abs(index - rate))
            self._factors[index] += share * (seen - self._factors[index])
