"""What ends a device, and what must not: faults of its camera, its own code, its surroundings."""

import re
import threading

import pytest
from support.rig_fakes import (
    FakeCamera,
    FakeEncoder,
    SizedEncoder,
    fake_device,
    fake_server,
    wait_until,
)

from dsin.runtime.commands.stream import _Report
from dsin.runtime.device.device import AnsweredFrame, MadeFrame, PictureMaker
from dsin.runtime.errors import DsinError, FrameError, StreamError
from dsin.runtime.link.rpc import split_address
from dsin.runtime.sources.cameras import CapturedFrame


class Slow(FakeEncoder):
    """Is busy while the camera fails."""

    def make(self, frame: CapturedFrame) -> MadeFrame:
        threading.Event().wait(0.05)
        return super().make(frame)


class Failing(FakeCamera):
    """A recording whose fifth picture cannot be had."""

    fault: Exception = FrameError("picture 4 is damaged")

    def newest(self, timeout_s: float) -> CapturedFrame | None:
        if self._next == 4:
            raise self.fault
        return super().newest(timeout_s)


@pytest.mark.parametrize("fault", [FrameError("picture 4 is damaged"), ValueError("a mistake")])
def test_a_recording_that_fails_is_not_taken_for_one_that_ended(fault: Exception) -> None:
    camera = Failing(100, 20, clock="recording", every=True)
    camera.fault = fault
    with fake_server() as server:
        device = fake_device(server.address, camera=camera, maker=Slow(), every=True)
        with pytest.raises(type(fault), match=str(fault)):
            device.finish()
        assert server.numbers("front") == [0, 1, 2, 3]


def test_a_fault_in_what_takes_answers_ends_the_device_with_it() -> None:
    """Not a thread, after which the device would connect again every ten seconds for ever."""

    def fail(frame: AnsweredFrame) -> None:
        raise BrokenPipeError("nobody reads the report")

    class Reporting(list[AnsweredFrame]):
        append = staticmethod(fail)  # type: ignore[assignment]

    with fake_server() as server:
        device = fake_device(server.address, count=None, answers=Reporting())
        with pytest.raises(BrokenPipeError):
            device.finish(5)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_for_the_internet_is_not_asked_the_way_to_this_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with fake_server() as server:
        assert fake_device(server.address, give_up_s=1.0).finish().answered > 0


def test_a_picture_that_no_message_can_hold_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsin.runtime.device.device.MAX_PICTURE_BYTES", 50)
    with fake_server() as server:
        device = fake_device(server.address, maker=PictureMaker())
        with pytest.raises(DsinError, match="--quality"):
            device.finish()


@pytest.mark.parametrize("address", ["::1:7000", "ipv4:127.0.0.1:7000", "dns:localhost:7000"])
def test_an_address_means_what_it_says(address: str) -> None:
    """gRPC takes ::1:7000 for the machine ::1:7000, which is not this one."""
    with pytest.raises(StreamError, match="brackets"):
        split_address(address)


@pytest.mark.parametrize("every", [False, True])
def test_a_rate_below_the_lowest_is_kept_by_leaving_frames_out_and_told_once(every: bool) -> None:
    """Frames of 1000 bytes at least, 50 a second: 400 kbit/s, four times what is asked for."""
    maker = SizedEncoder([0.1, 0.2], pixels=80_000, kbps=100, fps=50)
    camera = FakeCamera(50, 50, clock="recording", every=every)
    news: list[str] = []
    with fake_server() as server:
        counts = fake_device(
            server.address, maker=maker, camera=camera, every=every, on_news=news.append
        ).finish()
    told = "100 kbit/s is less than the 400 kbit/s that the lowest rate takes: "
    what = "the stream takes more" if every else "frames are left out to keep to it"
    assert [line for line in news if "kbit/s" in line] == [told + what]
    assert counts.sent + counts.dropped == 50
    assert counts.sent == 50 if every else 5 < counts.sent < 20


def test_so_many_frames_are_sent_however_long_the_server_is_not_there() -> None:
    with fake_server() as server:
        port = server.server.port
    device = fake_device(f"127.0.0.1:{port}", fps=200, count=None, frames=7)
    wait_until(lambda: device.device._camera.captured > 20)
    with fake_server(port=port) as server:
        counts = device.finish()
        assert counts.sent == counts.answered == len(server.frames) == 7
    assert counts.dropped > 7


def test_every_captured_frame_is_sent_dropped_or_unsent() -> None:
    """Whatever the camera does until it is closed, and wherever the end comes."""
    with fake_server() as server:
        streaming = fake_device(server.address, fps=200, count=None)
        wait_until(lambda: server.frames)
        port = server.server.port
    away = fake_device(f"127.0.0.1:{port}", fps=200, count=None)
    wait_until(lambda: away.device._camera.captured > 10)
    for device in (streaming, away):
        counts = device.stop()
        line = _Report(print).line(counts)
        found = re.findall(r"(\d+) (?:frames|decoded|dropped|lost|unsent)", line)
        captured, *ends = map(int, found)
        assert captured == sum(ends) > 0, line
    assert counts.unsent == 1, "the one that would have been next"
