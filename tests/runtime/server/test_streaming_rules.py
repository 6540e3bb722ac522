"""The rules of the streaming as literal values: turns, limits, pairing, what is kept and told."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest
from support.rig_fakes import CODEC, SIZE, FakeCamera, FakeDecoder, FakeEncoder, wait_until

from dsin.runtime import trace
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.packet import Packet, PacketHeader, Reference
from dsin.runtime.device import device as device_module
from dsin.runtime.device.device import Device, FrameSlot
from dsin.runtime.errors import FrameError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.clocks import Offset
from dsin.runtime.link.rpc import CREDITS, is_loopback
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse, SideView
from dsin.runtime.outputs.rig_status import LinkStatus, RigStatus
from dsin.runtime.server import rig as rig_module
from dsin.runtime.server.camera_session import CameraSession, RefusedError
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.rig import ArrivedFrame, FrameStatus, Outcome, Rig
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import RecordedSideCamera, SideCameras
from dsin.runtime.sources.cameras import CapturedFrame

MS = 1_000_000
IMAGE = np.zeros((*SIZE, 3), np.uint8)


def arrived(
    number: int, answers: list[Outcome], paired_ns: int = 0, *, doubt: bool = False, size: int = 10
) -> ArrivedFrame:
    header = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, number, paired_ns)
    packet = Packet(header, bytes(size))
    return ArrivedFrame(packet, paired_ns, paired_ns, paired_ns, doubt, answers.append)


def new_pool(decoded: list[DecodedFrame] | None = None, **options: Any) -> DecodePool:
    workers = [LocalWorker(cast(Decoder, FakeDecoder()))]
    policy = PairingPolicy(tolerance_ms=20, wait_ms=50, max_age_ms=300)
    return DecodePool(workers, policy, (decoded if decoded is not None else []).append, **options)


def jobs(pool: DecodePool, count: int) -> list[tuple[str, int | None]]:
    """What a worker would do next: rig, and number of the frame or None for a side image."""
    found: list[tuple[str, int | None]] = []
    for _ in range(count):
        job, _ = pool._find_job()
        assert job is not None
        job.rig.decoding = False
        found.append((job.rig.name, job.frame and job.frame.number))
    return found


# Frames that wait.


def test_the_slot_of_a_device_holds_the_newest_frame() -> None:
    for every, taken, dropped in ((False, [2], 2), (True, [0, 1, 2], 0)):
        slot = FrameSlot(ThreeFrames(), every)
        numbers = []
        if not every:
            slot._thread.join()
        while not slot.ended:
            if (frame := slot.take(5.0)) is not None:
                numbers.append(frame.number)
        assert (numbers, slot.dropped) == (taken, dropped)
        slot.close()


def test_a_device_that_wants_two_frames_reads_no_third() -> None:
    slot = FrameSlot(ThreeFrames(), every=True, most=2)
    numbers = []
    while not slot.ended:
        if (frame := slot.take(5.0)) is not None:
            numbers.append(frame.number)
    slot.close()
    assert (numbers, slot.captured, slot.dropped) == ([0, 1], 2, 0)


def test_the_time_that_a_camera_took_for_a_picture_is_traced_before_it_came() -> None:
    class Slow(ThreeFrames):
        def newest(self, timeout_s: float) -> CapturedFrame:
            return super().newest(timeout_s)._replace(capture_ms=2.5)

    trace.trace_this_process()
    before_ns = time.perf_counter_ns()
    try:
        slot = FrameSlot(Slow())
        slot._thread.join()
        slices = trace.taken_slices()
    finally:
        trace.stop_tracing()
    assert [(s.name, s.thread, s.known) for s in slices] == [
        ("capture", "capture", {"frame": number}) for number in range(3)
    ]
    assert {s.end_ns - s.start_ns for s in slices} == {2_500_000}
    assert all(before_ns < s.end_ns < time.perf_counter_ns() for s in slices)


@pytest.mark.parametrize("clock", ["live", "recording"])
def test_a_live_camera_may_come_back_and_a_recording_fails(
    clock: Literal["live", "recording"], caplog: pytest.LogCaptureFixture
) -> None:
    class Unplugged(ThreeFrames):
        unplugged = True

        def newest(self, timeout_s: float) -> CapturedFrame:
            if self.unplugged and self._next == 1:
                self.unplugged = False
                raise FrameError("unplugged")
            return super().newest(timeout_s)

    camera = Unplugged()
    camera.clock = clock
    slot = FrameSlot(camera, every=True)
    numbers = []
    while not slot.ended:
        if (frame := slot.take(5.0)) is not None:
            numbers.append(frame.number)
    slot.close()
    if clock == "live":
        slot.raise_fault()
        assert (numbers, caplog.messages) == ([0, 1, 2], ["unplugged"])
    else:
        assert (numbers, caplog.messages) == ([0], [])
        with pytest.raises(FrameError, match="unplugged"):
            slot.raise_fault()


class ThreeFrames(FakeCamera):
    """Three frames, as soon as they are asked for."""

    def __init__(self) -> None:
        super().__init__(10.0, 3, "recording")

    def newest(self, timeout_s: float) -> CapturedFrame:
        self._next += 1
        self.captured += 1
        return CapturedFrame(self._next - 1, self._next, IMAGE, 0.0, 0.0)


def test_a_camera_has_two_frames_under_way_and_a_third_ends_it() -> None:
    assert CREDITS == 2
    session = new_session(new_pool(), "x")
    session._count_under_way()
    session._count_under_way()
    with pytest.raises(RefusedError, match="under way"):
        session._count_under_way()


def test_of_three_frames_that_wait_the_oldest_is_superseded() -> None:
    pool, answers = new_pool(), cast(list[Outcome], [])
    rig = pool.open_rig("front", SIZE)
    for number in range(3):
        pool.offer(rig, arrived(number, answers))
    assert [(a.number, a.status) for a in answers] == [(0, FrameStatus.SUPERSEDED)]
    assert [frame.number for frame in rig.waiting] == [1, 2]
    (status,) = pool.status()
    assert (status.superseded, status.decoded, status.rejected) == (1, 0, 0)


def test_rigs_take_turns() -> None:
    pool, answers = new_pool(), cast(list[Outcome], [])
    for name in ("a", "b", "c"):
        rig = pool.open_rig(name, SIZE)
        for number in range(2):
            pool.offer(rig, arrived(number, answers))
    assert jobs(pool, 6) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1)]


def test_frames_of_one_rig_are_decoded_one_at_a_time() -> None:
    pool, answers = new_pool(), cast(list[Outcome], [])
    rig = pool.open_rig("a", SIZE)
    pool.offer(rig, arrived(0, answers))
    rig.decoding = True
    assert pool._find_job() == (None, None)


def test_a_frame_waits_50_ms_for_its_side_image_and_no_longer() -> None:
    pool, answers = new_pool(), cast(list[Outcome], [])
    rig = pool.open_rig("a", SIZE)
    frame = arrived(0, answers, 1000 * MS)
    pool.offer(rig, frame)
    assert rig.due(frame.queued_s) == 0
    pool.side_joined(rig)
    assert rig.due(frame.queued_s) == pytest.approx(0.05)
    assert rig.due(frame.queued_s + 0.02) == pytest.approx(0.03)
    assert rig.due(frame.queued_s + 0.06) == 0
    pool.offer_side(rig, SideView(IMAGE, 0, 0), 1000 * MS)
    assert rig.due(frame.queued_s) == 0


# Side images.


def decoded_one(pool: DecodePool, rig: Rig, frame: ArrivedFrame, answers: list[Outcome]) -> Outcome:
    before = len(answers)
    pool.offer(rig, frame)
    wait_until(lambda: len(answers) > before)
    return answers[-1]


@pytest.mark.parametrize(
    ("of_frame", "of_side", "use"),
    [
        (False, False, SideUse.PAIRED),
        (True, False, SideUse.CLOCK_UNCERTAIN),
        (False, True, SideUse.CLOCK_UNCERTAIN),
    ],
)
def test_a_clock_in_doubt_is_told_whichever_cameras_it_is(
    of_frame: bool, of_side: bool, use: SideUse
) -> None:
    decoded: list[DecodedFrame] = []
    answers: list[Outcome] = []
    with new_pool(decoded) as pool:
        rig = pool.open_rig("a", SIZE)
        pool.offer_side(rig, SideView(IMAGE, 0, 0), 1000 * MS, clock_in_doubt=of_side)
        outcome = decoded_one(pool, rig, arrived(0, answers, 1000 * MS, doubt=of_frame), answers)
    assert outcome.side_use is use
    assert decoded[0].side_use is use


def test_a_side_image_is_prepared_while_nothing_waits() -> None:
    """Once the rate of the rig is known; only the newest, and once."""
    pool, answers = new_pool(), cast(list[Outcome], [])
    rig = pool.open_rig("a", SIZE)
    pool.offer_side(rig, SideView(IMAGE, 0, 0), 0)
    assert pool._find_job() == (None, None)
    rig.rate = 1
    pool.offer_side(rig, SideView(IMAGE, 1, 0), 100 * MS)
    pool.offer(rig, arrived(0, answers, 600 * MS))
    assert jobs(pool, 2) == [("a", 0), ("a", None)]
    assert rig.sides.newest is not None
    assert rig.sides.newest.preparing
    assert pool._find_job() == (None, None)


def test_of_a_rigs_side_images_four_are_kept_and_two_stay_prepared() -> None:
    pool = new_pool()
    rig = pool.open_rig("a", SIZE)
    stored = []
    for number in range(6):
        stored.append(rig.sides.add(SideView(IMAGE, number, 0), number * 100 * MS))
        stored[-1].prepared = cast(Any, "prepared")
    rig.sides.add(SideView(IMAGE, 6, 0), 600 * MS)
    assert [s.view.number for s in rig.sides._stored] == [3, 4, 5, 6]
    assert [s.prepared is not None for s in stored] == [False] * 5 + [True]


def test_side_images_of_a_rig_that_left_are_let_go_of() -> None:
    pool = new_pool()
    rig = pool.open_rig("a", SIZE)
    for join, leave in (
        (pool.side_joined, pool.side_left),
        (lambda rig: pool.camera_joined(rig, lambda: None), pool.camera_left),
    ):
        join(rig)
        pool.offer_side(rig, SideView(IMAGE, 0, 0), 0)
        leave(rig)
        assert rig.sides.newest is None


class Recorded:
    """A recording with pictures at these times, in milliseconds."""

    size = SIZE

    def __init__(self, times_ms: Sequence[int]) -> None:
        self.times_ms = times_ms

    def __len__(self) -> int:
        return len(self.times_ms)

    def timestamp_ns(self, number: int) -> int:
        return self.times_ms[number] * MS

    def image(self, number: int) -> Any:
        return np.full((*SIZE, 3), number, np.uint8)


@pytest.mark.parametrize(
    ("at_ms", "number"),
    [
        (1000, 0), (939, None), (941, 0), (1051, 1), (1159, 1), (1161, None), (1239, None),
        (1241, 2), (1661, 6), (1659, 5), (1720, 6), (1820, 7), (1900, None),
    ],
)  # fmt: skip
def test_a_recorded_side_image_is_within_half_an_interval(at_ms: int, number: int | None) -> None:
    """Of 120 ms, the mean. There is a gap after 1100; after 1600 it begins again, at 1720."""
    camera = RecordedSideCamera(cast(Any, Recorded([1000, 1100, 1300, 1400, 1500, 1600])))
    assert camera.interval_ns == 120 * MS
    found = camera.near(at_ms * MS)
    assert (None if found is None else found.number) == number
    if found is not None:
        assert found.image[0, 0, 0] == found.number % 6


def test_the_next_side_image_of_a_recording_is_prepared_ahead() -> None:
    answers: list[Outcome] = []
    local = RecordedSideCamera(cast(Any, Recorded([1000, 1100, 1200, 1300])))
    with new_pool() as pool:
        rig = pool.open_rig("a", SIZE, local)
        outcome = decoded_one(pool, rig, arrived(0, answers, 1000 * MS), answers)
        assert outcome.side_use is SideUse.PAIRED

        def ahead() -> bool:
            newest = rig.sides.newest
            return newest is not None and newest.view.number == 1 and newest.prepared is not None

        wait_until(ahead, what="side image 1")


# What is asked and told.


def new_session(pool: DecodePool, letter: str) -> CameraSession:
    hello = dsin_v1.Hello(
        camera=dsin_v1.CAMERA_X if letter == "x" else dsin_v1.CAMERA_Y, clock=dsin_v1.CLOCK_LIVE
    )
    rig = pool.open_rig("a", SIZE)
    return CameraSession(pool, SideCameras(), rig, hello, cast(Any, None))


def test_sixteen_questions_for_the_time_may_be_unanswered() -> None:
    session = new_session(new_pool(), "x")
    for _ in range(40):
        session.send_probe()
    assert session.outgoing.qsize() == 16


def test_figures_of_a_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over five seconds: four frames of 1032 bytes are 0.8 a second and 6.6 kbit/s."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(rig_module.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(rig_module, "now_ns", lambda: 2050 * MS)
    rig = Rig("a", SIZE, PairingPolicy(), None)
    answers: list[Outcome] = []
    for number in range(5):
        now.s = 100.0 + number
        frame = arrived(number, answers, 2000 * MS, size=1000)
        rig.finish(frame, FrameStatus.DECODED, SideUse.PAIRED, 7.0, "", 3.0)
    assert answers[-1] == Outcome(4, FrameStatus.DECODED, SideUse.PAIRED, 7.0, 50.0, "", 3.0)
    now.s = 105.5
    status = rig.status()
    assert (status.fps, status.kbps) == (pytest.approx(0.8), pytest.approx(4 * 1032 * 8 / 5000))
    assert (status.decoded, status.side_uses, status.newest_age_ms) == (5, {"paired": 5}, 50.0)


def test_everything_that_is_counted_of_a_rig_is_in_its_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rig_module.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(rig_module, "now_ns", lambda: 2050 * MS)
    rig = Rig("a", SIZE, PairingPolicy(), None)
    assert rig.status() == RigStatus(
        "a", False, False, SIZE[1], SIZE[0], 0, 0, 0, {}, 0.0, 0.0, None, None, None, {}
    )
    answers: list[Outcome] = []
    referring = PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 1, 0, Reference(0, 7))
    whole = arrived(0, answers, 2000 * MS)
    for frame, use in (
        (whole, SideUse.MISSING), (replace(whole, packet=Packet(referring, b"")), SideUse.PAIRED),
    ):  # fmt: skip
        rig.finish(frame, FrameStatus.DECODED, use)
    rig.finish(whole, FrameStatus.REJECTED, reason="packet is damaged")
    for number in range(3):
        rig.offer(arrived(number, answers))
    rig.count(FrameStatus.REJECTED)
    rig.camera_connected = True
    rig.device = {"captured": 9.0}
    rig.clock = lambda: Offset(3_000_000, 500_000)
    rig.link.begin("grpc")
    size = sum(len(packet) for packet in (whole.packet, Packet(referring, b"")))
    assert rig.status() == RigStatus(
        "a", True, False, SIZE[1], SIZE[0], decoded=2, superseded=1, rejected=2, referring=1,
        side_uses={"missing": 1, "paired": 1}, kbps=pytest.approx(8 * size / 5000), fps=0.4,
        newest_age_ms=50.0, clock_offset_ms=3.0, clock_error_ms=0.5, device={"captured": 9.0},
        link=LinkStatus("grpc"),
    )  # fmt: skip
    assert [(outcome.status, outcome.reason) for outcome in answers] == [
        (FrameStatus.DECODED, ""), (FrameStatus.DECODED, ""),
        (FrameStatus.REJECTED, "packet is damaged"), (FrameStatus.SUPERSEDED, ""),
    ]  # fmt: skip


def test_what_is_wrong_with_a_rig_is_logged_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(rig_module.time, "monotonic", lambda: now.s)
    rig = Rig("a", SIZE, PairingPolicy(), None)
    for word, step_s in (("one", 0.9), ("two", 0.1), ("three", 0.5), ("four", 0.5), ("five", 0)):
        rig.complain(word)
        now.s += step_s
    assert caplog.messages == ["rig a, one", "rig a, three", "rig a, five"]


def test_a_rig_may_need_350_bytes_a_pixel() -> None:
    rig = Rig("a", (375, 1242), PairingPolicy(), None)
    assert rig.budget_bytes == 163_012_500


def test_the_rate_control_is_told_how_many_frames_are_really_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After ten frames, one every 200 ms."""
    paces: list[float] = []
    maker = FakeEncoder()
    maker.controller = cast(Any, SimpleNamespace(pace=paces.append))
    for every in (False, True):
        device = Device(FakeCamera(30.0, 1), cast(Any, maker), "127.0.0.1:1", "a", every=every)
        times = iter(range(100))
        clock = SimpleNamespace(monotonic=lambda times=times: next(times) / 5)
        monkeypatch.setattr(device_module, "time", clock)
        for _ in range(11):
            device._steer()
        assert paces == pytest.approx([] if every and not paces else [5.0, 5.0])


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True),
        ("localhost.example.org", False), ("127.0.0.1.example.org", False), ("server", False),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("192.168.1.2", False), ("", False),
    ],
)  # fmt: skip
def test_plaintext_is_for_hosts_that_are_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) == here


def test_no_thread_is_left() -> None:
    assert not [t for t in threading.enumerate() if t.name.startswith("decode-")]
