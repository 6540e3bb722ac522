"""One decoder of a fleet: what a replica keeps of its rigs, and does for them.

Nothing here needs Ray, except where a replica asks for its place.
"""

import asyncio
import dataclasses
import math
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dsin.runtime.backends.session import Backend
from dsin.runtime.codec.decoder import Decoded, Decoder, SideFeatures
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import Packet
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.codec.scene_memory import SceneMemory
from dsin.runtime.errors import FrameError, PacketError
from dsin.runtime.fleet.router import PLACE
from dsin.runtime.link.side_pictures import decode_picture, picture_size
from dsin.runtime.pictures import Image
from dsin.runtime.sources.warm_up import TILE, warm_up

SIDES_KEPT = 2
"""Side images of a rig: the newest, and the one before, since x may come late."""


@dataclass(frozen=True)
class ReplicaOptions:
    """How a replica decodes. `cpus` limits its threads; `side_budget_mib` is what side images and
    features of all its rigs may take, and an eighth of it what frames that packets may refer to
    take besides; with `pictures` answers hold the decoded frame."""

    bundle: str | None = None
    backend: Backend = "cpu"
    cpus: float = 1.0
    side_budget_mib: int = 4096
    pictures: bool = True


@dataclass(frozen=True)
class FleetAnswer:
    """What became of a frame or a side image.

    `side_known` is false where a frame named a side image that the replica does not have, since it
    is new to the rig: then a replica does not decode. `refused` says why nothing was done: damaged
    bytes, another codec, another size. `place` and `process` tell which replica it was, `queue_ms`
    how long the call waited there, `stage_ms` what took how long.
    """

    place: str
    process: int
    queue_ms: float = 0.0
    side_known: bool = True
    used_side: bool = False
    decoded: Decoded | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    refused: FrameError | PacketError | None = None


class _Kept(NamedTuple):
    number: int
    side: SideFeatures
    size: int


class SideStore:
    """Prepared side images by rig and number, at most `budget` bytes; the rig that was silent for
    longest is forgotten first. Not for several threads at once."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rigs: OrderedDict[str, deque[_Kept]] = OrderedDict()
        self.used = 0

    def __len__(self) -> int:
        return len(self._rigs)

    def put(self, rig: str, number: int, side: SideFeatures) -> None:
        """Keep a side image, in place of one of that number, and forget what is too much."""
        before = self._rigs.pop(rig, deque())
        kept = deque((k for k in before if k.number != number), maxlen=SIDES_KEPT)
        kept.append(_Kept(number, side, stored_bytes(side)))
        self._rigs[rig] = kept
        self.used += _size(kept) - _size(before)
        while self.used > self._budget and len(self._rigs) > 1:
            self.used -= _size(self._rigs.popitem(last=False)[1])

    def get(self, rig: str, number: int) -> SideFeatures | None:
        """The rig's side image of that number, None if it is not kept (any more)."""
        return next((k.side for k in self._rigs.get(rig, ()) if k.number == number), None)


class ReferenceStore:
    """The frames that each rig's packets may refer to, at most `budget` bytes; the rig that was
    silent for longest is forgotten first. Not for several threads at once."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._rigs: OrderedDict[str, DecodedFrames] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def of(self, rig: str) -> DecodedFrames:
        """Those of a rig, none of them where it is new here."""
        self._rigs.setdefault(rig, DecodedFrames())
        self._rigs.move_to_end(rig)
        return self._rigs[rig]

    def weigh(self, rig: str) -> None:
        """Count what a rig's frames take now, and forget what is too much."""
        self._sizes[rig] = self._rigs[rig].nbytes
        while sum(self._sizes.values()) > self._budget and len(self._rigs) > 1:
            forgotten, _ = self._rigs.popitem(last=False)
            self._sizes.pop(forgotten, None)


def _size(kept: Iterable[_Kept]) -> int:
    return sum(entry.size for entry in kept)


