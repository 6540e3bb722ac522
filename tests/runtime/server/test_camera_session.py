"""What a camera is answered, message by message."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from support.rig_fakes import CODEC, SIZE, FakeDecoder, picture

from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.outputs.decoded_frame import SideUse, SideView
from dsin.runtime.server.camera_session import CameraSession
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.rig import FrameStatus, Outcome
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import SideCameras


def new_pool() -> DecodePool:
    """Nobody decodes: frames stay where they wait."""
    return DecodePool([LocalWorker(cast(Decoder, FakeDecoder()))], PairingPolicy(), print)


def new_session(pool: DecodePool, camera: Any, sides: SideCameras | None = None) -> CameraSession:
    hello = dsin_v1.Hello(
        camera=camera, clock=dsin_v1.CLOCK_RECORDING, height=SIZE[0], width=SIZE[1], session=1
    )
    rig = pool.open_rig("front", SIZE)
    loop = asyncio.get_running_loop()
    return CameraSession(pool, sides or SideCameras(), rig, hello, loop)


def frame(
    number: int, size: tuple[int, int] = SIZE, timestamp_ns: int = 7, codec_id: bytes = CODEC
) -> dsin_v1.CameraMessage:
    header = PacketHeader(codec_id, size[1], size[0], 0, number, timestamp_ns)
    packet = bytes(Packet(header, b"payload"))
    sent = dsin_v1.EncodedFrame(packet=packet, frame_number=number, timestamp_ns=7)
    return dsin_v1.CameraMessage(frame=sent)


def side(number: int, size: tuple[int, int] = SIZE) -> dsin_v1.CameraMessage:
    sent = dsin_v1.SideFrame(picture=encode_picture(picture(1, size)), frame_number=number)
    return dsin_v1.CameraMessage(side=sent)


def answers(
    pool: DecodePool, camera: Any, messages: Sequence[dsin_v1.CameraMessage]
) -> list[tuple[int, str, str]]:
    """Number, status and reason of each frame that is answered."""

    async def told() -> list[tuple[int, str, str]]:
        session, found = new_session(pool, camera), []
        for message in messages:
            await session.take(message)
            if not session.outgoing.empty():
                ack = (await session.next_message()).ack
                found.append((ack.frame_number, dsin_v1.FrameStatus.Name(ack.status), ack.reason))
        return found

    return asyncio.run(told())


def test_frames_that_are_not_what_was_announced_are_rejected_in_words() -> None:
    pool = new_pool()
    number = frame(4)
    number.frame.frame_number = 6
    sent = [frame(3), frame(3), frame(2), frame(4, (16, 48)), frame(5, timestamp_ns=8), number]
    assert answers(pool, dsin_v1.CAMERA_X, sent) == [
        (3, "REJECTED", "frame 3 comes after frame 3"),
        (2, "REJECTED", "frame 2 comes after frame 3"),
        (4, "REJECTED", "packet is 48x16, not of the size in the greeting"),
        (5, "REJECTED", "packet and message differ in frame number or time"),
        (6, "REJECTED", "packet and message differ in frame number or time"),
    ]
    (rig,) = pool.status()
    assert rig.rejected == 5
    assert [waiting.number for waiting in pool.open_rig("front", SIZE).waiting] == [3]


def test_side_images_are_stored_or_rejected_in_words() -> None:
    pool = new_pool()
    sent = [side(3), side(3), side(2), side(4, (16, 48)), side(4)]
    assert answers(pool, dsin_v1.CAMERA_Y, sent) == [
        (3, "STORED", ""),
        (3, "REJECTED", "side frame 3 comes after side frame 3"),
        (2, "REJECTED", "side frame 2 comes after side frame 3"),
        (4, "REJECTED", "side image is 48x16, but the stream is of 24x16"),
        (4, "STORED", ""),
    ]
    newest = pool.open_rig("front", SIZE).sides.newest
    assert newest is not None
    assert newest.view.number == 4


def test_a_camera_that_may_be_gone_is_asked_at_once() -> None:
    """Whether it answers is known the sooner."""

    async def lives(answer: bool) -> tuple[bool, bool]:
        session = new_session(new_pool(), dsin_v1.CAMERA_X)
        looking = asyncio.create_task(session.shows_life(0.05))
        await asyncio.sleep(0)
        asked = session.doubted.is_set()
        if answer:
            await session.take(dsin_v1.CameraMessage(status=dsin_v1.DeviceStatus()))
        return asked, await looking

    assert asyncio.run(lives(True)) == (True, True)
    assert asyncio.run(lives(False)) == (True, False)


def test_the_first_reason_for_an_end_stays() -> None:
    async def ended() -> Any:
        session = new_session(new_pool(), dsin_v1.CAMERA_X)
        session.take_fault("a piece of no frame")
        session.take_fault("another one")
        assert session.ended.is_set()
        return session.end_status

    code, reason = asyncio.run(ended())
    assert (code.name, reason) == ("INVALID_ARGUMENT", "a piece of no frame")


def test_what_comes_in_datagrams_is_taken_or_ends_the_stream() -> None:
    """A goodbye ends it too, without a reason."""

    async def ended_by(what: bytes | dsin_v1.CameraMessage) -> tuple[bool, str | None]:
        session = new_session(new_pool(), dsin_v1.CAMERA_X)
        if isinstance(what, bytes):
            session.take_body(1, what, 0)
        else:
            session.take_message(what, 0)
        assert session._heard == 1
        return session.ended.is_set(), session.end_status and session.end_status[1]

    status = dsin_v1.CameraMessage(status=dsin_v1.DeviceStatus())
    assert asyncio.run(ended_by(status)) == (False, None)
    assert asyncio.run(ended_by(dsin_v1.CameraMessage(bye=dsin_v1.Bye()))) == (True, None)
    hello = dsin_v1.CameraMessage(hello=dsin_v1.Hello())
    assert asyncio.run(ended_by(hello)) == (True, "camera x must not send hello now")
    assert asyncio.run(ended_by(b"")) == (True, "a frame of 0 bytes")


def test_with_camera_x_comes_the_servers_own_live_camera_in_the_rigs_size() -> None:
    fed: list[tuple[str, Any]] = []
    sides: Any = SimpleNamespace(
        live_size=lambda rig: (2 * SIZE[0], 2 * SIZE[1]), feed=lambda *given: fed.append(given)
    )

    async def story() -> None:
        pool = new_pool()
        session = new_session(pool, dsin_v1.CAMERA_X, sides)
        session.join()
        (name, take), *others = fed
        assert (name, others) == ("front", [])
        (rig,) = pool.status()
        assert (rig.camera_connected, rig.side_connected) == (True, True)
        view = SideView(picture(5, (2 * SIZE[0], 2 * SIZE[1])), 5, 77)
        take(view, 99)
        newest = pool.open_rig("front", SIZE).sides.newest
        assert newest is not None
        assert (newest.view.number, newest.view.timestamp_ns, newest.captured_ns) == (5, 77, 99)
        assert newest.view.image.shape == (*SIZE, 3)
        session.leave()
        assert fed[1:] == [("front", None)]
        (rig,) = pool.status()
        assert (rig.camera_connected, rig.side_connected) == (False, False)

    asyncio.run(story())


def test_an_answer_has_everything_that_is_known_of_the_frame() -> None:
    async def answered(outcome: Outcome) -> dsin_v1.Ack:
        session = new_session(new_pool(), dsin_v1.CAMERA_X)
        session._answer_from_pool(outcome)
        return (await session.next_message()).ack

    whole = Outcome(3, FrameStatus.DECODED, SideUse.CLOCK_UNCERTAIN, 12.5, 60.0, "", 2.5)
    ack = asyncio.run(answered(whole))
    assert ack == dsin_v1.Ack(
        frame_number=3, status=dsin_v1.DECODED, side_use=dsin_v1.CLOCK_UNCERTAIN,
        server_time_ns=ack.server_time_ns, decode_ms=12.5, age_ms=60.0, waited_ms=2.5,
    )  # fmt: skip
    assert ack.server_time_ns > 10**18
    refused = Outcome(4, FrameStatus.REJECTED, reason="no frame 2", reference_missing=True)
    ack = asyncio.run(answered(refused))
    assert ack == dsin_v1.Ack(
        frame_number=4, status=dsin_v1.REJECTED, server_time_ns=ack.server_time_ns,
        reason="no frame 2", reference_missing=True,
    )  # fmt: skip
