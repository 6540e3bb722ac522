"""Which place of a fleet a rig belongs to: a ring of hashes over places, not over replicas.

Ray Serve's own consistent-hash ring is made of the replicas' random names. A replica that died
comes back under another name, elsewhere on the ring, and takes rigs from the living. Here the ring
is made of places 0 to n-1; a replacement gets the place of the dead one, and with it exactly its
rigs. While a place is empty its rigs go to the next places on the ring.
"""

import bisect
import hashlib
from collections.abc import Container, Hashable, Mapping
from typing import Generic, TypeVar

POINTS = 128
"""Points of each place on the ring: with 10 places the fullest has about 1.2 times its share."""

Replica = TypeVar("Replica", bound=Hashable)


class PlaceRing(Generic[Replica]):
    """A ring of the replicas that sit at `places` (place names, distinct)."""

    def __init__(self, places: Mapping[str, Replica]) -> None:
        points = sorted(
            (_hash(f"{place}/{point}"), place) for place in places for point in range(POINTS)
        )
        self._hashes = [value for value, _ in points]
        self._replicas = [places[place] for _, place in points]

    def owner(self, rig: str, alive: Container[Replica]) -> Replica | None:
        """The replica that decodes for a rig, the first of those alive; None if there is none."""
        start = bisect.bisect_right(self._hashes, _hash(rig))
        for step in range(len(self._replicas)):
            replica = self._replicas[(start + step) % len(self._replicas)]
            if replica in alive:
                return replica
        return None


def _hash(text: str) -> int:
    # The same in every process, unlike hash().
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