class RigDecoder:
    """A Ray Serve deployment: decodes for the rigs whose calls come to it, one call at a time."""

    def __init__(self, options: ReplicaOptions, place: Callable[[], str] | None = None) -> None:
        cv2.setNumThreads(max(1, math.floor(options.cpus)))
        self._place = (place or _ray_place)()
        self._pictures = options.pictures
        self._decoder = Decoder(
            options.bundle, options.backend, threads=max(1, math.floor(options.cpus))
        )
        with Encoder(self._decoder.bundle, threads=1) as encoder:
            warm_up(encoder, TILE, self._decoder)
        self._memory = SceneMemory()
        self._store = SideStore(options.side_budget_mib << 20)
        self._references = ReferenceStore(options.side_budget_mib << 17)
        # A thread of its own, so that health checks are answered meanwhile.
        self._worker = ThreadPoolExecutor(1, "decode")

    def record_replica_metadata(self) -> dict[str, str]:
        """What Ray Serve tells the routers of this replica."""
        return {PLACE: self._place}

    async def side(
        self, rig: str, picture: bytes | Image, number: int, rate: int | None
    ) -> FleetAnswer:
        """Take a side image, a PNG or JPEG file or its pixels, and prepare it for that rate."""
        return await self._queued(lambda: self._side(rig, picture, number, rate))

    async def frame(self, rig: str, packet: bytes, side_number: int | None) -> FleetAnswer:
        """Decode a packet with the rig's side image of that number (None: without any)."""
        return await self._queued(lambda: self._frame(rig, packet, side_number))

    async def rigs(self) -> dict[str, float]:
        """How many rigs have side images here, and what these take."""
        return {"rigs": len(self._store), "side_mib": self._store.used / 2**20}

    async def _queued(self, work: Callable[[], FleetAnswer]) -> FleetAnswer:
        called = time.perf_counter()

        def run() -> FleetAnswer:
            queue_ms = 1e3 * (time.perf_counter() - called)
            try:
                answer = work()
            except (FrameError, PacketError) as error:
                # As a value: Ray Serve would log the traceback of each.
                answer = self._answer(refused=error)
            return dataclasses.replace(answer, queue_ms=queue_ms)

        return await asyncio.get_running_loop().run_in_executor(self._worker, run)

    def _side(self, rig: str, picture: bytes | Image, number: int, rate: int | None) -> FleetAnswer:
        if isinstance(picture, bytes):
            image = decode_picture(picture, picture_size(picture))
        else:
            image = picture
        features = self._decoder.prepare_side(image, rate=rate)
        self._store.put(rig, number, features)
        return self._answer(stage_ms=features.stage_ms)

    def _frame(self, rig: str, packet: bytes, side_number: int | None) -> FleetAnswer:
        parsed = Packet.parse(packet)
        side = None
        if side_number is not None:
            kept = self._store.get(rig, side_number)
            if kept is None:
                return self._answer(side_known=False)
            side = self._decoder.prepare_side(kept, rate=parsed.header.rate)
            if side is not kept:
                self._store.put(rig, side_number, side)
            side = self._memory.remind(rig, side)
        decoded = self._decoder.decode(parsed, side, references=self._references.of(rig))
        self._references.weigh(rig)
        if side is not None:
            self._memory.note(rig, decoded)
        return self._answer(
            used_side=decoded.used_side,
            decoded=decoded if self._pictures else None,
            stage_ms=decoded.stage_ms,
        )

    def _answer(self, **fields: Any) -> FleetAnswer:
        return FleetAnswer(self._place, os.getpid(), **fields)


def stored_bytes(value: object) -> int:
    """Bytes of all arrays within dataclasses and tuples."""
    arrays: dict[int, npt.NDArray[Any]] = {}
    _collect(value, arrays)
    return sum(array.nbytes for array in arrays.values())


def _collect(value: object, arrays: dict[int, npt.NDArray[Any]]) -> None:
    if isinstance(value, np.ndarray):
        arrays[id(value)] = value
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, arrays)
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            _collect(getattr(value, item.name), arrays)


def _ray_place() -> str:
    from ray import serve

    return str(serve.get_replica_context().rank.rank)
