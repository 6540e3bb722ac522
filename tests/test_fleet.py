"""A fleet of decoders: each rig stays on its own, and only the rigs of a dead one notice.

The last tests start Ray Serve with two replicas, which takes some seconds; they are skipped where
Ray is not installed (pip install 'dsin[fleet]').
"""

import asyncio
import importlib.util
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
import pytest
from conftest import textured_pair
from hypothesis import given
from hypothesis import strategies as st

from dsin.runtime import Decoder, Encoder, FrameError, PacketError
from dsin.runtime.errors import BackendError
from dsin.runtime.fleet import (
    BlockingFleet,
    FleetDecoder,
    FleetOptions,
    ReplicaLostError,
    join_fleet,
    start_fleet,
)
from dsin.runtime.fleet_replica import ReplicaOptions, RigDecoder, SideStore, stored_bytes
from dsin.runtime.fleet_ring import PlaceRing

RIGS = [f"rig-{number}" for number in range(10)]
INTERVAL_S = 0.4
"""Between a rig's frames: ten rigs at this pace leave two shared cores some air."""
SIZE = 64, 96


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


@dataclass
class Scene:
    """A packet of x and a PNG of y."""

    packet: bytes
    side: bytes


@pytest.fixture(scope="module")
def scene() -> Scene:
    x, y = textured_pair(*SIZE, seed=3)
    with Encoder() as encoder:
        return Scene(encoder.encode(x, rate=1), png(y))


# The ring.


@given(st.integers(2, 12), st.data())
def test_an_empty_place_moves_only_its_own_rigs(places: int, data: st.DataObject) -> None:
    ring = PlaceRing({str(place): f"replica {place}" for place in range(places)})
    alive = {f"replica {place}" for place in range(places)}
    dead = f"replica {data.draw(st.integers(0, places - 1))}"
    for rig in data.draw(st.lists(st.text(max_size=20), min_size=1)):
        before, during = ring.owner(rig, alive), ring.owner(rig, alive - {dead})
        assert during != dead
        assert before in (during, dead)


def test_a_replacement_gets_exactly_the_rigs_of_the_dead() -> None:
    rigs = [f"rig-{number}" for number in range(1000)]
    before = PlaceRing({"0": "a", "1": "b", "2": "c"})
    after = PlaceRing({"0": "a", "1": "new", "2": "c"})
    for rig in rigs:
        owner = before.owner(rig, {"a", "b", "c"})
        assert after.owner(rig, {"a", "new", "c"}) == ("new" if owner == "b" else owner)


def test_rigs_are_spread_evenly() -> None:
    ring = PlaceRing({str(place): place for place in range(10)})
    counts = Counter(ring.owner(f"rig-{number}", range(10)) for number in range(10_000))
    assert len(counts) == 10
    assert max(counts.values()) < 1.4 * 1000
    assert PlaceRing({}).owner("rig", set()) is None


# A replica by itself.


def test_a_replica_decodes_as_the_decoder_does(scene: Scene) -> None:
    async def run() -> None:
        replica = RigDecoder(ReplicaOptions(), lambda: "0")
        assert replica.record_replica_metadata() == {"place": "0"}
        alone = await replica.frame("a", scene.packet, None)
        assert alone.decoded is not None
        assert not alone.used_side
        await replica.side("a", scene.side, 5, 0)
        known = await replica.frame("a", scene.packet, 5)
        stranger = await replica.frame("b", scene.packet, 5)
        assert known.side_known
        assert not stranger.side_known, "the side image of another rig was taken"
        with Decoder(threads=1) as decoder:
            y = cv2.imdecode(np.frombuffer(scene.side, np.uint8), 1)[:, :, ::-1]
            expected = decoder.decode(scene.packet, np.ascontiguousarray(y))
        assert known.decoded is not None
        assert stranger.decoded is None
        np.testing.assert_array_equal(known.decoded.image, expected)
        np.testing.assert_array_equal(alone.decoded.image, known.decoded.x_dec)

    asyncio.run(run())


def test_a_replica_refuses_damaged_bytes_and_goes_on(scene: Scene) -> None:
    async def run() -> None:
        replica = RigDecoder(ReplicaOptions(pictures=False), lambda: "0")
        await replica.side("a", scene.side, 1, 1)
        spoiled = await replica.frame("a", scene.packet[:-1] + b"?", 1)
        assert isinstance(spoiled.refused, PacketError)
        for junk in (b"", b"junk", png(np.zeros((*SIZE, 3), np.uint8))[:60]):
            assert isinstance((await replica.side("a", junk, 2, 1)).refused, FrameError)
        await replica.side("a", png(np.zeros((32, 32, 3), np.uint8)), 3, 1)
        assert isinstance((await replica.frame("a", scene.packet, 3)).refused, FrameError)
        good = await replica.frame("a", scene.packet, None)
        assert good.refused is None
        assert good.decoded is None, "pictures were sent that nobody wanted"

    asyncio.run(run())


