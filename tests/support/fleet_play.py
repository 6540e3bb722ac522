"""Ten rigs that play to a fleet of decoders, one of which is killed meanwhile."""

import asyncio
import os
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from conftest import textured_pair

from dsin.runtime import Encoder
from dsin.runtime.fleet.decoders import APPLICATION, FleetDecoder, ReplicaLostError
from dsin.runtime.fleet.replica import FleetAnswer

RIGS = [f"rig-{number}" for number in range(10)]
INTERVAL_S = 0.4
"""Between a rig's frames: ten rigs at this pace leave two shared cores some air."""
SIZE = 64, 96


@dataclass
class Scene:
    """A packet of x and a PNG of y."""

    packet: bytes
    side: bytes


def small_scene() -> Scene:
    x, y = textured_pair(*SIZE, seed=3)
    with Encoder() as encoder:
        return Scene(bytes(encoder.encode(x, 1)), png(y))


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


class PlayedFrame(NamedTuple):
    """A side image and a packet that were decoded: when they were sent and the answer came
    (seconds of time.monotonic), by which process, and how much of that the replica worked."""

    sent_s: float
    answered_s: float
    process: int
    side_known: bool
    work_ms: float

    @property
    def call_ms(self) -> float:
        return 1000 * (self.answered_s - self.sent_s)


@dataclass
class Seen:
    """What a rig's front saw."""

    frames: list[PlayedFrame] = field(default_factory=list)
    lost: int = 0

    @property
    def home(self) -> int:
        """The process that decoded the newest frame."""
        return self.frames[-1].process

    @property
    def homes(self) -> list[int]:
        """All that ever decoded for it, in order."""
        return list(dict.fromkeys(frame.process for frame in self.frames))

    def between(self, start_s: float, end_s: float) -> list[PlayedFrame]:
        """The frames that were sent then."""
        return [frame for frame in self.frames if start_s <= frame.sent_s < end_s]

    def longest_ms(self, start_s: float, end_s: float) -> float:
        """Of the calls that were made then."""
        return max(frame.call_ms for frame in self.between(start_s, end_s))


async def play(
    fleet: FleetDecoder, scene: Scene, seen: dict[str, Seen], frames: int | None = None
) -> None:
    """Ten rigs that send y, then x, at their pace, `frames` times or until cancelled."""

    async def rig(name: str, offset: float) -> None:
        await asyncio.sleep(offset)
        number = 0
        while frames is None or number < frames:
            due = asyncio.create_task(asyncio.sleep(INTERVAL_S))
            sent_s = time.monotonic()
            try:
                stored = await fleet.side(name, scene.side, number)
                answer = await fleet.frame(name, scene.packet, number)
                assert answer.decoded is not None
                seen[name].frames.append(
                    PlayedFrame(
                        sent_s, time.monotonic(), answer.process, answer.side_known,
                        work_ms(stored) + work_ms(answer),
                    )
                )  # fmt: skip
            except ReplicaLostError:
                seen[name].lost += 1
            number += 1
            await due

    step = INTERVAL_S / len(RIGS)
    await asyncio.gather(*(rig(name, place * step) for place, name in enumerate(RIGS)))


def work_ms(answer: FleetAnswer) -> float:
    return sum(answer.stage_ms.values())


@dataclass
class Killing:
    """A replica that was killed while rigs played, and what they saw. Times are of time.monotonic;
    `busy` is the share of the machine's processors at work, before and until it was replaced."""

    seen: dict[str, Seen]
    victim: int
    begun_s: float
    killed_s: float
    replaced_s: float
    end_s: float
    busy: tuple[float, float]

    @property
    def homeless(self) -> set[str]:
        """The rigs that it decoded for."""
        return {name for name, rig in self.seen.items() if self.victim in rig.homes}

    @property
    def others(self) -> set[str]:
        return set(self.seen) - self.homeless


async def kill_one(fleet: FleetDecoder, scene: Scene) -> Killing:
    """Kill the replica of the first rig, and play until its replacement has that rig again."""
    await settle(fleet, scene)
    seen: dict[str, Seen] = defaultdict(Seen)
    begun_s, processors = time.monotonic(), Processors()
    playing = asyncio.create_task(play(fleet, scene, seen))
    await asyncio.sleep(10 * INTERVAL_S)
    first, before = seen[RIGS[0]], {name: seen[name].home for name in RIGS}
    victim, busy_before = first.home, processors.busy()
    killed_s = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while first.home in before.values():
        assert time.monotonic() < killed_s + 180, "no replacement within three minutes"
        await asyncio.sleep(INTERVAL_S / 10)
    replaced_s, busy_after = time.monotonic(), processors.busy()
    await asyncio.sleep(10 * INTERVAL_S)
    playing.cancel()
    end_s = time.monotonic()
    return Killing(
        dict(seen), victim, begun_s, killed_s, replaced_s, end_s, (busy_before, busy_after)
    )


def ready_replicas() -> int:
    """How many replicas take calls."""
    from ray import serve

    deployment = serve.status().applications[APPLICATION].deployments["RigDecoder"]
    return int(deployment.replica_states.get("RUNNING", 0))


async def settle(fleet: FleetDecoder, scene: Scene, replicas: int = 2) -> None:
    """Wait until all replicas get rigs: the front learns of a new one after it is ready."""
    deadline_s = time.monotonic() + 60
    while len({(await fleet.frame(rig, scene.packet, None)).process for rig in RIGS}) < replicas:
        assert time.monotonic() < deadline_s, "some replicas get no rigs"
        await asyncio.sleep(INTERVAL_S)


class Processors:
    """How busy all of this machine's are."""

    def __init__(self) -> None:
        self._before = self._read()

    def busy(self) -> float:
        """The share of time at work since the last call."""
        before, self._before = self._before, self._read()
        idle, total = (now - then for now, then in zip(self._before, before, strict=True))
        return 1 - idle / total

    @staticmethod
    def _read() -> tuple[int, int]:
        """Ticks that were idle, and all."""
        ticks = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
