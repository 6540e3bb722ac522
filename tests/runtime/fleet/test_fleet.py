"""A fleet of decoders: each rig stays on its own, and only the rigs of a dead one notice.

The last tests start Ray Serve with two replicas, which takes some seconds; they are skipped where
Ray is not installed (pip install 'dsin[fleet]').
"""

import asyncio
import importlib.util
import os
import pickle
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from conftest import textured_pair
from hypothesis import given
from hypothesis import strategies as st
from support.fleet_play import (
    RIGS,
    SIZE,
    Scene,
    Seen,
    kill_one,
    play,
    png,
    ready_replicas,
    small_scene,
)

from dsin.runtime import (
    Decoder,
    Encoder,
    FrameError,
    Packet,
    PacketError,
    ReferenceMissingError,
    SentFrames,
)
from dsin.runtime.entropy.hyper_codec import CodedLatent
from dsin.runtime.errors import BackendError
from dsin.runtime.fleet import decoders
from dsin.runtime.fleet.decoders import (
    APPLICATION,
    BlockingFleet,
    FleetDecoder,
    FleetOptions,
    ReplicaLostError,
    start_fleet,
)
from dsin.runtime.fleet.replica import (
    FleetAnswer,
    ReferenceStore,
    ReplicaOptions,
    RigDecoder,
    SideStore,
    stored_bytes,
)
from dsin.runtime.fleet.ring import PlaceRing


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


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


def test_owners_are_those_of_every_process_and_version() -> None:
    """Of six rigs: the place that each belongs to, and where it goes while that is empty."""
    ring = PlaceRing({str(place): place for place in range(4)})
    owners = [ring.owner(f"rig{number}", range(4)) for number in range(6)]
    others = [
        ring.owner(f"rig{number}", set(range(4)) - {owner}) for number, owner in enumerate(owners)
    ]
    assert owners == [0, 1, 3, 2, 3, 2]
    assert others == [2, 3, 0, 3, 1, 0]


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
            expected = decoder.decode(scene.packet, np.ascontiguousarray(y)).image
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


def test_a_replica_keeps_what_frames_refer_to(scene: Scene) -> None:
    frame = textured_pair(*SIZE, seed=3)[0]
    sent = SentFrames()
    with Encoder(threads=1) as encoder:
        first = bytes(encoder.encode(frame, frame_number=1, references=sent))
        sent.confirm(1)
        second = bytes(encoder.encode(frame, frame_number=2, references=sent))
    assert len(second) < len(first) / 2

    async def run() -> None:
        replica = RigDecoder(ReplicaOptions(), lambda: "0")
        whole = await replica.frame("a", first, None)
        stranger = await replica.frame("b", second, None)
        assert isinstance(stranger.refused, ReferenceMissingError), "another rig's was taken"
        assert isinstance(pickle.loads(pickle.dumps(stranger.refused)), ReferenceMissingError)
        known = await replica.frame("a", second, None)
        assert whole.decoded is not None
        assert known.decoded is not None
        np.testing.assert_array_equal(known.decoded.image, whole.decoded.image)

    asyncio.run(run())


def test_what_frames_refer_to_stays_within_its_budget(scene: Scene) -> None:
    store = ReferenceStore(budget=0)
    latent = CodedLatent(np.zeros((8, 4, 4), np.float32), np.zeros((2, 1, 1), np.int32))
    packet = Packet.parse(scene.packet)
    store.of("a").add(packet, latent)
    store.weigh("a")
    assert len(store.of("a")) == 1, "the only rig's frames are kept"
    store.of("b").add(packet, latent)
    store.weigh("b")
    assert (len(store.of("b")), len(store.of("a"))) == (1, 0)


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


@pytest.mark.parametrize(
    ("replicas", "cpus", "gpus", "lacking"),
    [(2, 2, 0, None), (2, 2.5, 0, "2.5 CPU"), (4, 1, 0.25, None), (4, 1, 0.3, "0.3 GPU")],
)
def test_all_replicas_together_need_what_ray_has(
    replicas: int, cpus: float, gpus: float, lacking: str | None
) -> None:
    options = FleetOptions(replicas=replicas, cpus=cpus, gpus=gpus)
    available = {"CPU": 4.0, "GPU": 1.0}
    if lacking is None:
        decoders._check_resources(available, options)
        return
    with pytest.raises(BackendError, match=f"{replicas} replicas of {lacking} each need more"):
        decoders._check_resources(available, options)


