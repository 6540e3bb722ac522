"""Further fusions of a bundle, for the same packets: looks that a server chooses."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import textured_pair

from dsin.export.edge.look import add_look
from dsin.export.edge.refit import refit_bundle
from dsin.export.int8_bundle import calibrate_bundle
from dsin.export.restore import restore_checkpoint
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.precision import exact_name
from dsin.runtime.errors import BundleError, ExportError, FrameError
from dsin.runtime.files import write_json
from dsin.runtime.manifest import MANIFEST
from dsin.training.checkpoint import save_checkpoint
from dsin.training.edge.model import EdgeDsin


@pytest.fixture(scope="module")
def sharp(flow_model: EdgeDsin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of another fusion for the small bundle's codec."""
    model = EdgeDsin(flow_model.preset)
    model.load_state_dict(flow_model.state_dict())
    torch.manual_seed(8)
    torch.nn.init.normal_(model.fusion.out.weight, std=0.03)
    path = tmp_path_factory.mktemp("sharp") / "sharp.pt"
    save_checkpoint(path, model.eval(), notes={"pairs": 5, "weights_licence": "of the fusion"})
    return path


@pytest.fixture(scope="module")
def looks(flow_bundle: Path, sharp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("looks") / "bundle"
    add_look(flow_bundle, "sharp", sharp, [], out)
    return out


def test_a_look_changes_the_picture_and_nothing_else(flow_bundle: Path, looks: Path) -> None:
    x, _ = textured_pair(100, 150, 9)
    with (
        Encoder(flow_bundle) as before, Encoder(f"{looks}@sharp") as after,
        Decoder(flow_bundle) as old, Decoder(looks) as faithful,
        Decoder(f"{looks}@sharp") as other,
    ):  # fmt: skip
        packet = before.encode(x, 1)
        assert bytes(after.encode(x, 1)) == bytes(packet)
        # What an untrained codec makes of x: a view that shows it.
        y = old.decode(packet, None).image
        same, own, sharp = (decoder.decode(packet, y) for decoder in (old, faithful, other))
        assert faithful.bundle.look == "faithful"
        assert other.bundle.look == "sharp"
    np.testing.assert_array_equal(own.image, same.image)
    np.testing.assert_array_equal(sharp.x_dec, same.x_dec)
    assert sharp.used_side
    assert (sharp.image != same.image).mean() > 0.2


def test_the_manifest_tells_how_a_look_was_trained(flow_bundle: Path, looks: Path) -> None:
    """Its weights are in 16 bits, as the bundle's own are."""
    before, after = (json.loads((path / MANIFEST).read_text()) for path in (flow_bundle, looks))
    assert after == {
        **before,
        "looks": {"sharp": {"fusion": "fusion_sharp.onnx"}},
        "training": {**before["training"], "looks": {"sharp": {"pairs": 5}}},
        "files": {
            **before["files"],
            **{
                name: after["files"][name] for name in ("fusion_sharp.onnx", "fusion_sharp.weights")
            },
        },
    }
    model = onnx.load(looks / "fusion_sharp.onnx", load_external_data=False)
    kinds = {t.data_type for t in model.graph.initializer if t.name.endswith("weight.half")}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_a_look_is_named_behind_the_bundle_beside_a_precision(looks: Path) -> None:
    for choices in ("float@sharp", "sharp@float"):
        bundle = open_bundle(f"{looks}@{choices}")
        assert (bundle.precision, bundle.look) == ("float", "sharp")
        assert exact_name(bundle) == f"{looks.resolve()}@float@sharp"
        assert bundle.graphs["fusion"] == "fusion_sharp.onnx"


def test_a_look_that_a_bundle_lacks_is_refused(looks: Path) -> None:
    with pytest.raises(BundleError, match="no look structure: it has faithful, sharp"):
        open_bundle(f"{looks}@structure")
    with pytest.raises(BundleError, match=r"no look sharp: it has faithful$"):
        open_bundle("paper@sharp")


def test_a_look_is_replaced_by_another_of_its_name(
    looks: Path, flow_model: EdgeDsin, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "other.pt", flow_model)
    add_look(looks, "structure", tmp_path / "other.pt", [], tmp_path / "two")
    add_look(tmp_path / "two", "sharp", tmp_path / "other.pt", [], tmp_path / "again")
    bundle = open_bundle(tmp_path / "again")
    assert sorted(bundle.looks) == ["sharp", "structure"]
    graphs = [(bundle.path / files["fusion"]).read_bytes() for files in bundle.looks.values()]
    weights = [(bundle.path / f"fusion_{look}.weights").read_bytes() for look in bundle.looks]
    assert weights[0] == weights[1]
    assert graphs[0] != graphs[1]  # each names its own file


def test_what_does_not_belong_together_is_refused(
    edge_bundle: Path, looks: Path, sharp: Path, tmp_path: Path
) -> None:
    restore_checkpoint("edge", trained := tmp_path / "trained.pt")
    with pytest.raises(ExportError, match="another search"):
        add_look(edge_bundle, "sharp", sharp, [], tmp_path / "out")
    with pytest.raises(ExportError, match="beside a bundle's own"):
        add_look(f"{looks}@sharp", "structure", sharp, [], tmp_path / "out")
    with pytest.raises(ExportError, match="beside a bundle's own"):
        add_look(looks, "faithful", sharp, [], tmp_path / "out")
    with pytest.raises(ExportError, match="paper cannot get a look: name a float edge bundle"):
        add_look("paper", "sharp", sharp, [], tmp_path / "out")
    with pytest.raises(ExportError, match="paper cannot get another fusion: name a float edge"):
        refit_bundle("paper", sharp, tmp_path / "out")
    with pytest.raises(ExportError, match="cannot get another fusion: name a float edge bundle"):
        refit_bundle(f"{looks}@sharp", sharp, tmp_path / "out")
    with pytest.raises(ExportError, match="name the bundle without a look"):
        calibrate_bundle(f"{looks}@sharp", [], tmp_path / "out")
    with pytest.raises(FrameError, match="edge has 8-bit networks: give frames to calibrate"):
        add_look("edge", "sharp", trained, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_fusion_leaves_no_looks_behind(
    looks: Path, flow_model: EdgeDsin, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "flow.pt", flow_model)
    refit_bundle(looks, tmp_path / "flow.pt", tmp_path / "refitted")
    bundle = open_bundle(tmp_path / "refitted")
    assert not bundle.looks
    assert not [name for name in bundle.file_bytes if "sharp" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft": {"fusion": "fusion.onnx"}}, "'soft' is none of structure, sharp"),
        ({"sharp": {}}, "fusion"),
        ({"sharp": {"fusion": "../fusion.onnx"}}, "fusion"),
        ({"sharp": "fusion.onnx"}, "sharp"),
    ],
)
def test_a_damaged_manifest_is_refused(
    looks: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in looks.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, {**manifest, "looks": change})
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)
