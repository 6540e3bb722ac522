"""What the pool is told of a rig's cameras: who joined, who left, how the device fares."""

import time
from typing import cast

import numpy as np
import pytest
from support.rig_fakes import CODEC, SIZE, FakeDecoder, picture, wait_until

from dsin.runtime import trace
from dsin.runtime.codec.decoder import Decoded, Decoder
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.errors import PacketError, ReferenceMissingError, StreamError
from dsin.runtime.link.clocks import Offset
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.server import decode_pool
from dsin.runtime.server.decode_pool import DecodePool, NoRoomError
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.rig import ArrivedFrame, FrameStatus, Outcome, Rig
from dsin.runtime.server.side_buffer import PairingPolicy


@pytest.fixture
def pool() -> DecodePool:
    """One that was not started: nothing is decoded."""
    return DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))], PairingPolicy(), print)


@pytest.fixture
def rig(pool: DecodePool) -> Rig:
    return pool.open_rig("front", SIZE)


def status(pool: DecodePool) -> RigStatus:
    (only,) = pool.status()
    return only


def test_cameras_join_and_leave_on_their_own(pool: DecodePool, rig: Rig) -> None:
    def connected() -> tuple[bool, bool]:
        return status(pool).camera_connected, status(pool).side_connected

    assert connected() == (False, False)
    pool.camera_joined(rig, lambda: None)
    assert connected() == (True, False)
    pool.side_joined(rig)
    assert connected() == (True, True)
    pool.camera_left(rig)
    assert connected() == (False, True)
    pool.side_left(rig)
    assert connected() == (False, False)


def test_the_clock_that_a_camera_joins_with_is_asked_each_time(pool: DecodePool, rig: Rig) -> None:
    known: list[Offset] = []
    pool.camera_joined(rig, lambda: known[-1] if known else None)
    assert status(pool).clock_offset_ms is None
    known.append(Offset(3_000_000, 500_000))
    assert (status(pool).clock_offset_ms, status(pool).clock_error_ms) == (3.0, 0.5)


def test_side_images_are_kept_until_both_cameras_are_gone(pool: DecodePool, rig: Rig) -> None:
    pool.camera_joined(rig, lambda: None)
    pool.side_joined(rig)
    pool.offer_side(rig, SideView(np.zeros((*SIZE, 3), np.uint8), 0, 0), 0)
    pool.side_left(rig)
    assert rig.sides.newest is not None
    pool.camera_left(rig)
    assert rig.sides.newest is None


def test_what_the_device_reported_last_is_shown(pool: DecodePool, rig: Rig) -> None:
    pool.device_reported(rig, {"captured": 7.0})
    pool.device_reported(rig, {"captured": 9.0, "dropped": 1.0})
    assert status(pool).device == {"captured": 9.0, "dropped": 1.0}


def test_a_rig_that_is_connected_keeps_its_size(pool: DecodePool, rig: Rig) -> None:
    pool.side_joined(rig)
    with pytest.raises(StreamError) as refused:
        pool.open_rig("front", (32, 48))
    assert str(refused.value) == (
        "rig front is connected with pictures of 24x16, not 48x32: both cameras need one size"
    )
    assert pool.open_rig("front", SIZE) is rig
    pool.side_left(rig)
    assert pool.open_rig("front", (32, 48)).size == (32, 48)


