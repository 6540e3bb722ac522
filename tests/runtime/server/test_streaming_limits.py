"""What one rig can make the server hold or do, whatever it sends, and for however long."""

import asyncio
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile_peers import PATH
from support.rig_fakes import (
    CODEC,
    SIZE,
    FakeCamera,
    FakeDecoder,
    FakeEncoder,
    fake_device,
    fake_server,
    picture,
    wait_until,
)

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.errors import PacketError, StreamError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.clocks import CameraClock
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.outputs.decoded_frame import SideView
from dsin.runtime.pictures import Image
from dsin.runtime.server import rig_service
from dsin.runtime.server.camera_session import CameraSession
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.rig import ArrivedFrame
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import RecordedSideCamera, SideCameras

SECOND = 1_000_000_000


def hello(rig: str = "hostile", camera: int = dsin_v1.CAMERA_X) -> bytes:
    return dsin_v1.CameraMessage(
        hello=dsin_v1.Hello(
            protocol=1, rig=rig, camera=camera, clock=dsin_v1.CLOCK_LIVE, width=SIZE[1],
            height=SIZE[0], codec_id=CODEC, rate_points=3, session=1,
        )
    ).SerializeToString()  # fmt: skip


def frame(number: int, packet: bytes | None = None) -> bytes:
    if packet is None:
        packet = bytes(Packet(PacketHeader(CODEC, SIZE[1], SIZE[0], 0, number, number), b""))
    message = dsin_v1.EncodedFrame(packet=packet, timestamp_ns=number, frame_number=number)
    return dsin_v1.CameraMessage(frame=message).SerializeToString()


def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """How the server ends a stream whose answers are not read before that."""
    with pytest.raises(grpc.RpcError) as raised:
        for _ in call:
            pass
    return raised.value.code(), raised.value.details()


def test_figures_of_rates_do_not_grow_where_nobody_asks_for_them() -> None:
    with fake_server() as server:
        fake_device(server.address, fps=200, count=100).finish()
        rig = server.pool._rigs["front"]
        for number, (_, size) in enumerate(rig._recent):
            rig._recent[number] = (time.monotonic() - 60, size)  # as if a minute had passed
        fake_device(server.address, count=3).finish()
        assert len(rig._recent) <= 3


