"""What a device tells its rate control and its link, by values."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock, Mock, call

import pytest
from support.rig_fakes import BUNDLE, CODEC, FakeCamera, FakeEncoder, picture

from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.packet import PACKET_HEADER_BYTES
from dsin.runtime.codec.rate_control import RateController
from dsin.runtime.device import device as device_module
from dsin.runtime.device.device import Device, PacketMaker, PictureMaker
from dsin.runtime.device.link_follower import LinkFollower
from dsin.runtime.errors import DsinError
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
