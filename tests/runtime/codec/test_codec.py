"""Encoder, decoder and backend on a bundle whose pictures can be worked out by hand."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.block_bundle import STEP, graphs, relist, write_block_bundle

from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.backends.ort import ort_session
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.edge import EdgePictureEncoder
from dsin.runtime.codec.packet import Packet, PacketHeader
from dsin.runtime.entropy.context_model import IntegerContextModel, cross_entropy_bits
from dsin.runtime.errors import BackendError, BundleError, DsinError, FrameError, PacketError
from dsin.runtime.patch_correlation.definition import match, synthesise
from dsin.runtime.pictures import Image, pad
from dsin.runtime.stopwatch import Stopwatch


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(write_block_bundle(tmp_path_factory.mktemp("codec") / "blocks"))


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> Encoder:
    return Encoder(bundle, threads=1)


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> Decoder:
    return Decoder(bundle, threads=1)


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A smooth random picture with some noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0, 255, (-(-height // 16), -(-width // 16), 3))
    image = blocks.repeat(16, 0).repeat(16, 1)[:height, :width] + rng.normal(
        0, 8, (height, width, 3)
    )
    return image.clip(0, 255).astype(np.uint8)


def block_means(frame: Image) -> npt.NDArray[np.uint8]:
    """The hand-made encoder in NumPy."""
    padded = pad(frame, (40, 24)).astype(np.float64)
    h, w = padded.shape[0] // 8, padded.shape[1] // 8
    means = padded.reshape(h, 8, w, 8, 3).mean((1, 3))
    return np.rint(means / STEP).astype(np.uint8)


class TestRoundTrip:
    @pytest.mark.parametrize("size", [(40, 48), (41, 47), (80, 96), (1, 1), (375, 1242)])
    def test_without_side_the_picture_is_the_blocks(
        self, encoder: Encoder, decoder: Decoder, size: tuple[int, int]
    ) -> None:
        frame = picture(*size)
        expected = block_means(frame).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]] * STEP
        assert np.array_equal(decoder.decode(encoder.encode(frame), None).image, expected)

    def test_with_side_the_picture_is_the_rounded_mean(
        self, encoder: Encoder, decoder: Decoder
    ) -> None:
        frame, side = picture(80, 96), picture(80, 96, seed=1)
        packet = encoder.encode(frame)
        decoded = decoder.decode(bytes(packet), side)
        assert decoded.y_syn is not None
        mean = (decoded.x_dec.astype(np.float64) + decoded.y_syn) / 2
        assert np.array_equal(decoded.image, np.rint(mean))
        assert (decoded.used_side, decoded.header) == (True, packet.header)

    def test_the_search_gets_both_reconstructions_and_the_side_image(
        self, encoder: Encoder, decoder: Decoder, bundle: Bundle
    ) -> None:
        frame, side = picture(80, 96), picture(80, 96, seed=1)
        x_dec, y_dec = (block_means(f).repeat(8, 0).repeat(8, 1) * STEP for f in (frame, side))
        decoded = decoder.decode(encoder.encode(frame), side)
        expected = match(x_dec.astype(np.float32), y_dec.astype(np.float32))
        assert decoded.matches is not None
        assert np.array_equal(decoded.matches.row, expected.row)
        assert np.array_equal(decoded.matches.col, expected.col)
        assert decoded.y_syn is not None
        assert np.array_equal(decoded.y_syn, synthesise(side, expected))

    def test_the_header_carries_what_was_given(self, encoder: Encoder, bundle: Bundle) -> None:
        packet = encoder.encode(picture(30, 50), 0, frame_number=9, timestamp_ns=12345)
        assert packet.header == PacketHeader(bundle.codec_id, 50, 30, 0, 9, 12345)
        default = encoder.encode(picture(30, 50))
        assert default.header.rate == bundle.default_rate == 1

    def test_bytes_do_not_depend_on_the_number_of_threads(
        self, encoder: Encoder, bundle: Bundle
    ) -> None:
        frame = picture(100, 200)
        with Encoder(bundle, threads=2) as other:
            assert other.encode(frame) == encoder.encode(frame)

    def test_features_of_a_side_image_serve_many_packets(
        self, encoder: Encoder, decoder: Decoder
    ) -> None:
        side = picture(80, 96, seed=1)
        features = decoder.prepare_side(side)
        assert set(features.stage_ms) == {"compute", "prepare"}
        for seed in (2, 3):
            packet = encoder.encode(picture(80, 96, seed))
            pictures = [decoder.decode(packet, view).image for view in (features, side)]
            assert np.array_equal(*pictures)

    def test_decoding_may_start_from_the_latent(self, encoder: Encoder, decoder: Decoder) -> None:
        frame, side = picture(70, 90), picture(70, 90, seed=1)
        symbols = encoder.latent(frame)
        assert np.array_equal(symbols, block_means(frame).transpose(2, 0, 1))
        decoded = decoder.decode_latent(symbols, side, 70, 90)
        assert decoded.header is None
        assert np.array_equal(decoded.image, decoder.decode(encoder.encode(frame), side).image)

    def test_every_stage_is_timed(self, encoder: Encoder, decoder: Decoder) -> None:
        coded = encoder.encode(picture(40, 48))
        assert set(coded.stage_ms) == {"preprocess", "compute", "entropy", "packetise"}
        alone = decoder.decode(coded, None)
        assert set(alone.stage_ms) == {"entropy", "x_decoder", "postprocess"}
        assert (alone.used_side, alone.y_syn, alone.matches) == (False, None, None)
        aided = decoder.decode(coded, picture(40, 48))
        assert set(aided.stage_ms) == {
            "entropy",
            "x_decoder",
            "search",
            "fusion",
            "postprocess",
        }

    def test_a_bundle_may_ask_for_truncation(self, encoder: Encoder, tmp_path: Path) -> None:
        # Another rounding changes no symbol and no probability: packets stay exchangeable.
        truncating = write_block_bundle(tmp_path / "b", truncate_to_uint8=True)
        frame, side = picture(80, 96), picture(80, 96, seed=1)
        with Decoder(truncating) as other:
            decoded = other.decode(encoder.encode(frame), side)
        assert decoded.y_syn is not None
        mean = (decoded.x_dec.astype(np.float64) + decoded.y_syn) / 2
        assert np.array_equal(decoded.image, np.floor(mean))

    def test_frames_may_be_coded_from_several_threads(
        self, encoder: Encoder, decoder: Decoder
    ) -> None:
        frames = [picture(80, 96, seed) for seed in range(4)]
        expected = [decoder.decode(encoder.encode(f), frames[0]).image for f in frames]
        results: dict[int, Image] = {}

        def work(index: int) -> None:
            results[index] = decoder.decode(encoder.encode(frames[index]), frames[0]).image

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(np.array_equal(results[i], expected[i]) for i in range(4))


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small model of the paper's kind, exported."""
    from dsin.export.write_bundle import write_bundle

    directory = tmp_path_factory.mktemp("exported") / "tiny"
    frames = [picture(80, 96, seed) for seed in range(2)]
    write_bundle(tiny_checkpoint, directory, calibration_frames=frames)
    return open_bundle(directory)


