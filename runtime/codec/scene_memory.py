"""Whether the side images of a stream showed its scene: one doubtful frame then changes nothing.

A single picture is judged by one limit (`LEAST_SHOWN`). In a stream what is shown changes little
from one frame to the next, but near the limit it lies now above and now below, and the picture
would flicker. So the last decision stands until the next one is clear.
"""

from collections import OrderedDict

from dsin.runtime.codec.decoder import Decoded, SideFeatures

MOST_STREAMS = 1024
"""Remembered; the one that was judged longest ago is forgotten first."""


class SceneMemory:
    """Remembers the decision of each stream, by its name. For several threads at once, as long as
    one stream is decoded by one of them at a time."""

    def __init__(self) -> None:
        self._related: OrderedDict[str, bool] = OrderedDict()

    def remind(self, stream: str, features: SideFeatures) -> SideFeatures:
        """The side image with what was decided of the one before it in that stream."""
        return features.after(self._related.get(stream))

    def note(self, stream: str, decoded: Decoded) -> None:
        """A frame was decoded with a side image."""
        self._related[stream] = decoded.used_side
        self._related.move_to_end(stream)
        while len(self._related) > MOST_STREAMS:
            self._related.popitem(last=False)
