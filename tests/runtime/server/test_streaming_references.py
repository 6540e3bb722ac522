"""Frames that refer to earlier ones, streamed with the real codec: over gRPC and in datagrams."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from support.rig_fakes import FakeCamera, Running, wait_until

from dsin.runtime import Decoder, Encoder, Packet, open_bundle
from dsin.runtime.codec.packet import PacketHeader, Reference
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device.device import AnsweredFrame, Device, MadeFrame, PacketMaker
from dsin.runtime.device.stream_client import Transport
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.outputs.rig_status import RigStatus
from dsin.runtime.pictures import Image
from dsin.runtime.server.camera_session import CameraSession
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.sources.cameras import CapturedFrame
from dsin.runtime.sources.synthetic_rig import SyntheticRig

SIZE = (96, 128)


class StandingCamera(FakeCamera):
    """One picture with a sensor's noise, and a bar that moves a little."""

    size = SIZE

    def __init__(self, count: int) -> None:
        super().__init__(200, count, every=True)
        self._scene = SyntheticRig(width=SIZE[1], height=SIZE[0], frames=1).view(0, "left")

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        frame = super().newest(timeout_s)
        return frame and frame._replace(image=self.image(frame.number))

    def image(self, number: int) -> Image:
        noise = np.random.default_rng(number).normal(0, 2, self._scene.shape)
        image = np.clip(np.rint(self._scene + noise), 0, 255).astype(np.uint8)
        image[40:48, 4 * number % 100 : 4 * number % 100 + 12] = 255
        return image


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    with Encoder(open_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(open_bundle(), threads=1) as opened:
        yield opened


class Server:
    """What it decoded, and the address it is at."""

    def __init__(self, pool: DecodePool, port: int, frames: list[DecodedFrame]) -> None:
        self.pool, self.frames = pool, frames
        self.address = f"127.0.0.1:{port}"

    def status(self) -> RigStatus:
        (status,) = self.pool.status()
        return status


@contextmanager
def server(decoder: Decoder) -> Iterator[Server]:
    frames: list[DecodedFrame] = []
    with (
        DecodePool([LocalWorker(decoder)], PairingPolicy(), frames.append) as pool,
        StreamServer(pool, "127.0.0.1", 0) as listening,
    ):
        yield Server(pool, listening.port, frames)


def device(
    address: str, maker: PacketMaker, camera: FakeCamera, transport: Transport = "grpc"
) -> tuple[Running, list[AnsweredFrame]]:
    answers: list[AnsweredFrame] = []
    made = Device(
        camera, maker, address, "front", every=True, transport=transport, on_frame=answers.append
    )
    return Running(made), answers


def references(frames: list[DecodedFrame]) -> list[Reference | None]:
    return [Packet.parse(frame.packet).header.reference for frame in frames]


@pytest.mark.parametrize("transport", ["grpc", "datagram"])
def test_a_standing_camera_sends_what_has_changed_and_gets_it_right(
    encoder: Encoder, decoder: Decoder, transport: Transport
) -> None:
    camera = StandingCamera(14)
    with server(decoder) as here:
        running, answers = device(here.address, PacketMaker(encoder, 5), camera, transport)
        running.finish()
        status = here.status()
    assert {answer.status for answer in answers} == {"decoded"}
    found = references(here.frames)
    assert found[0] is None
    assert status.referring == sum(reference is not None for reference in found) >= 10
    sizes = {frame.number: len(frame.packet) for frame in here.frames}
    assert np.median(list(sizes.values())) < 0.6 * sizes[0]
    for frame in here.frames:
        image = camera.image(frame.number).astype(float)
        alone = decoder.decode(encoder.encode(camera.image(frame.number), 5), None).image
        errors = [np.mean((picture - image) ** 2) for picture in (frame.decoded.image, alone)]
        assert errors[0] < 1.1 * errors[1], frame.number


def test_a_server_that_lost_the_reference_gets_a_frame_that_stands_alone(
    encoder: Encoder, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = decoder.decode

    def forgetful(packet: Packet, side: object, *, references: object) -> object:
        if packet.header.frame_number == 6:
            references.clear()  # type: ignore[attr-defined]
        return decode(packet, side, references=references)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder, "decode", forgetful)
    with server(decoder) as here:
        running, answers = device(here.address, PacketMaker(encoder), StandingCamera(16))
        running.finish()
    lost = [answer for answer in answers if answer.status == "rejected"]
    assert 1 <= len(lost) <= 3
    assert "which is not among the last frames" in lost[0].reason
    found = {f.number: r for f, r in zip(here.frames, references(here.frames), strict=True)}
    after = [number for number in found if number > 6]
    assert found[after[0]] is None
    assert all(found[number] is not None for number in after[3:])


@pytest.mark.parametrize("why", ["asked", "old server", "family"])
def test_all_stand_alone_where_they_are_to(
    encoder: Encoder, decoder: Decoder, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "old server":
        monkeypatch.setattr(CameraSession, "takes_references", False)
    maker = PacketMaker(encoder, independent=why == "asked")
    if why == "family":
        monkeypatch.setattr(type(decoder.bundle), "refers", False)
    with server(decoder) as here:
        running, _ = device(here.address, maker, StandingCamera(5))
        running.finish()
        assert (here.status().decoded, here.status().referring) == (5, 0)
    assert references(here.frames) == [None] * 5


def test_a_peer_that_claims_what_was_never_confirmed_is_refused_frame_by_frame(
    encoder: Encoder, decoder: Decoder
) -> None:
    class Liar(PacketMaker):
        def make(self, frame: CapturedFrame) -> MadeFrame:
            header = PacketHeader(
                self.codec_id, SIZE[1], SIZE[0], 2, frame.number, frame.timestamp_ns,
                Reference(frame.number - 1 if frame.number else 2**32 - 1, 7),
            )  # fmt: skip
            data = bytes(Packet(header, bytes(40)))
            return MadeFrame(
                frame.number, frame.timestamp_ns, frame.taken_s, data, 2, {"capture": 0.0}
            )

    with server(decoder) as here:
        running, answers = device(here.address, Liar(encoder), StandingCamera(20))
        wait_until(lambda: len(answers) == 20)
        running.finish()
        assert (here.status().decoded, here.status().rejected) == (0, 20)
    assert {answer.status for answer in answers} == {"rejected"}


def test_each_connection_starts_anew(encoder: Encoder, decoder: Decoder) -> None:
    maker = PacketMaker(encoder)
    with server(decoder) as here:
        for _ in range(2):
            running, _ = device(here.address, maker, StandingCamera(5))
            running.finish()
    found = references(here.frames)
    for connection in (found[:5], found[5:]):
        assert connection[0] is None
        assert connection[-1] is not None


def test_a_standing_camera_keeps_its_rate_where_a_controller_chooses(encoder: Encoder) -> None:
    controller = RateController.for_bundle(encoder.bundle, 32, 10, size=SIZE)
    maker, camera = PacketMaker(encoder, None, controller), StandingCamera(30)
    maker.connected(takes_references=True)
    made = []
    for number in range(30):
        frame = CapturedFrame(number, number, camera.image(0), 0.0, 0.0)
        made.append(maker.make(frame))
        maker.answered(dsin_v1.Ack(frame_number=number, status=dsin_v1.DECODED))
    packets = [Packet.parse(one.data) for one in made]
    alone = [packet for packet in packets if packet.header.reference is None]
    assert len(alone) <= 6, "rates alternate, and each change costs a whole frame"
    assert len({packet.header.rate for packet in packets[-15:]}) == 1
    assert max(map(len, packets)) < 2 * 400, "a frame of two budgets"