class TestExportedModel:
    def test_the_whole_path_gives_the_models_own_picture(
        self, exported: Bundle, tiny_checkpoint: Path
    ) -> None:
        import torch

        from dsin.training.checkpoint import load_checkpoint
        from dsin.training.data import to_tensor

        frame, side = picture(80, 96), picture(80, 96, seed=1)
        with Encoder(exported, threads=1) as encoder, Decoder(exported, threads=1) as decoder:
            decoded = decoder.decode(encoder.encode(frame), side)
        model, _ = load_checkpoint(tiny_checkpoint)
        with torch.no_grad():
            x_dec = model.code(to_tensor(frame)[None]).x_dec
            x_hat = model.fuse(x_dec, to_tensor(side)[None]).x_hat.clamp(0, 255)
        for ours, theirs in ((decoded.x_dec, x_dec), (decoded.image, x_hat)):
            assert np.abs(ours - theirs[0].numpy().transpose(1, 2, 0)).max() < 0.52

    def test_coded_bytes_are_near_the_cross_entropy(self, exported: Bundle) -> None:
        with Encoder(exported, threads=1) as encoder:
            frame = picture(160, 192)
            assert isinstance(exported.entropy, IntegerContextModel)
            bits = cross_entropy_bits(exported.entropy, encoder.latent(frame))
            payload = encoder.encode(frame).payload
        assert bits / 8 <= len(payload) + 1
        assert len(payload) <= 1.01 * bits / 8 + 16


