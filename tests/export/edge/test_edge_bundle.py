"""The `edge` model from checkpoint to bundle, packets and pictures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import SMALL, textured_pair

from dsin.export.restore import restore_checkpoint
from dsin.export.write_bundle import write_bundle
from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.codec.bundle import Bundle
from dsin.runtime.codec.packet import Packet
from dsin.runtime.codec.side_fusion import LEAST_SCORE
from dsin.runtime.entropy.hyper_codec import HyperTables
from dsin.runtime.errors import BundleError, CheckpointError, DsinError, ExportError, PacketError
from dsin.runtime.metrics import psnr_db
from dsin.training.checkpoint import load_checkpoint, load_edge_checkpoint, save_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.presets import EdgePreset, preset_from_dict, preset_to_dict


@pytest.fixture(scope="module")
def bundle(edge_bundle: Path) -> Bundle:
    return open_bundle(edge_bundle)


def test_the_manifest_tells_rates_and_entropy_model(bundle: Bundle) -> None:
    assert isinstance(bundle.entropy, HyperTables)
    assert len(bundle.rate_points) == SMALL.rates
    assert bundle.frame_multiple == (64, 64)
    assert bundle.weights_licence == "random weights"
    assert not bundle.truncate_to_uint8
    rates = [point.target_bpp for point in bundle.rate_points]
    assert bundle.default_rate == min(range(len(rates)), key=lambda n: abs(rates[n] - 0.06))


def test_graphs_name_what_they_take_and_weights_are_of_half_the_size(bundle: Bundle) -> None:
    def ends(values: object) -> dict[str, list[object]]:
        return {
            v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in values  # type: ignore[attr-defined]
        }

    kernels = {}
    files = {"encoder": "encoder", "x_decoder": "decoder", "fusion": "decoder", "hyper": "entropy"}
    for name, file in files.items():
        model = onnx.load(bundle.graph_path(name), load_external_data=False)
        kernels[name] = model.graph
        stored = [tensor for tensor in model.graph.initializer if tensor.external_data]
        assert {e.value for t in stored for e in t.external_data if e.key == "location"} == {
            f"{file}.weights"
        }
        half = {t.name for t in stored if t.data_type == onnx.TensorProto.FLOAT16}
        assert bool(half) == (name != "hyper")
    assert ends(kernels["encoder"].input) == {"x": [1, 3, "H", "W"], "rate": [1]}
    assert ends(kernels["encoder"].output) == {
        "y": [1, SMALL.latent, "h", "w"],
        "z": [1, SMALL.hyper, "hh", "ww"],
    }
    assert ends(kernels["x_decoder"].input) == {"y_hat": [1, SMALL.latent, "h", "w"], "rate": [1]}


@pytest.mark.parametrize("size", [(128, 192), (75, 100), (1, 1), (20, 130)])
def test_every_rate_and_size_goes_through_bytes(bundle: Bundle, size: tuple[int, int]) -> None:
    x, y = (view[: size[0], : size[1]] for view in textured_pair(128, 192, 1))
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        for rate in range(SMALL.rates):
            packet = encoder.encode(x, rate)
            decoded = decoder.decode(bytes(packet), y)
            latent = encoder.latent(x, rate=rate)
            again = decoder.decode_latent(latent, y, *size, rate=rate)
            assert decoded.image.shape == x.shape
            np.testing.assert_array_equal(decoded.image, again.image)
            alone = decoder.decode(packet, None)
            np.testing.assert_array_equal(alone.image, decoded.x_dec)
            assert not alone.used_side


def test_the_picture_is_what_training_computes(bundle: Bundle, edge_model: EdgeDsin) -> None:
    x, y = textured_pair(128, 192, 2)
    planes = torch.from_numpy(x.transpose(2, 0, 1)[None].copy()).float()
    expected = edge_model.reconstruct(planes, torch.tensor([1])).x_dec[0].permute(1, 2, 0).numpy()
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        got = decoder.decode(encoder.encode(x, 1), y).x_dec
    # The integer entropy model predicts slightly other means, and so other roundings.
    assert psnr_db(got, np.rint(expected).astype(np.uint8)) > 35


def test_a_side_image_prepared_for_another_rate_is_prepared_again(bundle: Bundle) -> None:
    x, y = textured_pair(128, 192, 3)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(x, rate=2)
        fit, other = (decoder.prepare_side(y, rate=rate) for rate in (2, 0))
        assert (fit.rate, other.rate) == (2, 0)
        assert decoder.prepare_side(fit, rate=2) is fit
        assert decoder.prepare_side(other, rate=2).rate == 2
        pictures = [decoder.decode(packet, side).image for side in (fit, other)]
        np.testing.assert_array_equal(*pictures)


def test_the_side_image_is_used_where_its_patches_score_well(bundle: Bundle) -> None:
    x, y = textured_pair(128, 192, 8)
    other = np.random.default_rng(0).integers(0, 256, y.shape, np.uint8)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        decoded = decoder.decode(encoder.encode(x, rate=2), other)
        assert decoded.matches is not None
        related = bool(np.median(decoded.matches.score) >= LEAST_SCORE)
        assert decoded.used_side == related
        assert np.array_equal(decoded.image, decoded.x_dec) == (not related)


def test_bytes_do_not_depend_on_threads(bundle: Bundle) -> None:
    x, _ = textured_pair(128, 192, 5)
    packets = []
    for threads in (1, 2):
        with Encoder(bundle, threads=threads) as encoder:
            packets.append(encoder.encode(x, rate=1))
    assert packets[0] == packets[1]


def test_exact_graphs_round_their_sums(edge_bundle: Path) -> None:
    """Or engines multiply the factors into the weights, and nothing is whole any more."""
    for name in ("hyper", "step0", "step1", "step2", "step3"):
        nodes = onnx.load(edge_bundle / f"{name}.onnx", load_external_data=False).graph.node
        made_by = {node.output[0]: node.op_type for node in nodes}
        factors = [node for node in nodes if node.op_type == "Mul"]
        assert factors
        assert all(made_by[node.input[0]] == "Round" for node in factors)


def test_foreign_rates_and_packets_are_refused(bundle: Bundle, edge_bundle: Path) -> None:
    x, _ = textured_pair(64, 64, 6)
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        with pytest.raises(DsinError, match="rates 0 to 2"):
            encoder.encode(x, rate=SMALL.rates)
        packet = encoder.encode(x, rate=0)
        for spoiled in (packet.payload[:-1], b"", packet.payload + b"\0"):
            with pytest.raises(PacketError):
                decoder.decode(Packet(packet.header, spoiled), None)


def test_the_two_models_are_not_confused(edge_checkpoint: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="edge model"):
        load_checkpoint(edge_checkpoint)
    with pytest.raises(CheckpointError, match="paper's model"):
        load_edge_checkpoint(tiny_checkpoint)


def test_presets_come_back_from_plain_data() -> None:
    preset = EdgePreset(codec=SMALL)
    assert preset_from_dict(preset_to_dict(preset)) == preset


def test_an_existing_folder_is_not_overwritten(edge_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="not a bundle"):
        write_bundle(edge_checkpoint, tmp_path, calibration_frames=textured_pair(64, 64, 0))


@pytest.mark.parametrize("name", ["scale_numbers", "z_scales"])
def test_tables_that_name_no_scale_are_refused(bundle: Bundle, name: str) -> None:
    assert isinstance(bundle.entropy, HyperTables)
    arrays = bundle.entropy.to_arrays()
    with pytest.raises(BundleError, match="lack"):
        HyperTables.from_arrays({**arrays, name: np.full_like(arrays[name], 255)})
    with pytest.raises(BundleError, match=name):
        HyperTables.from_arrays({k: v for k, v in arrays.items() if k != name})


def test_two_steps_and_a_pointwise_last_layer(tmp_path: Path) -> None:
    """The second generation's sizes, through bytes and back to a checkpoint."""
    torch.manual_seed(5)
    codec = replace(SMALL, entropy_steps=2, out_kernel=1)
    model = EdgeDsin(EdgePreset(name="two", codec=codec)).eval()
    save_checkpoint(tmp_path / "two.pt", model)
    frames = textured_pair(128, 192, 0)
    assert all(write_bundle(tmp_path / "two.pt", tmp_path / "two", calibration_frames=frames))
    bundle = open_bundle(tmp_path / "two")
    assert bundle.entropy_graphs == ("hyper", "step0", "step1")
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(frames[0], rate=1)
        expected = decoder.decode_latent(encoder.latent(frames[0], rate=1), None, 128, 192, rate=1)
        np.testing.assert_array_equal(decoder.decode(packet, None).image, expected.image)
    restore_checkpoint(tmp_path / "two", tmp_path / "again.pt")
    again, _ = load_edge_checkpoint(tmp_path / "again.pt")
    torch.testing.assert_close(again.decoder.out.weight, model.decoder.out.weight)


@pytest.mark.parametrize(
    "change", [{"measure": "l2"}, {"stretched_patches": True}, {"off_centre_prior": True}]
)
def test_a_search_that_blocks_cannot_refine_is_refused(
    edge_bundle: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shutil.copytree(edge_bundle, tmp_path / "edge")
    path = tmp_path / "edge" / "bundle.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "search": {**manifest["search"], **change}}))
    with pytest.raises(BundleError, match=r"search: (measure must be pearson|stretched patches)"):
        open_bundle(tmp_path / "edge")


@pytest.mark.parametrize("kept", [{"step0"}, {"step0", "step1", "step2"}, {"step1", "step2"}])
def test_steps_that_are_no_order_of_coding_are_refused(
    edge_bundle: Path, tmp_path: Path, kept: set[str]
) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(edge_bundle, spoiled)
    manifest = json.loads((spoiled / "bundle.json").read_text())
    for name in [n for n in manifest["graphs"] if n.startswith("step") and n not in kept]:
        del manifest["graphs"][name]
    (spoiled / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="must have step0 and step1, or step0 to step3"):
        open_bundle(spoiled)