def test_an_answer_to_a_question_that_was_not_asked_ends_the_stream() -> None:
    """Else a flood of them would keep the event loop busy for all rigs."""
    reply = dsin_v1.ClockReply(server_send_ns=1, camera_receive_ns=2, camera_send_ns=3)
    unasked = dsin_v1.CameraMessage(clock=reply).SerializeToString()
    with fake_server() as server, grpc.insecure_channel(server.address) as channel:
        code, reason = ended(channel.stream_stream(PATH)(iter([hello(), unasked])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "was not asked" in reason


def test_what_a_clock_remembers_does_not_grow_with_the_number_of_messages() -> None:
    clock = CameraClock()
    for n in range(20_000):
        at = 1000 * SECOND + n * 10_000
        clock.reply(at, at, at, at)
        clock.watch(at, at)
    assert len(clock._exchanges) + len(clock._quickest) < 2000


@pytest.mark.parametrize("steps", range(6))
def test_asking_for_the_clock_ends_when_it_is_told_to_at_any_moment(steps: int) -> None:
    """In Python before 3.12 `asyncio.wait_for` can swallow a cancellation."""

    async def doubt_then_end() -> bool:
        camera = cast(CameraSession, ProbedCamera())
        probing = asyncio.create_task(rig_service._probe(camera, camera.ended))
        await asyncio.sleep(0.05)
        camera.doubted.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        camera.ended.set()
        probing.cancel()
        done, _ = await asyncio.wait([probing], timeout=0.3)
        if not done:
            probing.cancel()
        return bool(done)

    assert asyncio.run(doubt_then_end())


class ProbedCamera:
    def __init__(self) -> None:
        self.doubted = asyncio.Event()
        self.ended = asyncio.Event()

    def send_probe(self) -> None:
        pass


@pytest.mark.parametrize("limit", [float("inf"), float("nan"), 1e300])
def test_a_wait_without_end_is_refused(limit: float) -> None:
    """A thread that was told to wait so long would die of it."""
    with pytest.raises(StreamError, match="wait_ms"):
        PairingPolicy(wait_ms=limit)


@pytest.mark.parametrize("width", [SIZE[1], 48])
def test_a_camera_that_starts_again_after_a_crash_takes_its_own_place(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection from before, of that size or another, may seem to live for some seconds."""
    monkeypatch.setattr(rig_service, "ALIVE_S", 0.3)

    class Again(FakeCamera):
        size = (16, width)

    with fake_server() as server, grpc.insecure_channel(server.address) as channel:
        silent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        silent.put(hello("front"))
        call = channel.stream_stream(PATH)(iter(silent.get, b""))
        next(call)
        wait_until(lambda: server.pool.status()[0].camera_connected)
        again = fake_device(server.address, count=None, camera=Again(20), maker=FakeEncoder())
        wait_until(lambda: again.result is not None or again.device.counts.answered)
        assert server.pool.status()[0].width == width
        again.stop()
        assert ended(call)[0] is grpc.StatusCode.ABORTED
        silent.put(b"")


def test_failures_of_one_rig_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with fake_server() as server:

        def fail(*_: object, **__: object) -> None:
            raise PacketError("payload is damaged")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FakeDecoder, "decode", fail)
            counts = fake_device(server.address, fps=400, count=200).finish()
    told = [r for r in caplog.records if "payload is damaged" in r.getMessage()]
    assert counts.statuses["rejected"] > 20
    assert 1 <= len(told) <= 4


class OneReader:
    """A recording that, as video files, cannot be read by two threads at once."""

    size = SIZE

    def __init__(self) -> None:
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return 10

    def timestamp_ns(self, number: int) -> int:
        return number * SECOND // 10

    def image(self, number: int) -> Image:
        assert self._reading.acquire(blocking=False), "read by two threads at once"
        time.sleep(0.005)
        self._reading.release()
        return picture(number)


def test_a_recording_is_the_side_camera_of_several_rigs_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsin.runtime.server.side_cameras.open_recording", lambda *_: OneReader())
    sides = SideCameras(["recording"])
    front, rear = sides.recorded("front"), sides.recorded("rear")
    assert front is not None
    assert rear is not None

    def read(side: RecordedSideCamera, first: int) -> list[tuple[int, int]]:
        views = [(n, side.near(n * SECOND // 10)) for n in range(first, 60, 2)]
        return [(n, view.number) for n, view in views if view is not None]

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(read, *job) for job in ((front, 0), (front, 1), (rear, 0))]
        for job in done:
            assert len(job.result()) == 30
            assert all(asked == got for asked, got in job.result())


def test_a_side_image_is_prepared_once_with_several_workers() -> None:
    """Who decodes with it prepares it; no other worker does so beside."""
    pool = DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))] * 2, PairingPolicy(), print)
    rig = pool.open_rig("front", SIZE)
    rig.rate = 0  # as after a first frame
    rig.sides.add(SideView(picture(1), 1, SECOND), SECOND)
    arrived = ArrivedFrame(
        Packet(PacketHeader(CODEC, SIZE[1], SIZE[0], 0, 1, SECOND), b""), SECOND, SECOND, SECOND,
        clock_in_doubt=False, answer=lambda outcome: None,
    )  # fmt: skip
    rig.offer(arrived)
    first, _ = pool._find_job()
    assert first is not None
    assert first.frame is not None
    assert pool._find_job()[0] is None


PARTS = st.one_of(
    st.builds(frame, st.integers(0, 2**32 - 1)),
    st.builds(frame, st.integers(0, 2**32 - 1), st.binary(max_size=40)),
    st.builds(
        lambda number, picture_of, held: dsin_v1.CameraMessage(
            side=dsin_v1.SideFrame(
                picture=picture_of, frame_number=number, held_us=held, timestamp_ns=2**64 - 1
            )
        ).SerializeToString(),
        st.integers(0, 2**32 - 1),
        st.sampled_from([b"", b"\xff\xd8\xff", encode_picture(picture(1))]),
        st.integers(0, 2**32 - 1),
    ),
    st.just(
        dsin_v1.CameraMessage(
            status=dsin_v1.DeviceStatus(captured=2**64 - 1, capture_ms=float("nan"))
        ).SerializeToString()
    ),
    st.just(hello()),
    st.binary(max_size=20),
)


def test_any_sequence_of_messages_is_answered_or_ended_with_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends: list[grpc.StatusCode] = []
    with fake_server() as server, grpc.insecure_channel(server.address) as channel:

        @settings(max_examples=150, deadline=None)
        @given(camera=st.integers(0, 3), messages=st.lists(PARTS, max_size=6))
        def try_it(camera: int, messages: list[bytes]) -> None:
            call = channel.stream_stream(PATH)(iter([hello("fuzz", camera), *messages]))
            try:
                for _ in call:
                    pass
            except grpc.RpcError as error:
                ends.append(error.code())

        try_it()
        server.pool.status()
        fake_device(server.address, "good", fps=20, count=5).finish()
        wait_until(lambda: not any(rig.connected for rig in server.pool._rigs.values()))
        assert server.numbers("good")
    assert grpc.StatusCode.UNKNOWN not in ends
    faults = [record for record in caplog.records if record.levelname == "ERROR"]
    assert not faults
