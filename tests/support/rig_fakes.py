"""A rig without networks: cameras that make tiny pictures, decoders that only take time.

What streams through is real (gRPC, packets, pairing, credits); only coding is left out, so that
tests of the streaming are about the streaming.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np

from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.decoder import Decoded, Decoder, SideFeatures
from dsin.runtime.codec.packet import PACKET_HEADER_BYTES, Packet, PacketHeader
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.codec.references import DecodedFrames
from dsin.runtime.codec.side_fusion import Side
from dsin.runtime.device.device import AnsweredFrame, Device, DeviceCounts, MadeFrame, PacketMaker
from dsin.runtime.device.stream_client import Transport
from dsin.runtime.link.clocks import now_ns
from dsin.runtime.link.rpc import Certificates
from dsin.runtime.outputs.decoded_frame import DecodedFrame
from dsin.runtime.pictures import Image
from dsin.runtime.server.decode_pool import DecodePool
from dsin.runtime.server.decode_worker import LocalWorker
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.stream_server import StreamServer
from dsin.runtime.sources.cameras import CapturedFrame

CODEC = b"\x01\x02\x03\x04\x05\x06"
SIZE = (16, 24)
BUNDLE = cast(
    Bundle,
    SimpleNamespace(codec_id=CODEC, rate_points=(0, 1, 2), path=Path("fake-bundle"), refers=False),
)


def picture(number: int, size: tuple[int, int] = SIZE) -> Image:
    """A grey picture that tells its number."""
    return np.full((*size, 3), number % 256, np.uint8)


class FakeDecoder:
    """Takes `decode_s` for a frame and `prepare_s` for a side image."""

    bundle = BUNDLE

    def __init__(self, decode_s: float = 0.0, prepare_s: float = 0.0) -> None:
        self.decode_s, self.prepare_s = decode_s, prepare_s

    def prepare_side(self, side: Image | SideFeatures, *, rate: int | None = None) -> SideFeatures:
        if isinstance(side, SideFeatures):
            return side
        time.sleep(self.prepare_s)
        return SideFeatures(
            side, None, Side(side.shape[:2], None), {"compute": 1000 * self.prepare_s}
        )

    def decode(
        self, packet: Packet, side: SideFeatures | None, *, references: DecodedFrames | None = None
    ) -> Decoded:
        header = packet.header
        time.sleep(self.decode_s)
        image = picture(header.frame_number, (header.height, header.width))
        stages = {"x_decoder": 1000 * self.decode_s}
        return Decoded(image, image, None, None, side is not None, header, stages)


class FakeCamera:
    """Makes `count` pictures (None: no end), `fps` a second, each known by its number.

    `clock_ns` is the clock of its timestamps, which a test may set wrong.
    """

    size = SIZE

    def __init__(
        self,
        fps: float,
        count: int | None = None,
        clock: Literal["live", "recording"] = "live",
        clock_ns: Any = now_ns,
        every: bool = False,
    ) -> None:
        self.fps: float | None = fps
        self.start_ns = 10**18 if clock == "recording" else None
        self._every = every
        self.clock: Literal["live", "recording"] = clock
        self.captured = self.skipped = 0
        self._count, self._clock_ns = count, clock_ns
        self._start_s = time.monotonic()
        self._next = 0
        self._closed = threading.Event()

    @property
    def ended(self) -> bool:
        over = self._count is not None and self._next >= self._count
        return over or self._closed.is_set()

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        assert self.fps is not None
        due_s = self._start_s + self._next / self.fps
        pause_s = due_s - time.monotonic()
        if pause_s > timeout_s:
            self._closed.wait(timeout_s)
            return None
        self._closed.wait(max(0.0, pause_s))
        if self.ended:
            return None
        newest = int((time.monotonic() - self._start_s) * self.fps)
        number = self._next if self._every else max(self._next, newest)
        if self._count is not None:
            number = min(number, self._count - 1)
        self.skipped += number - self._next
        self.captured += number - self._next + 1
        self._next = number + 1
        taken_s = self._start_s + number / self.fps
        if self.clock == "recording":
            timestamp_ns = 10**18 + round(1e9 * number / self.fps)
        else:
            timestamp_ns = self._clock_ns() - round(1e9 * (time.monotonic() - taken_s))
        return CapturedFrame(number, timestamp_ns, picture(number, self.size), taken_s, 0.1)

    def close(self) -> None:
        self._closed.set()


class FakeEncoder:
    """Makes packets of `size` bytes; their payload means nothing."""

    letter = "x"
    codec_id, rate_points, refers = CODEC, 3, False
    controller: Any = None

    def __init__(self, size: int = 1000) -> None:
        self.size = size

    def connected(self, *, takes_references: bool) -> None:
        """Nothing is referred to."""

    def answered(self, ack: object) -> None:
        """Nothing is learnt from it."""

    def make(self, frame: CapturedFrame) -> MadeFrame:
        height, width = SIZE
        header = PacketHeader(CODEC, width, height, 0, frame.number, frame.timestamp_ns)
        packet = bytes(Packet(header, bytes(self.size)))
        stages = {"capture": frame.capture_ms}
        return MadeFrame(frame.number, frame.timestamp_ns, frame.taken_s, packet, 0, stages)

    message = PacketMaker.message


class SizedEncoder(FakeEncoder):
    """Makes packets as large as those of a bundle with these rate points (bits per pixel) and
    frames of so many pixels, at the rates that its controller chooses."""

    def __init__(self, points: Sequence[float], pixels: int, kbps: float, fps: float) -> None:
        super().__init__()
        self._sizes = [round(bpp * pixels / 8) for bpp in points]
        self.controller = RateController(points, pixels=pixels, target_kbps=kbps, fps=fps)

    def make(self, frame: CapturedFrame) -> MadeFrame:
        rate = self.controller.next_rate()
        self.size = self._sizes[rate] - PACKET_HEADER_BYTES
        made = super().make(frame)
        self.controller.sent(rate, len(made.data))
        return made


class Running:
    """A device in a thread of its own."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.result: DeviceCounts | BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self.device.run()
        except BaseException as error:
            self.result = error

    def finish(self, timeout_s: float = 30.0) -> DeviceCounts:
        """Wait for its own end, and raise what it raised."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the device does not end"
        if isinstance(self.result, BaseException):
            raise self.result
        assert self.result is not None
        return self.result

    def stop(self) -> DeviceCounts:
        """End it now."""
        self.device.stop()
        return self.finish()


class FakeServer:
    """A server on loopback whose decoders only take time; `frames` are what it decoded."""

    def __init__(self, pool: DecodePool, server: StreamServer, frames: list[DecodedFrame]) -> None:
        self.pool, self.server, self.frames = pool, server, frames
        self.address = f"127.0.0.1:{server.port}"

    def numbers(self, rig: str) -> list[int]:
        """Of the frames decoded for a rig, in order."""
        return [frame.number for frame in self.frames if frame.rig == rig]


@contextmanager
def fake_server(
    *,
    decode_s: float = 0.0,
    prepare_s: float = 0.0,
    workers: int = 1,
    policy: PairingPolicy | None = None,
    budget_mib: float | None = None,
    port: int = 0,
    **options: Any,
) -> Iterator[FakeServer]:
    """A server that runs while the block lasts."""
    frames: list[DecodedFrame] = []
    decoders: Sequence[Any] = [FakeDecoder(decode_s, prepare_s) for _ in range(workers)]
    with ExitStack() as stack:
        pool = stack.enter_context(
            DecodePool(
                [LocalWorker(cast(Decoder, decoder)) for decoder in decoders],
                policy or PairingPolicy(),
                frames.append,
                budget_mib=budget_mib,
            )
        )
        server = stack.enter_context(StreamServer(pool, "127.0.0.1", port, **options))
        yield FakeServer(pool, server, frames)


def fake_device(
    address: str,
    rig: str = "front",
    *,
    fps: float = 100.0,
    count: int | None = 20,
    maker: Any = None,
    camera: Any = None,
    certificates: Certificates | None = None,
    answers: list[AnsweredFrame] | None = None,
    transport: Transport = "grpc",
    **options: Any,
) -> Running:
    """A device that streams from now on."""
    return Running(
        Device(
            camera or FakeCamera(fps, count), maker or FakeEncoder(), address, rig, certificates,
            on_frame=(lambda frame: None) if answers is None else answers.append,
            transport=transport, **options,
        )
    )  # fmt: skip


def wait_until(condition: Any, timeout_s: float = 10.0, what: str = "it") -> float:
    """Seconds until a condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(0.005)
    return time.monotonic() - start