# Two replicas.

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: dsin[fleet]"
)
# Ray and what it imports warn of much that is not ours.
quiet = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetDecoder]:
    with start_fleet(FleetOptions(replicas=2, cpus=0.5, timeout_s=10)) as fleet:
        yield fleet


class NewToAll:
    """Ray's handle of replicas that know no side image; it notes what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._method = ""

    def options(self, *, method_name: str, session_id: str) -> "NewToAll":
        self._method = f"{method_name} of {session_id}"
        return self

    async def remote(self, rig: str, packet: bytes, side_number: int | None) -> FleetAnswer:
        self.asked.append((self._method, rig, side_number))
        return FleetAnswer("0", 1, side_known=side_number is None)


@needs_ray
@quiet
def test_without_the_picture_a_frame_is_decoded_alone_which_its_answer_tells() -> None:
    handle = NewToAll()
    answer = asyncio.run(FleetDecoder(handle, FleetOptions()).frame("car", b"", 7))
    assert handle.asked == [("frame of car", "car", 7), ("frame of car", "car", None)]
    assert not answer.side_known


@needs_ray
@quiet
def test_no_rig_moves(fleet: FleetDecoder, scene: Scene) -> None:
    seen: dict[str, Seen] = defaultdict(Seen)
    asyncio.run(play(fleet, scene, seen, frames=20))
    assert all(len(seen[name].homes) == 1 for name in RIGS)
    assert len({seen[name].home for name in RIGS}) == 2, "one replica did everything"
    assert all(len(seen[name].frames) == 20 and not seen[name].lost for name in RIGS)
    assert all(frame.side_known for name in RIGS for frame in seen[name].frames)


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
        with pytest.raises(FrameError, match="neither PNG nor JPEG"):
            await fleet.side("bad", b"?", 0)

    asyncio.run(run())


@needs_ray
@quiet
def test_frames_of_a_frozen_or_dying_replica_are_lost_and_the_next_ones_are_not(
    fleet: FleetDecoder,
) -> None:
    from ray import serve

    x, y = textured_pair(375, 1242, seed=4)
    with Encoder() as encoder:
        packet = bytes(encoder.encode(x, 1))
    impatient = FleetDecoder(serve.get_app_handle(APPLICATION), FleetOptions(timeout_s=1))

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
        await asyncio.sleep(0.3)  # five take longer than that, and busy machines this to send them
        os.kill(process, signal.SIGKILL)
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        assert any(isinstance(answer, ReplicaLostError) for answer in answers)
        moved = await fleet.frame("a", packet, 0, y)
        assert moved.process != process
        assert moved.side_known
        while await asyncio.to_thread(ready_replicas) < 2:
            await asyncio.sleep(0.2)

    asyncio.run(run())


@needs_ray
@quiet
def test_a_killed_replica_costs_only_its_own_rigs(fleet: FleetDecoder, scene: Scene) -> None:
    killing = asyncio.run(kill_one(fleet, scene))
    assert ready_replicas() == 2
    assert killing.homeless
    assert killing.others
    for name in killing.others:
        rig = killing.seen[name]
        assert rig.lost == 0
        assert len(rig.homes) == 1, f"{name} has moved"
        assert all(frame.side_known for frame in rig.frames)
        # The machine may be slower while the replacement starts, but nobody waits for that.
        before = rig.longest_ms(killing.begun_s, killing.killed_s)
        longest = rig.longest_ms(killing.killed_s, killing.end_s)
        assert longest - before < 500 * (killing.replaced_s - killing.killed_s)
    for name in killing.homeless:
        rig = killing.seen[name]
        assert rig.lost <= 2, "no more than what was under way"
        assert rig.homes[0] == killing.victim
        assert len(rig.homes) == 3, "away and back"
        assert rig.homes[1] in {killing.seen[other].home for other in killing.others}
        assert rig.frames[-1].side_known