def test_a_fault_while_decoding_one_rig_does_not_end_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The camera is told to look into the log, which has the traceback."""
    decoded: list[str] = []

    def show(frame: DecodedFrame) -> None:
        if frame.rig == "front":
            raise ZeroDivisionError("a fault")
        decoded.append(frame.rig)

    pool = DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))], PairingPolicy(), show)
    with pool:
        for name in ("front", "rear"):
            header = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 3, 0)
            arrived = ArrivedFrame(Packet(header, b""), 0, 0, 0, False, lambda outcome: None)
            pool.offer(pool.open_rig(name, SIZE), arrived)
    assert decoded == ["rear"]
    (record,) = caplog.records
    assert record.getMessage() == "internal fault while decoding for rig front"
    assert record.exc_info is not None


def test_a_rig_for_which_there_is_no_memory_is_told_how_much_there_is() -> None:
    """Those that are not connected take none."""
    workers = [LocalWorker(cast(Decoder, FakeDecoder()))]
    pool = DecodePool(workers, PairingPolicy(), print, budget_mib=10.0)
    large = (128, 128)  # 350 bytes a pixel are 5.5 MiB
    front = pool.open_rig("front", large)
    pool.open_rig("rear", large)
    pool.camera_joined(front, lambda: None)
    assert pool.open_rig("front", large) is front
    with pytest.raises(NoRoomError) as refused:
        pool.open_rig("rear", large)
    assert str(refused.value) == (
        "rig rear needs 5 MiB, and of the server's 10 MiB 5 are taken: try again later"
    )
    pool.camera_left(front)
    pool.camera_joined(pool.open_rig("rear", large), lambda: None)


def test_of_rigs_that_left_only_some_are_remembered(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest give way, but none that is connected."""
    monkeypatch.setattr(decode_pool, "MOST_RIGS", 3)
    pool.camera_joined(pool.open_rig("here", SIZE), lambda: None)
    for name in ("a", "b", "c", "d"):
        pool.open_rig(name, SIZE)
    assert [rig.rig for rig in pool.status()] == ["c", "d", "here"]


def test_what_packets_may_refer_to_begins_with_the_camera(pool: DecodePool, rig: Rig) -> None:
    pool.camera_joined(rig, lambda: None)
    assert rig.references is None
    pool.camera_joined(rig, lambda: None, references=True)
    assert isinstance(rig.references, DecodedFrames)
    pool.camera_left(rig)
    assert rig.references is None


def test_side_images_whose_times_were_wrong_are_discarded(pool: DecodePool, rig: Rig) -> None:
    for doubt in (False, True):
        view = SideView(np.zeros((*SIZE, 3), np.uint8), 1, 2)
        pool.offer_side(rig, view, 77, clock_in_doubt=doubt)
        newest = rig.sides.newest
        assert newest is not None
        assert (newest.view, newest.captured_ns, newest.clock_in_doubt) == (view, 77, doubt)
    pool.offer_side(rig, view, 78)
    assert rig.sides.newest is not None
    assert not rig.sides.newest.clock_in_doubt
    pool.forget_sides(rig)
    assert rig.sides.newest is None


def test_a_frame_that_is_no_packet_of_the_rig_is_counted(pool: DecodePool, rig: Rig) -> None:
    pool.reject(rig)
    assert (status(pool).rejected, status(pool).decoded) == (1, 0)