class TestBadInput:
    @pytest.mark.parametrize(
        "frame",
        [
            np.zeros((40, 48), np.uint8),
            np.zeros((40, 48, 1), np.uint8),
            np.zeros((40, 48, 4), np.uint8),
            np.zeros((40, 48, 3), np.uint16),
            np.zeros((40, 48, 3), np.float32),
            np.zeros((0, 48, 3), np.uint8),
            np.broadcast_to(np.uint8(0), (1, 70000, 3)),
            np.broadcast_to(np.uint8(0), (60000, 60000, 3)),
        ],
        ids=lambda frame: f"{'x'.join(map(str, frame.shape))}-{frame.dtype}",
    )
    def test_frames_that_are_no_8_bit_colour_image(
        self, encoder: Encoder, decoder: Decoder, frame: npt.NDArray[np.generic]
    ) -> None:
        with pytest.raises(FrameError):
            encoder.encode(frame)
        with pytest.raises(FrameError, match="side image"):
            decoder.decode(encoder.encode(picture(40, 48)), frame)

    def test_a_side_image_of_another_size(self, encoder: Encoder, decoder: Decoder) -> None:
        packet = encoder.encode(picture(40, 48))
        with pytest.raises(FrameError, match="side image is 47x40, but the packet is of 48x40"):
            decoder.decode(packet, picture(40, 47))
        with pytest.raises(FrameError, match="both views must have one size"):
            decoder.decode(packet, decoder.prepare_side(picture(41, 48)))

    @pytest.mark.parametrize("rate", [-1, 2, 255])
    def test_a_rate_that_the_bundle_lacks(self, encoder: Encoder, rate: int) -> None:
        with pytest.raises(DsinError, match=f"has rates 0 to 1, not {rate}"):
            encoder.encode(picture(40, 48), rate=rate)

    def test_a_packet_with_a_rate_that_the_bundle_lacks(
        self, encoder: Encoder, decoder: Decoder, bundle: Bundle
    ) -> None:
        coded = encoder.encode(picture(40, 48))
        packet = Packet(PacketHeader(bundle.codec_id, 48, 40, rate=2), coded.payload)
        with pytest.raises(PacketError, match="rate 2"):
            decoder.decode(packet, None)

    def test_a_packet_of_another_bundle(self, encoder: Encoder, tmp_path: Path) -> None:
        with (
            Decoder(write_block_bundle(tmp_path / "b", model_id="cd" * 32)) as other,
            pytest.raises(PacketError, match="packet was made by another bundle"),
        ):
            other.decode(encoder.encode(picture(40, 48)), None)

    def test_every_truncation_and_bit_flip(self, encoder: Encoder, decoder: Decoder) -> None:
        packet = bytes(encoder.encode(picture(40, 48)))
        for length in range(len(packet)):
            with pytest.raises(PacketError):
                decoder.decode(packet[:length], None)
        for bit in range(8 * len(packet)):
            flipped = bytearray(packet)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(PacketError):
                decoder.decode(bytes(flipped), None)

    @settings(max_examples=50, deadline=None)
    @given(payload=st.binary(max_size=60), width=st.integers(1, 60), height=st.integers(1, 60))
    def test_payloads_that_no_encoder_made(
        self, decoder: Decoder, bundle: Bundle, payload: bytes, width: int, height: int
    ) -> None:
        # A checksum is no defence against a sender of ill will.
        packet = Packet(PacketHeader(bundle.codec_id, width, height), payload)
        with pytest.raises(PacketError):
            decoder.decode(packet, None)

    def test_a_graph_that_yields_foreign_symbols(self, tmp_path: Path) -> None:
        directory = write_block_bundle(tmp_path / "b")
        graph = graphs()["encoder"]
        for tensor in graph.graph.initializer:
            if tensor.name == "last":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(200), "last"))
            if tensor.name == "step":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(1), "step"))
        onnx.save(graph, directory / "encoder.onnx")
        relist(directory)
        with (
            Encoder(directory) as encoder,
            pytest.raises(BundleError, match="does not yield the symbols"),
        ):
            encoder.encode(picture(40, 48))


