"""Frames that refer to earlier ones: what is saved, what comes out, what is refused."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.codec import changes
from dsin.runtime.codec.changes import SentPicture, changed_blocks
from dsin.runtime.codec.packet import Packet, PacketHeader, Reference
from dsin.runtime.codec.references import KEPT, DecodedFrames, SentFrames
from dsin.runtime.entropy.hyper_codec import CodedLatent
from dsin.runtime.errors import DsinError, PacketError, ReferenceMissingError
from dsin.runtime.pictures import Image
from dsin.runtime.sources.synthetic_rig import SyntheticRig

SIZE = (120, 248)


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    with Encoder(open_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(open_bundle(), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def scene() -> Image:
    return SyntheticRig(width=SIZE[1], height=SIZE[0], frames=1).view(0, "left")


def noisy(scene: Image, seed: int, sigma: float = 2.0) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, scene.shape)
    return np.clip(np.rint(scene + noise), 0, 255).astype(np.uint8)


def psnr(a: Image, b: Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


class Pair:
    """A device and a server; `send` sends one frame, `arrives` says whether it is not lost."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        self.sent, self.decoded = SentFrames(), DecodedFrames()
        self._encoder, self._decoder = encoder, decoder
        self._number = 0

    def send(
        self, frame: Image, rate: int | None = None, *, arrives: bool = True
    ) -> tuple[Packet, Image | None]:
        self._number += 1
        packet = self._encoder.encode(
            frame, rate, frame_number=self._number, references=self.sent
        )  # fmt: skip
        if not arrives:
            return packet, None
        picture = self._decoder.decode(bytes(packet), None, references=self.decoded).image
        self.sent.confirm(self._number)
        return packet, picture


@pytest.fixture
def pair(encoder: Encoder, decoder: Decoder) -> Pair:
    return Pair(encoder, decoder)


def test_standing_still_costs_a_tenth_at_equal_quality(
    pair: Pair, encoder: Encoder, decoder: Decoder, scene: Image
) -> None:
    sizes, alone, quality, quality_alone = [], [], [], []
    for seed in range(6):
        frame = noisy(scene, seed)
        packet, picture = pair.send(frame, 7)
        independent = encoder.encode(frame, 7)
        assert picture is not None
        assert (packet.header.reference is None) == (seed == 0)
        sizes.append(len(packet))
        alone.append(len(independent))
        quality.append(psnr(picture, frame))
        quality_alone.append(psnr(decoder.decode(independent, None).image, frame))
    assert sum(sizes[1:]) < 0.1 * sum(alone[1:])
    assert np.mean(quality) > np.mean(quality_alone) - 0.02


def test_the_first_frame_is_the_packet_without_references(
    pair: Pair, encoder: Encoder, scene: Image
) -> None:
    assert pair.send(scene)[0] == encoder.encode(scene, frame_number=1)


def test_every_decoded_picture_is_the_right_one_when_frames_are_lost(
    pair: Pair, encoder: Encoder, decoder: Decoder, scene: Image
) -> None:
    for number in range(12):
        frame = noisy(scene, number)
        frame[40:70, 10 + 15 * number : 40 + 15 * number] = 255 - frame[40:70, :30]
        packet, picture = pair.send(frame, 5, arrives=number % 5 != 2)
        if picture is not None:
            alone = decoder.decode(encoder.encode(frame, 5), None).image
            assert psnr(picture, frame) > psnr(alone, frame) - 0.25
            assert (packet.header.reference is not None) == (number > 0)


def test_what_the_server_did_not_confirm_is_not_referred_to(pair: Pair, scene: Image) -> None:
    pair.send(scene)
    for _ in range(KEPT - 2):
        packet, _ = pair.send(scene, arrives=False)
        assert packet.header.reference is not None
        assert packet.header.reference.frame_number == 1
    packet, picture = pair.send(scene)
    assert picture is not None
    assert packet.header.reference is not None
    newer, _ = pair.send(scene)
    assert newer.header.reference == Reference(packet.header.frame_number, packet.checksum)


def test_a_frame_that_the_server_may_have_forgotten_is_not_referred_to(
    pair: Pair, scene: Image
) -> None:
    pair.send(scene)
    packets = [pair.send(scene, arrives=False)[0] for _ in range(KEPT + 1)]
    assert [p.header.reference is None for p in packets] == [False] * KEPT + [True]
    assert pair.send(scene)[0].header.reference is None


def test_another_rate_or_size_stands_alone(pair: Pair, scene: Image) -> None:
    pair.send(scene, 2)
    assert pair.send(scene, 3)[0].header.reference is None
    assert pair.send(scene, 3)[0].header.reference is not None
    again = pair.send(scene, 2)[0].header.reference
    assert again is not None, "the one before the last of its rate"
    assert again.frame_number == 1
    assert pair.send(scene[:, :-2], 3)[0].header.reference is None


def test_another_picture_stands_alone(pair: Pair, scene: Image) -> None:
    pair.send(scene)
    assert pair.send(np.ascontiguousarray(255 - scene[::-1]))[0].header.reference is None


