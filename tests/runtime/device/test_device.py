"""What a device tells its rate control and its link, by values."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock, Mock, call

import pytest
from support.rig_fakes import BUNDLE, CODEC, FakeCamera, FakeEncoder, picture

from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import PACKET_HEADER_BYTES, Packet, PacketHeader
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.codec.references import SentFrames
from dsin.runtime.device import device as device_module
from dsin.runtime.device.device import (
    AnsweredFrame,
    Device,
    MadeFrame,
    PacketMaker,
    PictureMaker,
)
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.device.link_rate import LinkFigures
from dsin.runtime.device.stream_client import Greeting
from dsin.runtime.errors import DsinError
from dsin.runtime.link import dsin_v1_pb2 as dsin_v1
from dsin.runtime.link.side_pictures import encode_picture
from dsin.runtime.sources.cameras import CapturedFrame

FRAME = CapturedFrame(3, 7, picture(3), 0.0, 0.5)


def new_device(follower: Any = None, controller: Any = None, *, every: bool = False) -> Device:
    maker = FakeEncoder()
    maker.controller = controller
    camera = FakeCamera(10.0, 1, clock="recording")
    return Device(camera, cast(Any, maker), "127.0.0.1:1", "front", follower=follower, every=every)


@pytest.mark.parametrize(
    ("reference", "size", "told", "held"),
    [
        (None, 400, [call.sent(1, 400)], None),
        (2, 400, [call.spared(400)], 1),
        (2, 499, [call.spared(499)], 1),
        (2, 500, [call.sent(1, 500)], None),
    ],
)
def test_a_frame_that_takes_over_most_of_another_tells_nothing_of_its_rate(
    reference: int | None, size: int, told: list[Any], held: int | None
) -> None:
    """A whole frame of rate 1 takes 1000 bytes; the next frame's rate is asked for with the one
    that is held."""
    controller = Mock(spec=RateController, predicted_sizes=[100.0, 1000.0, 3000.0])
    controller.next_rate.return_value = 1
    bundle = Mock(**{"rate_points": BUNDLE.rate_points, "codec_id": CODEC, "refers": True})
    maker = PacketMaker(cast(Encoder, SimpleNamespace(bundle=bundle)), controller=controller)
    packet = MagicMock(header=SimpleNamespace(rate=1, reference=reference))
    packet.__len__.return_value = size
    maker._account(packet)
    assert controller.mock_calls == told
    assert maker._held == held


def test_a_full_link_is_waited_for_in_short_turns() -> None:
    """So that an end of the stream or of the device is noticed."""
    follower = Mock(spec=LinkFollower)
    follower.pause_s.side_effect = [60.0, 0.125, 0.0]
    stream = Mock()
    new_device(follower)._wait_for_link(stream)
    assert follower.wait.mock_calls == [call(device_module.POLL_S), call(0.125)]
    assert stream.mock_calls == [call.wait_while_under_way(0)] * 2


def test_frames_are_held_back_in_short_turns_as_long_as_the_rate_is_too_much() -> None:
    controller = Mock(spec=RateController, pause_s=60.0, least_kbps=100.0, target_kbps=200.0)
    stream, device = Mock(), new_device(controller=controller)
    device._stop = Mock(**{"is_set.return_value": False})
    assert device._keep_to_rate(stream)
    device._stop.wait.assert_called_once_with(device_module.POLL_S)
    stream.wait_while_under_way.assert_called_once_with(0)
    controller.pause_s = 0.125

    def paused(seconds: float) -> None:
        controller.pause_s = 0.03 if controller.pause_s == 0.125 else 0.0

    controller.paused.side_effect = paused
    assert device._keep_to_rate(stream), "a little is left"
    assert not device._keep_to_rate(stream), "it is time now"
    assert device._stop.wait.mock_calls[1:] == [call(0.125), call(0.03)]
    assert not device._keep_to_rate(stream), "there is nothing to wait for"
    assert device._stop.wait.call_count == 3


def test_a_link_that_breaks_loses_what_is_under_way_and_is_followed_anew() -> None:
    follower = Mock(spec=LinkFollower)
    device = new_device(follower)
    for number in range(4):
        device._send(Mock(), FRAME._replace(number=number))
    size = PACKET_HEADER_BYTES + 1000
    sent = [step for number in range(4) for step in (call.aim(), call.sent(number, size))]
    assert follower.mock_calls == sent
    follower.reset_mock()
    device._lost([1, 9])
    assert device.under_way == [0, 2, 3]
    assert device.counts.lost == 1
    device._note_loss()
    assert follower.mock_calls == [call.lost(1), call.lost(9), call.restart()]
    assert (device.under_way, device.counts.lost) == ([], 4)
    assert (device.counts.sent, device.counts.sent_bytes) == (4, 4 * size)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_jpeg_does_not_have_is_refused(quality: int) -> None:
    with pytest.raises(DsinError) as refused:
        PictureMaker(quality)
    assert str(refused.value) == f"a JPEG quality must be within 1..100, not {quality}"
    for good in (1, 100, None):
        PictureMaker(good)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The device's, at `s` seconds."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(
        device_module, "time", SimpleNamespace(monotonic=lambda: now.s, perf_counter_ns=lambda: 0)
    )
    return now


@pytest.mark.parametrize("clock_kind", ["live", "recording"])
def test_what_a_camera_says_of_itself(clock_kind: Any) -> None:
    def greeting(**options: Any) -> Any:
        camera = FakeCamera(10.0, 1, clock=clock_kind)
        return Device(camera, cast(Any, FakeEncoder()), "127.0.0.1:1", "front", **options)

    device = greeting()
    found = device._greeting
    assert found == Greeting(
        rig="front", camera="x", live=clock_kind == "live", width=24, height=16,
        session=found.session, codec_id=CODEC, rate_points=3,
        recording_start_ns=None if clock_kind == "live" else 10**18, references=False,
    )  # fmt: skip
    assert 0 <= found.session < 2**64
    assert greeting()._greeting.session != found.session
    assert [device._transport, greeting(every=True)._transport] == ["auto", "grpc"]
    assert greeting(every=True, transport="datagram")._transport == "datagram"


@pytest.mark.parametrize("live", [True, False])
def test_a_frame_tells_how_long_it_was_held_and_of_a_recording_when_it_went(
    clock: SimpleNamespace, live: bool
) -> None:
    camera = FakeCamera(10.0, 1, clock="live" if live else "recording")
    device = Device(
        camera, cast(Any, FakeEncoder()), "127.0.0.1:1", "front", clock=lambda: 77
    )  # fmt: skip
    stream = Mock()
    for taken_s, held_us in ((99.75, 250_000), (100.5, 0), (-1e6, 2**32 - 1)):
        device._send(stream, FRAME._replace(taken_s=taken_s))
        (message,), _ = stream.send_frame.call_args
        assert message.frame.held_us == held_us
        assert message.frame.sent_ns == (0 if live else 77)


def test_an_answer_is_told_with_its_times_and_counted(clock: SimpleNamespace) -> None:
    told: list[AnsweredFrame] = []
    follower = Mock(spec=LinkFollower)
    maker = Mock(wraps=FakeEncoder(), letter="x", codec_id=CODEC, rate_points=3, refers=False)
    maker.controller = None
    device = Device(
        FakeCamera(10.0, 1), maker, "127.0.0.1:1", "front", follower=follower, on_frame=told.append
    )
    device._timing = Mock()
    made = device._send(Mock(), FRAME._replace(taken_s=99.5))
    clock.s = 100.25
    ack = dsin_v1.Ack(
        frame_number=3, status=dsin_v1.DECODED, side_use=dsin_v1.CLOCK_UNCERTAIN, decode_ms=12.5,
        age_ms=600.0, waited_ms=2.5,
    )  # fmt: skip
    device._answered(ack)
    device._answered(ack)  # that of a frame which is not under way says nothing more
    assert told == [AnsweredFrame(made, "decoded", "clock-uncertain", 12.5, 600.0, 750.0, "")]
    assert follower.answered.mock_calls == [call(ack, 100.25)]
    assert device._timing.mock_calls == [call.answered(250.0, 12.5, 2.5, 100.25)]
    assert maker.answered.mock_calls == [call(ack)] * 2
    device._send(Mock(), FRAME)
    device._answered(dsin_v1.Ack(frame_number=3, status=dsin_v1.REJECTED, reason="damaged"))
    assert (told[1].status, told[1].reason) == ("rejected", "damaged")
    assert (device.counts.answered, device.counts.statuses) == (2, {"decoded": 1, "rejected": 1})


@pytest.mark.parametrize(
    ("every", "end"),
    [(True, "the stream takes more"), (False, "frames are left out to keep to it")],
)
def test_a_rate_below_the_lowest_is_told_once(every: bool, end: str) -> None:
    told: list[str] = []
    controller = Mock(spec=RateController, least_kbps=100.4, target_kbps=100.4)
    device = new_device(controller=controller, every=every)
    device._on_news = told.append
    device._tell_of_rate(controller)
    assert told == []
    controller.target_kbps = 40.5
    for _ in range(2):
        device._tell_of_rate(controller)
    assert told == [f"40.5 kbit/s is less than the 100 kbit/s that the lowest rate takes: {end}"]


def test_a_device_reports_medians_and_what_it_aims_at() -> None:
    device = new_device()
    assert device._status() == dsin_v1.DeviceStatus()
    device.counts.captured, device.counts.dropped = 9, 4
    device.counts.lost, device.counts.reconnects = 3, 2
    for capture_ms, compute_ms in ((1.0, 30.0), (2.0, 10.0), (6.0, 20.0)):
        stages = {"capture": capture_ms, "compute": compute_ms, "entropy": 0.5}
        device._recent.append(MadeFrame(0, 0, 0.0, b"", 0, stages))
    expected = dsin_v1.DeviceStatus(
        captured=9, dropped=4, lost=3, reconnects=2, capture_ms=2.0, encode_ms=20.5
    )
    assert device._status() == expected
    device._maker.controller = Mock(spec=RateController, target_kbps=250.0)
    expected.target_kbps = 250.0
    assert device._status() == expected
    device._follower = Mock(spec=LinkFollower, figures=LinkFigures(180.0, 150.0, 12.5, 0.25))
    expected.target_kbps, expected.delivered_kbps = 180.0, 150.0
    expected.queueing_ms, expected.loss = 12.5, 0.25
    assert device._status() == expected


def test_the_rate_control_is_told_the_pace_of_ten_frames_without_its_own_pauses(
    clock: SimpleNamespace,
) -> None:
    controller = Mock(spec=RateController)
    device = new_device(controller=controller)
    for number in range(10):
        assert controller.mock_calls == []
        clock.s = 100 + 0.5 * number
        device._paused_s = 0.25 * number
        device._steer()
    assert controller.mock_calls == [call.pace(pytest.approx(4.0))]
    recorded = new_device(controller=controller, every=True)
    for _ in range(20):
        recorded._steer()
    assert len(controller.mock_calls) == 1, "the recording has a pace of its own"


def test_a_frame_is_taken_when_its_forerunner_is_about_to_be_done(clock: SimpleNamespace) -> None:
    """Until then the device looks in short turns whether it is answered."""
    device = new_device()
    device._timing = Mock(due_s=100.0 + 2.5 * device_module.POLL_S)
    stream = Mock(under_way=1)

    def wait(seconds: float) -> None:
        clock.s += seconds

    stream.wait_while_under_way.side_effect = wait
    device._hold(stream)
    poll = call.wait_while_under_way(device_module.POLL_S)
    half = call.wait_while_under_way(pytest.approx(0.5 * device_module.POLL_S))
    assert stream.mock_calls == [poll, poll, half]
    stream = Mock(under_way=0)
    clock.s = 100.0
    device._hold(stream)
    assert stream.mock_calls == []


def packet_maker(refers: bool = True, **options: Any) -> tuple[PacketMaker, Mock]:
    """One of a bundle that can refer or not, and its encoder, whose packets are 39 bytes and the
    header."""
    bundle = Mock(**{"rate_points": BUNDLE.rate_points, "codec_id": CODEC, "refers": refers})
    encoder = Mock(spec=Encoder, bundle=bundle)
    header = PacketHeader(CODEC, 24, 16, 2, 3, 7)
    encoder.encode.return_value = Packet(header, bytes(39), {"compute": 4.5})
    return PacketMaker(encoder, **options), encoder


def test_a_frame_becomes_a_packet_of_the_rate_that_was_asked_for() -> None:
    maker, encoder = packet_maker(rate=2)
    assert encoder.bundle.rate_index.mock_calls == [call(2)], "another one is refused at once"
    assert (maker.letter, maker.codec_id, maker.rate_points) == ("x", CODEC, 3)
    frame = FRAME._replace(capture_ms=0.5, taken_s=9.5)
    made = maker.make(frame)
    data = bytes(encoder.encode.return_value)
    assert made == MadeFrame(3, 7, 9.5, data, 2, {"capture": 0.5, "compute": 4.5})
    (image, rate), options = encoder.encode.call_args
    assert image is frame.image
    assert rate == 2
    assert options == {"frame_number": 3, "timestamp_ns": 7, "references": None}
    sent = dsin_v1.EncodedFrame(
        packet=data, timestamp_ns=7, frame_number=3, held_us=11, sent_ns=22
    )  # fmt: skip
    assert maker.message(made, 11, 22) == dsin_v1.CameraMessage(frame=sent)


def test_a_controller_chooses_the_rate_and_is_told_what_it_took() -> None:
    controller = Mock(spec=RateController, predicted_sizes=[100.0, 1000.0, 3000.0])
    controller.next_rate.return_value = 1
    maker, encoder = packet_maker(controller=controller)
    maker.make(FRAME)
    assert encoder.encode.call_args.args[1] == 1
    size = len(encoder.encode.return_value)
    assert controller.mock_calls == [call.next_rate(None), call.sent(2, size)]


@pytest.mark.parametrize(
    ("bundle", "independent", "server", "refers"),
    [
        (True, False, True, True), (True, False, False, False), (True, True, True, False),
        (False, False, True, False),
    ],
)  # fmt: skip
def test_packets_refer_where_bundle_server_and_user_let_them(
    bundle: bool, independent: bool, server: bool, refers: bool
) -> None:
    maker, encoder = packet_maker(bundle, independent=independent)
    assert maker.refers == (bundle and not independent)
    maker.answered(dsin_v1.Ack(frame_number=3, status=dsin_v1.DECODED))  # of no connection
    maker.connected(takes_references=server)
    maker.make(FRAME)
    first = encoder.encode.call_args.kwargs["references"]
    assert isinstance(first, SentFrames) == refers
    maker.connected(takes_references=server)
    maker.make(FRAME)
    again = encoder.encode.call_args.kwargs["references"]
    assert (again is None) == (first is None)
    assert again is not first or not refers, "another connection begins anew"


def test_answers_tell_what_later_packets_may_refer_to() -> None:
    maker, encoder = packet_maker()
    maker.connected(takes_references=True)
    maker.make(FRAME)
    references = encoder.encode.call_args.kwargs["references"]
    assert isinstance(references, SentFrames), "they may, unless somebody forbids it"
    maker._sent = Mock(wraps=references)
    for ack in (
        dsin_v1.Ack(frame_number=3, status=dsin_v1.DECODED),
        dsin_v1.Ack(frame_number=4, status=dsin_v1.REJECTED),
        dsin_v1.Ack(frame_number=5, status=dsin_v1.SUPERSEDED),
        dsin_v1.Ack(frame_number=6, status=dsin_v1.REJECTED, reference_missing=True),
    ):
        maker.answered(ack)
    assert maker._sent.mock_calls == [call.confirm(3), call.forget(6)]


@pytest.mark.parametrize("quality", [None, 80])
def test_the_second_camera_sends_whole_pictures(quality: int | None) -> None:
    maker = PictureMaker(quality)
    assert (maker.letter, maker.codec_id, maker.rate_points) == ("y", b"", 0)
    frame = FRAME._replace(capture_ms=0.5, taken_s=9.5)
    made = maker.make(frame)
    assert made == MadeFrame(3, 7, 9.5, encode_picture(frame.image, quality), None, made.stage_ms)
    assert list(made.stage_ms) == ["capture", "picture"]
    assert made.stage_ms["capture"] == 0.5
    side = dsin_v1.SideFrame(
        picture=made.data, timestamp_ns=7, frame_number=3, held_us=11, sent_ns=22
    )  # fmt: skip
    assert maker.message(made, 11, 22) == dsin_v1.CameraMessage(side=side)