def test_side_images_stay_within_their_budget(scene: Scene) -> None:
    y = textured_pair(*SIZE, seed=3)[1]
    with Decoder(threads=1) as decoder:
        side = decoder.prepare_side(y)
    size = stored_bytes(side)
    assert size > 3 * y.nbytes
    store = SideStore(budget=5 * size)
    for number in range(4):
        store.put("a", number, side)
    assert store.used == 2 * size, "more than the newest two are kept"
    assert store.get("a", 1) is None
    assert store.get("a", 3) is side
    for rig in "bcd":
        store.put(rig, 0, side)
    assert store.get("a", 3) is side
    store.put("e", 0, side)
    assert store.used <= 5 * size
    assert store.get("a", 3) is None, "the rig that was silent for longest is still there"
    assert all(store.get(rig, 0) is side for rig in "bcde")


def test_ray_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"pip install 'dsin\[fleet\]'"):
        start_fleet(FleetOptions())


# Two replicas.

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: dsin[fleet]"
)
# Ray and what it imports warn of much that is not ours.
quiet = pytest.mark.filterwarnings("ignore")


@dataclass
class Seen:
    """What a rig's front saw: (seconds, process, side known) of each decoded frame."""

    frames: list[tuple[float, int, bool]] = field(default_factory=list)
    lost: int = 0

    def gap(self, start: float, end: float) -> float:
        times = [start, *(t for t, _, _ in self.frames if start < t < end), end]
        return max(b - a for a, b in pairwise(times))


async def play(
    fleet: FleetDecoder, scene: Scene, seen: dict[str, Seen], frames: int | None = None
) -> None:
    """Ten rigs that send y, then x, at their pace, `frames` times or until cancelled."""

    async def rig(name: str, offset: float) -> None:
        await asyncio.sleep(offset)
        number = 0
        while frames is None or number < frames:
            due = asyncio.create_task(asyncio.sleep(INTERVAL_S))
            try:
                await fleet.side(name, scene.side, number)
                answer = await fleet.frame(name, scene.packet, number)
                assert answer.decoded is not None
                seen[name].frames.append((time.monotonic(), answer.process, answer.side_known))
            except ReplicaLostError:
                seen[name].lost += 1
            number += 1
            await due

    step = INTERVAL_S / len(RIGS)
    await asyncio.gather(*(rig(name, place * step) for place, name in enumerate(RIGS)))


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetDecoder]:
    with start_fleet(FleetOptions(replicas=2, cpus=0.5, timeout_s=10)) as fleet:
        yield fleet


@needs_ray
@quiet
def test_no_rig_moves(fleet: FleetDecoder, scene: Scene) -> None:
    seen: dict[str, Seen] = defaultdict(Seen)
    asyncio.run(play(fleet, scene, seen, frames=20))
    homes = {name: {process for _, process, _ in seen[name].frames} for name in RIGS}
    assert all(len(processes) == 1 for processes in homes.values())
    assert len(set.union(*homes.values())) == 2, "one replica did everything"
    assert all(len(seen[name].frames) == 20 and not seen[name].lost for name in RIGS)
    assert all(known for name in RIGS for _, _, known in seen[name].frames)


@needs_ray
@quiet
def test_a_decoder_that_is_new_to_a_rig_gets_its_side_image_anew(
    fleet: FleetDecoder, scene: Scene
) -> None:
    waiting = BlockingFleet(fleet)
    alone = waiting.frame("new", scene.packet, 7)
    assert not alone.side_known
    assert alone.decoded is not None
    np.testing.assert_array_equal(alone.decoded.image, alone.decoded.x_dec)
    again = waiting.frame("new", scene.packet, 7, scene.side)
    assert again.side_known
    known = waiting.frame("new", scene.packet, 7)
    assert known.side_known
    assert again.decoded is not None
    assert known.decoded is not None
    np.testing.assert_array_equal(again.decoded.image, known.decoded.image)
    assert {alone.process, again.process} == {known.process}
    waiting.close()


