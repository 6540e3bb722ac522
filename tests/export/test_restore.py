"""Checkpoints restored from bundles compute what the bundles compute."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import textured_pair
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from dsin.export import load_model
from dsin.export.cli import app
from dsin.export.edge.restore import DEAD
from dsin.export.restore import restore_checkpoint, restore_model, tensors
from dsin.runtime import Decoder, Encoder, open_bundle
from dsin.runtime.errors import BundleError, CheckpointError, ExportError
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.metrics import psnr_db
from dsin.runtime.sources.synthetic_rig import SyntheticRig
from dsin.training.checkpoint import load_model as load_checkpoint
from dsin.training.checkpoint import save_checkpoint
from dsin.training.edge.model import EdgeDsin
from dsin.training.paper.model import Dsin


def planes(image: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float()


def test_an_edge_bundle_becomes_its_model_again(edge_bundle: Path, edge_model: EdgeDsin) -> None:
    restored = restore_model(open_bundle(edge_bundle))
    assert isinstance(restored, EdgeDsin)
    assert restored.preset == edge_model.preset
    before, after = edge_model.state_dict(), restored.state_dict()
    assert set(before) == set(after)
    for name in before:
        if not name.startswith(("entropy.decoder", "entropy.steps", "entropy.hyper_gain")):
            # Scales come from a table of 64.
            room = 0.05 if name == "entropy.log_z_scale" else 1e-3
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=room, msg=name)
    x = planes(textured_pair(128, 192, 2)[0])
    for index in range(3):
        rate = torch.tensor([index])
        one, other = (m.reconstruct(x, rate) for m in (edge_model, restored))
        assert float(other.bits) == pytest.approx(float(one.bits), rel=0.05)
        assert psnr_db(one.x_dec.numpy(), other.x_dec.numpy()) > 35


def test_a_bundle_of_the_papers_model_becomes_its_model_again(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    restored = restore_model(bundle)
    assert isinstance(restored, Dsin)
    x = textured_pair(80, 96, 1)[0]
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder, torch.no_grad():
        symbols = encoder.latent(x)
        coded = restored.code(planes(x))
        np.testing.assert_array_equal(coded.symbols[0].numpy(), symbols)
        alone = decoder.decode_latent(symbols, None, *x.shape[:2]).image
        packet_bits = 8 * len(encoder.encode(x))
    assert np.abs(coded.x_dec[0].permute(1, 2, 0).numpy() - alone).max() < 0.6
    # The packet has a header of 40 bytes.
    assert float(coded.bits.sum()) == pytest.approx(packet_bits - 320, rel=0.05, abs=100)


@pytest.mark.parametrize(
    ("name", "rate", "least_db", "size"),
    [
        ("edge", 3, 36, (187, 811)),
        ("edge-structure", 3, 36, (187, 811)),
        ("paper", 0, 55, (87, 403)),
    ],
)
def test_shipped_models_give_the_decoders_picture_and_its_bits(
    name: str, rate: int, least_db: float, size: tuple[int, int]
) -> None:
    frame = SyntheticRig(frames=1).frame(0)
    x, y = (view[: size[0], : size[1]].copy() for view in (frame.left, frame.right))
    model = load_model(name)
    exact = f"{name}@float"
    with Encoder(exact) as encoder, Decoder(exact) as decoder, torch.no_grad():
        packet = encoder.encode(x, rate)
        alone, bits = model(planes(x), rate=rate)
        beside, _ = model(planes(x), planes(y), rate=rate)
        for picture, side in ((alone, None), (beside, y)):
            expected = decoder.decode(packet, side)
            assert expected.used_side == (side is not None)
            # Integers of the entropy model predict, and so round, a little otherwise.
            found = picture[0].permute(1, 2, 0).numpy()
            assert psnr_db(found, expected.image.astype(np.float32)) > least_db
    assert bits.tolist() == pytest.approx([8 * len(packet.payload)], rel=0.02)


def test_a_model_is_loaded_from_a_bundle_or_a_checkpoint(
    edge_bundle: Path, edge_checkpoint: Path, tmp_path: Path
) -> None:
    for source in (edge_bundle, str(edge_bundle), edge_checkpoint):
        assert isinstance(load_model(source), EdgeDsin)
    with pytest.raises(BundleError, match="there is no bundle"):
        load_model(tmp_path / "absent")


def test_the_command_writes_a_checkpoint(edge_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "back.pt"
    done = CliRunner().invoke(app, ["checkpoint", str(edge_bundle), "-o", str(out)])
    assert done.exit_code == 0, done.output
    restored, notes = load_checkpoint(out)
    assert isinstance(restored, EdgeDsin)
    assert notes["weights_licence"] == "random weights"
    assert notes["restored_from"] == edge_bundle.name


def test_what_is_said_of_a_bundle_is_not_said_of_what_it_will_become(
    edge_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(edge_bundle, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["training"] |= {"export": {"psnr_db": 1.0}, "metrics": {"bpp": 2.0}, "steps": 3}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    restore_checkpoint(copy, tmp_path / "back.pt")
    notes = load_checkpoint(tmp_path / "back.pt")[1]
    assert notes["steps"] == 3
    assert not {"export", "metrics"} & set(notes)


def test_constants_of_16_bits_come_as_floats_of_32(tmp_path: Path) -> None:
    constants = [
        numpy_helper.from_array(np.ones(2, np.float16), "a.half"),
        numpy_helper.from_array(np.ones(2, np.int64), "b"),
    ]
    model = helper.make_model(helper.make_graph([], "g", [], [], constants))
    onnx.save(model, tmp_path / "g.onnx")
    found = tensors(tmp_path / "g.onnx")
    assert {name: value.dtype for name, value in found.items()} == {"a": np.float32, "b": np.int64}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"preset": {"rates": 3}}, "no usable preset"), ({"preset": {}}, "of another model")],
)
def test_bundles_that_do_not_say_what_they_are_are_refused(
    edge_bundle: Path,
    tmp_path: Path,
    change: dict[str, object],
    words: str,
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(edge_bundle, copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ExportError, match=words):
        restore_model(open_bundle(copy))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"encoder_blocks": [1, 2]}, "'"), ({"coarse": 32}, "a kernel is .*, not ")],
)
def test_a_bundle_with_the_preset_of_other_sizes_is_refused(
    edge_bundle: Path, tmp_path: Path, sizes: dict[str, object], words: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(edge_bundle, copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["preset"]["codec"] |= sizes
    (copy / "bundle.json").write_text(json.dumps(manifest))
    told = f"copy does not have the weights that its preset names: {words}"
    with pytest.raises(ExportError, match=told):
        restore_model(open_bundle(copy))


@pytest.mark.parametrize("name", ["edge", "edge-structure"])
def test_features_that_never_were_at_work_come_back_as_zeros(name: str) -> None:
    """Their integers have no scale: as they are, weights reach 65,000, and float16 infinity."""
    for key, weight in restore_model(open_bundle(name)).state_dict().items():
        if key.startswith("entropy."):
            assert float(weight.abs().max()) <= DEAD, key


def test_large_weights_survive_float16_and_endless_ones_are_refused(
    edge_model: EdgeDsin, tmp_path: Path
) -> None:
    model = EdgeDsin(edge_model.preset)
    with torch.no_grad():
        model.fusion.out.weight[0, 0, 0, 0] = 1e6
        model.fusion.stem.weight[0, 0, 0, 0] = 0.1
    save_checkpoint(tmp_path / "half.pt", model, half=True)
    kept = load_checkpoint(tmp_path / "half.pt")[0].state_dict()
    assert kept["fusion.out.weight"][0, 0, 0, 0] == 1e6
    assert kept["fusion.stem.weight"][0, 0, 0, 0] == np.float16(0.1)
    with torch.no_grad():
        model.fusion.out.weight[0, 0, 0, 0] = torch.inf
    save_checkpoint(tmp_path / "endless.pt", model)
    with pytest.raises(CheckpointError, match=r"fusion\.out\.weight has values that are not"):
        load_checkpoint(tmp_path / "endless.pt")