def test_a_server_that_lost_its_frames_gets_a_whole_one(pair: Pair, scene: Image) -> None:
    pair.send(scene)
    pair.decoded.clear()
    under_way, _ = pair.send(scene, arrives=False)
    with pytest.raises(ReferenceMissingError, match="frame 1, which is not among the last"):
        pair.send(scene)
    pair.sent.forget(under_way.header.frame_number + 1)
    packet, picture = pair.send(scene)
    assert packet.header.reference is None
    assert picture is not None
    # The answer to a frame that was under way says nothing about this one.
    pair.sent.forget(under_way.header.frame_number)
    assert pair.send(scene)[0].header.reference is not None
    pair.sent.forget()
    assert pair.send(scene)[0].header.reference is None


def test_a_slow_change_does_not_stay_behind(
    pair: Pair, encoder: Encoder, decoder: Decoder, scene: Image
) -> None:
    """No step is worth coding, all of them together are."""
    for step in range(16):
        drifted = np.rint(scene * (1 - 0.02 * step)).astype(np.uint8)
        packet, picture = pair.send(drifted, 6)
        assert (packet.header.reference is None) == (step == 0)
    assert picture is not None
    alone = decoder.decode(encoder.encode(drifted, 6), None).image
    assert psnr(picture, drifted) > psnr(alone, drifted) - 0.4


def test_one_frame_of_many_stands_alone_even_if_it_is_lost(
    pair: Pair, scene: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "WHOLE_EVERY", 3)
    scene = scene[:64, :64]
    alone = [
        pair.send(scene, arrives=number != 3)[0].header.reference is None for number in range(8)
    ]
    assert alone == [True, False, False, True, True, False, False, True]


def test_where_little_is_saved_frames_stand_alone() -> None:
    y = np.ones((3, 8, 16), np.float32)
    latent = CodedLatent(np.zeros_like(y), np.zeros((2, 2, 4), np.int32))
    blocks = np.full((4, 8), 100, np.float32)
    picture = SentPicture(latent, 0 * blocks, blocks, 0)
    assert changed_blocks(10 * y, picture) is None
    assert changed_blocks(y / 10, picture) is not None
    cheap = picture._replace(bits=blocks / 100)  # not worth its header
    assert changed_blocks(y / 100, cheap) is None


def test_a_decoder_without_memory_refuses_packets_that_refer(
    pair: Pair, decoder: Decoder, scene: Image
) -> None:
    pair.send(scene)
    packet, _ = pair.send(scene)
    with pytest.raises(ReferenceMissingError, match="send one that stands alone"):
        decoder.decode(packet, None)


def test_a_frame_of_the_same_number_is_not_taken_for_the_reference(
    pair: Pair, encoder: Encoder, decoder: Decoder, scene: Image
) -> None:
    pair.send(scene)
    packet, _ = pair.send(scene)
    other = DecodedFrames()
    decoder.decode(encoder.encode(scene[::-1], frame_number=1), None, references=other)
    with pytest.raises(ReferenceMissingError):
        decoder.decode(packet, None, references=other)
    assert len(other) == 1


def test_a_reference_of_another_kind_is_refused(
    pair: Pair, encoder: Encoder, decoder: Decoder, scene: Image
) -> None:
    first, _ = pair.send(scene, 2)
    reference = Reference(1, first.checksum)
    codec = encoder.bundle.codec_id
    for header in (
        PacketHeader(codec, SIZE[1], SIZE[0], 3, 2, reference=reference),
        PacketHeader(codec, SIZE[1] - 1, SIZE[0], 2, 2, reference=reference),
    ):
        with pytest.raises(PacketError, match="another size or rate"):
            decoder.decode(Packet(header, first.payload), None, references=pair.decoded)


def test_memory_is_bounded(pair: Pair, scene: Image) -> None:
    for seed in range(KEPT + 3):
        pair.send(noisy(scene[:64, :64], seed))
    assert len(pair.decoded) == KEPT


@settings(max_examples=40, deadline=None)
@given(payload=st.binary(max_size=60), flip=st.integers(0, 2**16))
def test_payloads_that_no_encoder_made(
    encoder: Encoder, decoder: Decoder, payload: bytes, flip: int
) -> None:
    scene = np.full((64, 64, 3), 90, np.uint8)
    scene[20:40] = 200
    pair = Pair(encoder, decoder)
    pair.send(scene)
    packet, _ = pair.send(scene)
    assert packet.header.reference is not None
    spoiled = bytearray(packet.payload)
    spoiled[flip // 8 % len(spoiled)] ^= 1 << flip % 8
    for foreign in (payload, bytes(spoiled)):
        before = len(pair.decoded)
        try:
            decoder.decode(Packet(packet.header, foreign), None, references=pair.decoded)
        except PacketError:
            assert len(pair.decoded) == before


def test_bundles_whose_frames_stand_alone_say_so(scene: Image) -> None:
    bundle = open_bundle("paper")
    assert (bundle.refers, open_bundle().refers) == (False, True)
    with (
        Encoder(bundle, threads=1) as encoder,
        pytest.raises(DsinError, match="all stand alone: encode without references"),
    ):
        encoder.encode(scene, references=SentFrames())