@needs_ray
@quiet
def test_damaged_packets_are_the_senders_to_mend(fleet: FleetDecoder, scene: Scene) -> None:
    async def run() -> None:
        with pytest.raises(PacketError, match="not a packet"):
            await fleet.frame("bad", b"?", None)
        with pytest.raises(FrameError, match="PNG or JPEG"):
            await fleet.side("bad", b"?", 0)

    asyncio.run(run())


@needs_ray
@quiet
def test_frames_of_a_frozen_or_dying_replica_are_lost_and_the_next_ones_are_not(
    fleet: FleetDecoder,
) -> None:
    x, y = textured_pair(375, 1242, seed=4)
    with Encoder() as encoder:
        packet = encoder.encode(x, rate=1)
    impatient = join_fleet(FleetOptions(timeout_s=1))

    async def run() -> None:
        process = (await fleet.side("a", y, 0, rate=1)).process
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(ReplicaLostError, match="within 1 s"):
                await impatient.frame("a", packet, 0)
        finally:
            os.kill(process, signal.SIGCONT)
        assert (await fleet.frame("a", packet, 0)).process == process
        under_way = [asyncio.create_task(fleet.frame("a", packet, 0)) for _ in range(5)]
        await asyncio.sleep(0.1)  # five take longer than that
        os.kill(process, signal.SIGKILL)
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        assert isinstance(answers[-1], ReplicaLostError)
        moved = await fleet.frame("a", packet, 0, y)
        assert moved.process != process
        assert moved.side_known
        while (await fleet.health()).ready < 2:
            await asyncio.sleep(0.2)

    asyncio.run(run())


@needs_ray
@quiet
def test_a_killed_replica_costs_only_its_own_rigs(fleet: FleetDecoder, scene: Scene) -> None:
    seen: dict[str, Seen] = defaultdict(Seen)
    killed_at = 0.0
    victim = 0

    async def run() -> None:
        nonlocal killed_at, victim
        playing = asyncio.create_task(play(fleet, scene, seen))
        await asyncio.sleep(10 * INTERVAL_S)
        victim = seen[RIGS[0]].frames[-1][1]
        killed_at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        deadline = killed_at + 60
        while time.monotonic() < deadline:
            await asyncio.sleep(INTERVAL_S)
            newest = {name: seen[name].frames[-1][1] for name in RIGS}
            if newest[RIGS[0]] not in {victim, *(newest[n] for n in RIGS if n not in lost_home())}:
                break
        await asyncio.sleep(10 * INTERVAL_S)
        health = await fleet.health()
        assert (health.ready, health.wanted) == (2, 2)
        playing.cancel()

    def lost_home() -> set[str]:
        return {n for n in RIGS if any(p == victim for _, p, _ in seen[n].frames)}

    asyncio.run(run())
    end = time.monotonic() - INTERVAL_S
    others = set(RIGS) - lost_home()
    assert others
    assert lost_home()
    replaced_at = min(
        next(time for time, process, _ in seen[name].frames if process == replacement(seen[name]))
        for name in lost_home()
    )
    report(seen, killed_at, end, lost_home())
    for name in others:
        rig = seen[name]
        assert rig.lost == 0
        assert len({process for _, process, _ in rig.frames}) == 1, f"{name} has moved"
        assert all(known for _, _, known in rig.frames)
        # The machine may be slower while the replacement starts, but nobody waits for that.
        delay = rig.gap(killed_at, end) - rig.gap(rig.frames[0][0], killed_at)
        assert delay < (replaced_at - killed_at) / 2
    for name in lost_home():
        rig = seen[name]
        assert rig.lost <= 2, "no more than what was under way"
        homes = list(dict.fromkeys(process for _, process, _ in rig.frames))
        assert homes[0] == victim
        assert len(homes) == 3, "away and back"
        assert homes[1] in {process for n in others for _, process, _ in seen[n].frames}
        assert rig.frames[-1][2]


def replacement(rig: Seen) -> int:
    """The process that decoded the rig's newest frame."""
    return rig.frames[-1][1]


def report(seen: dict[str, Seen], killed_at: float, end: float, homeless: set[str]) -> None:
    """What the test saw, for `pytest -s`."""
    for name in RIGS:
        rig = seen[name]
        first = rig.frames[0][0]
        print(
            f"{name}: {'killed' if name in homeless else 'other'}, lost {rig.lost}, "
            f"gap {rig.gap(first, killed_at):.2f} s before, {rig.gap(killed_at, end):.2f} s after"
        )
    for process in {rig.frames[-1][1] for rig in seen.values()}:
        with open(f"/proc/{process}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        print(f"replica {process}: {int(line.split()[1]) / 1024:.0f} MiB resident")
