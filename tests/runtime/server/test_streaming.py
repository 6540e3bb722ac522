"""The streaming rig on loopback: what a device sends is decoded; who is refused, and why."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from support.rig_fakes import (
    CODEC,
    FakeCamera,
    FakeEncoder,
    fake_device,
    fake_server,
    picture,
    wait_until,
)

from dsin.runtime.device.device import AnsweredFrame, PictureMaker
from dsin.runtime.device.stream_client import Transport
from dsin.runtime.errors import StreamError
from dsin.runtime.files import write_image
from dsin.runtime.outputs.decoded_frame import SideUse
from dsin.runtime.server.side_buffer import PairingPolicy
from dsin.runtime.server.side_cameras import SideCameras
from dsin.runtime.sources.cameras import open_camera


def test_every_frame_of_a_recording_is_decoded_in_order() -> None:
    answers: list[AnsweredFrame] = []
    camera = FakeCamera(50, 20, clock="recording", every=True)
    with fake_server() as server:
        counts = fake_device(server.address, camera=camera, answers=answers, every=True).finish()
        assert server.numbers("front") == list(range(20))
    assert [answer.made.number for answer in answers] == list(range(20))
    assert {answer.status for answer in answers} == {"decoded"}
    assert (counts.sent, counts.answered, counts.lost) == (20, 20, 0)


def test_the_side_camera_of_the_same_moment_is_used_where_both_cameras_are_remote() -> None:
    answers: list[AnsweredFrame] = []
    with fake_server() as server:
        y = fake_device(server.address, fps=20, count=None, maker=PictureMaker())
        wait_until(lambda: any(r.side_connected for r in server.pool.status()))
        x = fake_device(server.address, fps=20, count=20, answers=answers)
        x.finish()
        y.stop()
        frames = server.frames
    assert [frame.side_use for frame in frames].count(SideUse.PAIRED) >= 18
    for frame in frames:
        if frame.side_use is SideUse.PAIRED:
            assert frame.side is not None
            apart_ms = abs(frame.side.timestamp_ns - frame.timestamp_ns) / 1e6
            assert apart_ms <= 0.5 * 1000 / 20 + 5, "that was a neighbour"
    assert "paired" in {answer.side_use for answer in answers}


def test_without_a_side_camera_frames_are_decoded_alone_and_say_so() -> None:
    answers: list[AnsweredFrame] = []
    with fake_server() as server:
        fake_device(server.address, answers=answers).finish()
    decoded = [answer for answer in answers if answer.status == "decoded"]
    assert decoded
    assert {answer.side_use for answer in decoded} == {"missing"}


def test_a_side_camera_that_stops_is_used_for_a_while_then_not() -> None:
    policy = PairingPolicy(tolerance_ms=30, wait_ms=0, max_age_ms=250)
    with fake_server(policy=policy) as server:
        y = fake_device(server.address, fps=20, count=None, maker=PictureMaker())
        x = fake_device(server.address, fps=20, count=None)
        wait_until(lambda: any(f.side_use is SideUse.PAIRED for f in server.frames))
        y.device._camera.close()  # the camera is gone, its connection too
        wait_until(lambda: server.frames and server.frames[-1].side_use is SideUse.MISSING)
        x.stop()
    uses = [frame.side_use for frame in server.frames]
    assert SideUse.PREVIOUS in uses
    for frame in server.frames:
        if frame.side_use is SideUse.PREVIOUS:
            assert frame.side is not None
            assert (frame.timestamp_ns - frame.side.timestamp_ns) / 1e6 <= 250 + 10


def test_two_rigs_are_decoded_side_by_side_and_do_not_mix() -> None:
    with fake_server(decode_s=0.002) as server:
        rigs = [fake_device(server.address, name, count=30) for name in ("a", "b")]
        for rig in rigs:
            rig.finish()
        for name in ("a", "b"):
            numbers = server.numbers(name)
            assert numbers == sorted(set(numbers))
            assert len(numbers) > 10
    assert [status.rig for status in server.pool.status()] == ["a", "b"]


class Foreign(FakeEncoder):
    codec_id = CODEC[::-1]


class FewerRates(FakeEncoder):
    rate_points = 2


@pytest.mark.parametrize(
    ("maker", "rig", "reason"),
    [
        (Foreign(), "front", "both need the same bundle"),
        (FewerRates(), "front", "2 rates"),
        (FakeEncoder(), "a/b", "without a slash"),
        (FakeEncoder(), "", "has a name"),
        (FakeEncoder(), "x" * 65, "at most 64"),
    ],
)
def test_a_device_that_does_not_fit_is_refused_before_its_first_frame(
    maker: FakeEncoder, rig: str, reason: str
) -> None:
    with fake_server() as server:
        device = fake_device(server.address, rig, maker=maker)
        with pytest.raises(StreamError, match=reason):
            device.finish()
        assert not server.frames
    assert device.device.counts.sent == 0


class Wide(FakeCamera):
    size = (16, 48)


@pytest.mark.parametrize("first", ["x", "y"])
def test_a_side_camera_of_another_size_is_resized(
    first: str, caplog: pytest.LogCaptureFixture
) -> None:
    def start_y() -> Any:
        camera = Wide(20, None)
        return fake_device(server.address, maker=PictureMaker(), camera=camera, count=None)

    with fake_server() as server:
        devices = [start_y()] if first == "y" else []
        if devices:
            wait_until(lambda: [rig for rig in server.pool.status() if rig.side_connected])
        devices.append(fake_device(server.address, count=None))
        wait_until(lambda: server.frames)
        if first == "x":
            devices.append(start_y())
        wait_until(lambda: [frame for frame in server.frames if frame.side is not None])
        with_side = next(frame for frame in server.frames if frame.side is not None)
        assert with_side.side is not None
        assert with_side.side.image.shape == with_side.decoded.image.shape == (16, 24, 3)
        for device in devices:
            device.stop()
    assert "side camera sends 48x16, which is resized to 24x16" in caplog.text


def test_a_recording_and_a_live_camera_are_no_pair() -> None:
    with fake_server() as server:
        x = fake_device(server.address, count=None)
        wait_until(lambda: server.frames)
        y = fake_device(
            server.address, maker=PictureMaker(), camera=FakeCamera(10, clock="recording")
        )
        with pytest.raises(StreamError, match="live and the other"):
            y.finish()
        x.stop()


@pytest.fixture
def recorded_rig(tmp_path: Path) -> Path:
    """Ten moments of both cameras as pictures, each known by its number."""
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        for number in range(10):
            write_image(tmp_path / side / f"{number:03}.png", picture(number))
    return tmp_path


def test_a_recording_is_paired_with_the_servers_own_side_of_it_round_after_round(
    recorded_rig: Path,
) -> None:
    with (
        SideCameras([str(recorded_rig)]) as sides,
        fake_server(sides=sides) as server,
    ):
        camera = open_camera(str(recorded_rig), "left", fps=100, loop=True)
        device = fake_device(server.address, camera=camera)
        wait_until(lambda: len(server.frames) > 25)
        device.stop()
    for frame in server.frames:
        assert frame.side_use is SideUse.PAIRED
        assert frame.side is not None
        assert frame.side.image[0, 0, 0] == frame.number % 10


def test_another_recording_than_the_servers_is_refused(recorded_rig: Path) -> None:
    with (
        SideCameras([f"front={recorded_rig}"]) as sides,
        fake_server(sides=sides) as server,
    ):
        other = FakeCamera(50, 10, clock="recording")
        with pytest.raises(StreamError, match="play the same one on both sides"):
            fake_device(server.address, camera=other).finish()
        live = fake_device(server.address)
        with pytest.raises(StreamError, match="is a recording, and this camera is live"):
            live.finish()
        fake_device(server.address, "rear").finish()  # has no side camera there


def test_a_rig_over_the_memory_budget_waits_until_there_is_room() -> None:
    answers: list[AnsweredFrame] = []
    one_rig_mib = 16 * 24 * 350 / 2**20
    with fake_server(budget_mib=1.5 * one_rig_mib) as server:
        first = fake_device(server.address, "a", count=None)
        wait_until(lambda: server.frames)
        second = fake_device(server.address, "b", count=None, answers=answers)
        wait_until(lambda: second.device.counts.attempts > 2)
        assert not answers
        first.stop()
        wait_until(lambda: answers)
        second.stop()


@pytest.mark.parametrize("transport", ["grpc", "datagram"])
def test_a_second_device_of_the_same_name_is_refused_while_the_first_is_alive(
    transport: Transport,
) -> None:
    with fake_server() as server:
        first = fake_device(server.address, count=None, transport=transport)
        wait_until(lambda: server.frames)
        second = fake_device(server.address, count=None, transport=transport)
        told = "camera x of rig front is streaming already, from 127.0.0.1:.*: stop that device"
        with pytest.raises(StreamError, match=told):
            second.finish()
        assert first.stop().reconnects == 0


def test_a_device_that_connects_again_takes_its_own_place_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "getrandbits", lambda bits: 7)  # the session of both
    with fake_server() as server:
        old = fake_device(server.address, count=None)
        wait_until(lambda: server.frames)
        again = fake_device(server.address, count=None)
        with pytest.raises(StreamError, match="newer connection"):
            old.finish()
        wait_until(lambda: again.device.counts.answered)
        again.stop()


def test_without_a_server_a_device_gives_up_only_when_told_to() -> None:
    start = time.monotonic()
    with pytest.raises(StreamError, match="cannot connect to"):
        fake_device("127.0.0.1:9", give_up_s=0.5).finish()
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "host:port", "host:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(StreamError, match="HOST:PORT"):
        fake_device(address).finish()


def test_plaintext_is_for_loopback_only() -> None:
    with pytest.raises(StreamError, match="loopback only"):
        fake_device("192.0.2.1:7000").finish()


def test_a_taken_port_is_said_in_words() -> None:
    with (
        fake_server() as server,
        pytest.raises(StreamError, match="is the port taken"),
        fake_server(port=server.server.port),
    ):
        pass
