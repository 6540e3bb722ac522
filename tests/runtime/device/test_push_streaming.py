"""A program's own frames on their way to a server: pushed, sent, decoded."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.block_bundle import write_block_bundle
from support.rig_fakes import SIZE, fake_device, fake_server, picture, wait_until

from dsin.runtime import DsinError, Encoder
from dsin.runtime.device import Device, PacketMaker, PictureMaker, PushSource
from dsin.runtime.device.device import AnsweredFrame
from dsin.runtime.errors import StreamError
from dsin.runtime.outputs.decoded_frame import DecodedFrame, SideUse
from dsin.runtime.server import serving


def push_until(source: PushSource, done: threading.Event) -> None:
    while not done.is_set():
        source.push(picture(source.captured), time.time_ns())
        done.wait(0.01)


def test_pushed_frames_are_decoded_with_their_times_in_order() -> None:
    with fake_server() as server, PushSource(SIZE) as source:
        device = fake_device(server.address, camera=source)
        times = []
        for number in range(5):
            times.append(time.time_ns())
            source.push(picture(number), times[-1])
            wait_until(lambda: len(server.frames) == len(times))
        source.close()
        counts = device.finish()
        assert server.numbers("front") == [0, 1, 2, 3, 4]
        assert [frame.timestamp_ns for frame in server.frames] == times
        assert all(0 <= frame.age_ms < 60_000 for frame in server.frames)
    assert (counts.captured, counts.dropped, counts.sent) == (5, 0, 5)


def test_a_slow_server_gets_the_newest_frames_and_pushing_never_waits_for_it() -> None:
    answers: list[AnsweredFrame] = []
    with fake_server(decode_s=0.1) as server, PushSource(SIZE) as source:
        device = fake_device(server.address, camera=source, answers=answers)
        for number in range(60):
            source.push(picture(number), time.time_ns())
            time.sleep(0.01)
        source.close()
        counts = device.finish()
        numbers = server.numbers("front")
    assert numbers[-1] == 59
    assert numbers == sorted(numbers)
    assert counts.captured == 60
    assert counts.dropped == 60 - counts.sent > 0


def test_pushed_pictures_of_both_cameras_are_paired() -> None:
    done = threading.Event()
    with fake_server() as server, PushSource(SIZE) as x, PushSource(SIZE) as y:
        devices = [
            fake_device(server.address, camera=y, maker=PictureMaker()),
            fake_device(server.address, camera=x),
        ]
        threads = [threading.Thread(target=push_until, args=(s, done)) for s in (x, y)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: any(f.side_use is SideUse.PAIRED for f in server.frames))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        for device in devices:
            device.stop()


def test_a_program_can_stream_to_a_server_within_itself(tmp_path: Path) -> None:
    bundle = write_block_bundle(tmp_path / "blocks")
    shown: list[DecodedFrame] = []
    kept: list[str] = []

    class Keep:
        name = "keep"

        def take(self, frame: DecodedFrame) -> None:
            kept.append(frame.rig)

        def close(self) -> None:
            kept.append("closed")

    frame, size = np.full((40, 48, 3), 153, np.uint8), (40, 48)
    with (
        serving(
            "127.0.0.1:0", bundle, on_frame=shown.append, sinks=[Keep()], size=(40, 48)
        ) as here,
        Encoder(bundle) as encoder,
        PushSource(size, fps=10) as source,
    ):
        device = Device(source, PacketMaker(encoder), here.address, "front")
        thread = threading.Thread(target=device.run)
        thread.start()
        source.push(frame, time.time_ns())
        source.close()
        thread.join(30)
        assert not thread.is_alive()
        assert [(rig.rig, rig.decoded) for rig in here.status()] == [("front", 1)]
    assert kept == ["front", "closed"]
    np.testing.assert_array_equal(shown[0].decoded.image, frame)


@pytest.mark.parametrize(
    ("address", "options", "told"),
    [
        ("7000", {}, "is not HOST:PORT"),
        ("192.0.2.1:7000", {}, "plaintext is for loopback only"),
        ("127.0.0.1:0", {"workers": 0}, "0 workers: at least one has to decode"),
        ("127.0.0.1:0", {"sides": ["nowhere.mp4"]}, "nowhere.mp4"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, address: str, options: dict[str, object], told: str
) -> None:
    bundle = write_block_bundle(tmp_path / "blocks")
    with pytest.raises(DsinError, match=told), serving(address, bundle, **options):  # type: ignore[arg-type]
        raise AssertionError("it started")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    bundle = write_block_bundle(tmp_path / "blocks")
    with (
        serving("127.0.0.1:0", bundle, size=(40, 48)) as first,
        pytest.raises(StreamError, match="the port is taken"),
        serving(first.address, bundle, size=(40, 48)),
    ):
        raise AssertionError("it started")