class Failing(FakeDecoder):
    """Refuses every packet with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def decode(self, *_: object, **__: object) -> Decoded:
        raise self._error


def decoded_by(
    decoder: FakeDecoder, *, side: bool, doubt: bool = False
) -> tuple[list[DecodedFrame], Outcome, Rig]:
    """What becomes of one frame, with a side image of its moment or without."""
    frames: list[DecodedFrame] = []
    outcomes: list[Outcome] = []
    pool = DecodePool([LocalWorker(cast(Decoder, decoder))], PairingPolicy(), frames.append)
    rig = pool.open_rig("front", SIZE)
    if side:
        pool.offer_side(rig, SideView(np.zeros((*SIZE, 3), np.uint8), 8, 1000), 1000)
    header = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 3, 900)
    arrived = ArrivedFrame(Packet(header, b"data"), 1000, 950, 960, doubt, outcomes.append)
    with pool:
        pool.offer(rig, arrived)
    (outcome,) = outcomes
    return frames, outcome, rig


@pytest.mark.parametrize(
    ("side", "doubt", "use"),
    [
        (True, False, SideUse.PAIRED), (True, True, SideUse.CLOCK_UNCERTAIN),
        (False, False, SideUse.MISSING), (False, True, SideUse.MISSING),
    ],
)  # fmt: skip
def test_a_decoded_frame_has_its_times_its_side_image_and_its_stages(
    side: bool, doubt: bool, use: SideUse
) -> None:
    (frame,), outcome, rig = decoded_by(FakeDecoder(), side=side, doubt=doubt)
    assert (frame.rig, frame.number, frame.side_use) == ("front", 3, use)
    assert (frame.timestamp_ns, frame.captured_ns, frame.received_ns) == (900, 950, 960)
    assert frame.decoded_ns > 10**18
    assert frame.packet == bytes(Packet(PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 3, 900), b"data"))
    assert (frame.side is not None and frame.side.number == 8) == side
    expected = ["side.compute", "server.x_decoder"] if side else ["server.x_decoder"]
    assert list(frame.stage_ms) == expected
    assert np.array_equal(frame.decoded.image, picture(3))
    assert outcome == Outcome(
        3, FrameStatus.DECODED, use, outcome.decode_ms, outcome.age_ms, "", frame.waited_ms
    )
    assert outcome.decode_ms >= 0
    assert frame.waited_ms >= 0
    assert (rig.decoding, rig.rate) == (False, 0)


@pytest.mark.parametrize(
    ("error", "missing"),
    [(PacketError("packet is damaged"), False), (ReferenceMissingError("no frame 2"), True)],
)
def test_a_packet_that_is_refused_is_answered_and_logged_with_the_reason(
    caplog: pytest.LogCaptureFixture, error: Exception, missing: bool
) -> None:
    frames, outcome, rig = decoded_by(Failing(error), side=False)
    assert frames == []
    assert outcome == Outcome(
        3, FrameStatus.REJECTED, SideUse.MISSING, 0.0, outcome.age_ms, str(error),
        outcome.waited_ms, missing,
    )  # fmt: skip
    assert caplog.messages == [f"rig front, frame 3: {error}"]
    assert not rig.decoding


def test_a_fault_is_answered_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    """Which are for the server's log."""
    _, outcome, _ = decoded_by(Failing(ZeroDivisionError("secret")), side=False)
    assert outcome.status is FrameStatus.REJECTED
    assert outcome.reason == "internal fault, see the server's log"
    assert caplog.messages == ["internal fault while decoding for rig front"]


def test_a_worker_prepares_a_side_image_while_nothing_waits_and_goes_on() -> None:
    """At once, and then decodes the next frame with it."""
    frames: list[DecodedFrame] = []
    pool = DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))], PairingPolicy(), frames.append)
    rig = pool.open_rig("front", SIZE)

    def offer(number: int, at_ns: int) -> None:
        header = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, number, at_ns)
        pool.offer(
            rig, ArrivedFrame(Packet(header, b""), at_ns, at_ns, at_ns, False, lambda outcome: None)
        )

    with pool:
        offer(3, 1000)
        wait_until(lambda: frames)
        pool.offer_side(rig, SideView(np.zeros((*SIZE, 3), np.uint8), 8, 2000), 2000)
        newest = rig.sides.newest
        assert newest is not None
        wait_until(lambda: newest.prepared)
        offer(4, 2000)
        wait_until(lambda: len(frames) == 2)
    assert [frame.side_use for frame in frames] == [SideUse.MISSING, SideUse.PAIRED]


def test_a_frame_waits_no_longer_for_a_camera_that_is_gone() -> None:
    frames: list[DecodedFrame] = []
    policy = PairingPolicy(wait_ms=60_000)
    pool = DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))], policy, frames.append)
    rig = pool.open_rig("front", SIZE)
    pool.camera_joined(rig, lambda: None)
    pool.side_joined(rig)
    header = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 3, 0)
    with pool:
        pool.offer(rig, ArrivedFrame(Packet(header, b""), 0, 0, 0, False, lambda outcome: None))
        time.sleep(0.05)
        assert frames == []
        pool.side_left(rig)
        wait_until(lambda: frames)


def test_what_a_worker_does_is_traced_by_frame_rig_rate_and_size() -> None:
    trace.trace_this_process()
    try:
        decoded_by(FakeDecoder(), side=False)
        slices = trace.taken_slices()
    finally:
        trace.stop_tracing()
    size = len(Packet(PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 3, 900), b"data"))
    assert [(s.name, s.thread, s.known) for s in slices if s.name in ("frame", "hand over")] == [
        ("hand over", "decode-0", {"frame": 3}),
        ("frame", "decode-0", {"rig": "front", "rate": 0, "bytes": size, "frame": 3}),
    ]