class TestBackend:
    def test_a_session_says_what_it_runs_on(self, bundle: Bundle) -> None:
        session = open_session(bundle.graph_path("fusion"))
        assert session.provider == "CPUExecutionProvider"
        planes = np.ones((1, 3, 8, 8), np.float32)
        assert np.array_equal(session.run(x_dec=planes, y_syn=3 * planes)["x_hat"], 2 * planes)

    def test_cuda_that_is_not_there_is_an_error_with_its_cure(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"]
        )
        with pytest.raises(BackendError, match=r"pip install 'dsin\[gpu\]'"):
            Encoder(bundle, "cuda")

    def test_a_session_that_fell_back_to_the_cpu_is_refused(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
        both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
        monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: fallen)
        with pytest.raises(BackendError, match="would run on CPUExecutionProvider"):
            ort_session(bundle.graph_path("encoder"), both[0], both, None)

    def test_a_missing_onnxruntime_is_an_error_with_its_cure(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(BackendError, match=r"pip install 'dsin\[cpu\]'"):
            open_session(bundle.graph_path("encoder"))

    def test_an_unknown_backend_is_named(self, bundle: Bundle) -> None:
        with pytest.raises(BackendError, match="no backend 'tpu': use cpu or cuda"):
            open_session(bundle.graph_path("encoder"), "tpu")  # type: ignore[arg-type]

    def test_a_file_that_is_no_graph_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "encoder.onnx"
        path.write_bytes(b"not a graph")
        with pytest.raises(BackendError, match="cannot load") as caught:
            open_session(path)
        assert "\n" not in str(caught.value)

    def test_weights_outside_the_bundle_are_refused(self, tmp_path: Path) -> None:
        directory = write_block_bundle(tmp_path / "b")
        (tmp_path / "secret").write_bytes(bytes(3 * 64 * 4))
        graph = graphs()["x_decoder"]
        (kernel,) = graph.graph.initializer
        kernel.ClearField("raw_data")
        kernel.data_location = onnx.TensorProto.EXTERNAL
        kernel.external_data.add(key="location", value="../secret")
        path = directory / "x_decoder.onnx"
        path.write_bytes(graph.SerializeToString())
        relist(directory)
        with pytest.raises(BackendError, match="cannot load"):
            Decoder(directory)


@pytest.mark.parametrize("spoilt", ["channels", "y", "z"])
def test_an_encoder_that_yields_no_latents_of_its_bundle_is_refused(spoilt: str) -> None:
    """Before anything is coded of them."""
    graph = {"y": np.ones((1, 3, 2, 2), np.float32), "z": np.ones((1, 4, 1, 1), np.float32)}
    if spoilt != "channels":
        graph[spoilt].flat[0] = np.nan
    opened: Any = EdgePictureEncoder.__new__(EdgePictureEncoder)
    opened._path, opened._channels = Path("e.onnx"), 4 if spoilt == "channels" else 3
    opened._session = SimpleNamespace(run=lambda **_: graph)
    with pytest.raises(BundleError) as refused:
        opened.encode(np.zeros((1, 32, 32, 3), np.uint8), 0, Stopwatch())
    assert str(refused.value) == "e.onnx does not yield the latents of this bundle"
