"""A bundle gets a fusion for the search by flow, and 8-bit networks beside the float ones."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import textured_pair
from onnx import numpy_helper

from dsin.calibration.int8 import run
from dsin.export.edge import combine
from dsin.export.edge.combine import combine_bundles
from dsin.export.edge.decoder import edge_decoder
from dsin.export.edge.look import add_look
from dsin.export.edge.recalibrate import recalibrate_bundle
from dsin.export.edge.refit import refit_bundle
from dsin.export.half_graph import read_graph
from dsin.export.int8_bundle import calibrate_bundle, features_in_bundle, with_doubt_as_large
from dsin.export.restore import load_model
from dsin.runtime.backends.derived_weights import weights_bytes
from dsin.runtime.codec import precision
from dsin.runtime.codec.bundle import Bundle, open_bundle, with_look
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.precision import at_precision, exact_name, precision_of
from dsin.runtime.errors import BackendError, BundleError, ExportError, FrameError
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.metrics import psnr_db
from dsin.training.checkpoint import save_checkpoint
from dsin.training.edge.model import EdgeDsin


@pytest.fixture(scope="module")
def both(flow_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("both")
    calibrate_bundle(flow_bundle, calibration_frames(), folder / "int8")
    combine_bundles(flow_bundle, folder / "int8", folder / "both")
    return open_bundle(folder / "both")


def calibration_frames() -> list[Any]:
    return [view for number in range(4) for view in textured_pair(128, 192, number)]


def test_8_bit_networks_are_made_anew_with_those_of_the_looks(
    both: Bundle, flow_model: EdgeDsin, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "flow.pt", flow_model)
    frames = calibration_frames()
    add_look(both.path, "sharp", tmp_path / "flow.pt", frames, tmp_path / "looks")
    recalibrate_bundle(tmp_path / "looks", frames, tmp_path / "new")
    new = open_bundle(tmp_path / "new")
    assert new.int8 == both.int8
    x, _ = textured_pair(100, 150, 9)
    pictures = []
    for path in (both.path, new.path):
        with Encoder(f"{path}@int8") as encoder, Decoder(f"{path}@int8") as decoder:
            packet = encoder.encode(x, 1)
            alone = decoder.decode(packet, None).image
            pictures.append((bytes(packet), alone.tobytes()))
            pictures[-1] += (decoder.decode(packet, alone).image.tobytes(),)
    assert pictures[0] == pictures[1]
    pair = [tmp_path / folder / "fusion_sharp.int8.weights" for folder in ("looks", "new")]
    assert len({len(weights_bytes(weights)) for weights in pair}) == 1
    assert not any(weights.exists() for weights in pair)
    # The fusion of a look takes features as the decoder that is there already yields them.
    known = features_in_bundle(both.path / both.int8["graphs"]["x_decoder"])
    assert known.factors.max() > 1.5
    results = []
    for path in (f"{tmp_path}/looks@int8@sharp", f"{tmp_path}/new@int8@sharp"):
        with Decoder(path) as decoder:
            results.append(decoder.decode(pictures[0][0], x).image)
    assert psnr_db(*results) > 40
    assert at_precision(with_look(new, "sharp"), "cpu").has_level_pictures


def test_a_bundle_of_one_precision_has_nothing_to_make_anew(
    flow_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="float and 8-bit networks, without a look"):
        recalibrate_bundle(flow_bundle, calibration_frames(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_too_few_pictures_to_make_them_anew_are_refused(both: Bundle, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="8 pictures or more, not 7"):
        recalibrate_bundle(both.path, calibration_frames()[:7], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_pictures_and_features_keep_their_ranges_from_graph_to_graph(both: Bundle) -> None:
    """So that nothing is rounded twice."""
    report = json.loads((both.path.parent / "int8" / "report.json").read_text())
    assert report["bd_rate_percent"] is None
    assert "points" not in report
    ranges = {name: graph["ranges"] for name, graph in report["graphs"].items()}
    levels = [0, 255]
    assert ranges["encoder"]["x"] == ranges["x_decoder"]["out"] == levels
    assert (ranges["fusion"]["pictures"], ranges["fusion"]["out"]) == ([-128, 127], [-128, 127])
    assert ranges["fusion"]["known"] == ranges["x_decoder"]["features"]


def test_a_doubt_that_is_scaled_to_another_range_changes_nothing(flow_bundle: Path) -> None:
    graph = read_graph(open_bundle(flow_bundle).graph_path("fusion"))
    rng = np.random.default_rng(0)
    sizes = {"x_dec": (3, 64, 96), "y_flow": (3, 64, 96), "y_blocks": (3, 64, 96),
             "features": (16, 8, 12), "doubt": (2, 8, 12)}  # fmt: skip
    given: dict[str, Any] = {
        name: rng.uniform(0, 255, (1, *size)).astype(np.float32) for name, size in sizes.items()
    }
    given |= {"rate": np.array([1]), "features": given["features"] / 255}
    scaled = with_doubt_as_large(graph, 3.5)
    before, after = (run(model, given)["x_hat"] for model in (graph, scaled))
    np.testing.assert_allclose(after, before, atol=1e-3)
    given["doubt"] /= 100
    assert np.abs(run(graph, given)["x_hat"] - before).max() > 0.1, "the doubt counts"
    values = {t.name: numpy_helper.to_array(t) for t in scaled.graph.initializer}
    assert values["cost_scale"].item() * np.log1p(values["worst_cost"].item()) == pytest.approx(3.5)


def test_packets_stay_as_they_are(edge_bundle: Path, flow_bundle: Path) -> None:
    x, _ = textured_pair(100, 150, 9)
    before, after = open_bundle(edge_bundle), open_bundle(flow_bundle)
    assert after.codec_id == before.codec_id
    assert after.search.flow
    assert not before.search.flow
    assert after.weights_licence == before.weights_licence
    assert after.training["fusion"]["pairs"] == 3
    with Encoder(before) as old, Encoder(after) as new:
        for rate in range(len(before.rate_points)):
            assert bytes(new.encode(x, rate)) == bytes(old.encode(x, rate))


@pytest.mark.parametrize("size", [(128, 192), (75, 100), (1, 1), (20, 130)])
def test_every_size_is_decoded_beside_its_side_image(
    flow_bundle: Path, size: tuple[int, int]
) -> None:
    x, y = (view[: size[0], : size[1]] for view in textured_pair(128, 192, 1))
    with Encoder(flow_bundle) as encoder, Decoder(flow_bundle) as decoder:
        packet = encoder.encode(x, 1)
        side = decoder.prepare_side(y)
        assert side.rate is None
        assert set(side.stage_ms) == {"prepare"}
        decoded = decoder.decode(packet, side)
        assert decoded.image.shape == x.shape
        assert decoded.y_syn is not None
        assert decoded.y_syn.shape == x.shape


def test_the_graph_computes_what_the_model_does(flow_bundle: Path, flow_model: EdgeDsin) -> None:
    x, y = (
        torch.from_numpy(view.transpose(2, 0, 1)[None].astype(np.float32))
        for view in textured_pair(128, 192, 2)
    )
    rate = torch.tensor([1])
    with torch.no_grad():
        coded = flow_model.reconstruct(x, rate)
        side = flow_model.side_input(coded.x_dec, y, rate)
        expected = flow_model.fusion(coded.x_dec, coded.features, *side, rate).clamp(0, 255)
    from dsin.runtime.backends.session import open_session

    bundle = open_bundle(flow_bundle)
    session = open_session(bundle.graph_path("fusion"))
    seen = dict(zip(("y_flow", "y_blocks", "doubt"), (part.numpy() for part in side), strict=True))
    found = session.run(
        x_dec=coded.x_dec.numpy(), features=coded.features.numpy(),
        rate=np.array([1], np.int64), **seen,
    )["x_hat"]  # fmt: skip
    np.testing.assert_allclose(found, expected.numpy(), atol=0.1)


def test_a_side_image_of_another_place_is_left_alone(flow_bundle: Path) -> None:
    x, _ = textured_pair(128, 192, 1)
    other, _ = textured_pair(128, 192, 8)
    with Encoder(flow_bundle) as encoder, Decoder(flow_bundle) as decoder:
        decoded = decoder.decode(encoder.encode(x, 1), np.ascontiguousarray(other[::-1]))
    assert not decoded.used_side
    np.testing.assert_array_equal(decoded.image, decoded.x_dec)


def test_a_restored_model_has_the_fusion_again(flow_bundle: Path, flow_model: EdgeDsin) -> None:
    again = load_model(flow_bundle)
    for name, weight in again.state_dict().items():
        if name.startswith("fusion."):
            torch.testing.assert_close(weight, flow_model.state_dict()[name], rtol=2e-3, atol=1e-4)


def test_a_fusion_of_another_codec_is_refused(
    edge_bundle: Path, flow_model: EdgeDsin, tmp_path: Path
) -> None:
    other = EdgeDsin(flow_model.preset)
    save_checkpoint(tmp_path / "other.pt", other)
    with pytest.raises(ExportError, match="has another codec than"):
        refit_bundle(edge_bundle, tmp_path / "other.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_whole_decoder_as_one_graph_is_refused(flow_bundle: Path) -> None:
    with pytest.raises(ExportError, match="flow that bundle"):
        edge_decoder(open_bundle(flow_bundle))


def test_a_bundle_of_both_precisions_opens_either(both: Bundle) -> None:
    x, y = textured_pair(100, 150, 9)
    assert precision_of(both) == "float and 8 bits"
    named = {wanted: open_bundle(f"{both.path}@{wanted}") for wanted in ("float", "int8")}
    with (
        Encoder(named["float"]) as floats, Encoder(named["int8"]) as int8,
        Decoder(named["float"]) as decoder, Decoder(named["int8"]) as other,
    ):  # fmt: skip
        assert precision_of(floats.bundle) == "float"
        assert precision_of(int8.bundle) == "8 bits"
        assert exact_name(int8.bundle) == f"{both.path.resolve()}@int8"
        packet, same = int8.encode(x, 1), floats.encode(x, 1)
        assert packet.header.codec_id == same.header.codec_id
        pictures = [one.decode(packet, y).image for one in (decoder, other)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() < 8


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, "float"), ({"avx_vnni"}, "8 bits")])
def test_auto_takes_8_bits_where_the_processor_has_them(
    both: Bundle, monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str
) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    assert precision_of(at_precision(both, "cpu")) == expected


def test_auto_takes_float_on_a_gpu_and_int8_is_refused_there(both: Bundle) -> None:
    assert precision_of(at_precision(both, "cuda")) == "float"
    with pytest.raises(BackendError, match="are for the CPU"):
        at_precision(dataclasses.replace(both, precision="int8"), "cuda")


def test_networks_that_a_bundle_lacks_are_named(flow_bundle: Path) -> None:
    with pytest.raises(BundleError, match="no 8-bit networks: make them with dsin calibrate"):
        Encoder(f"{flow_bundle}@int8")


def test_bundles_that_do_not_belong_together_are_refused(
    edge_bundle: Path, flow_bundle: Path, both: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="no 8-bit networks"):
        combine_bundles(edge_bundle, flow_bundle, tmp_path / "out")
    with pytest.raises(ExportError, match="already"):
        combine_bundles(both.path, flow_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_of_other_packets_are_refused(
    flow_bundle: Path, both: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated = open_bundle(both.path.parent / "int8")
    other_search = dataclasses.replace(calibrated.search, patch=(8, 8))
    for change in ({"codec_id": b"others"}, {"search": other_search}):
        changed = dataclasses.replace(calibrated, **change)  # type: ignore[arg-type]
        opened = {"floats": open_bundle(flow_bundle), "calibrated": changed}
        monkeypatch.setattr(combine, "open_bundle", opened.__getitem__)
        with pytest.raises(ExportError, match="are of different models"):
            combine_bundles("floats", "calibrated", tmp_path / "out")


def test_the_manifest_names_the_8_bit_graphs(both: Bundle) -> None:
    manifest = json.loads((both.path / MANIFEST).read_text())
    assert manifest["int8"]["target"] == "cpu"
    assert manifest["int8"]["graphs"]["encoder"] == "encoder.int8.onnx"
    assert set(manifest["int8"]["graphs"].values()) <= set(manifest["files"])
    kept = {name for name in manifest["files"] if name.endswith((".int8.npz", ".int8.weights"))}
    assert kept == {"encoder.int8.weights", "decoder.int8.npz"}  # of small kernels and large


def test_another_fusion_or_calibration_leaves_no_older_8_bit_networks_behind(
    both: Bundle, flow_model: EdgeDsin, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "flow.pt", flow_model)
    refit_bundle(both.path, tmp_path / "flow.pt", tmp_path / "refitted")
    frames = [view for number in range(4) for view in textured_pair(128, 192, number)]
    calibrate_bundle(both.path, frames, tmp_path / "calibrated")
    for name in ("refitted", "calibrated"):
        bundle = open_bundle(tmp_path / name)
        assert not bundle.int8
        assert not [file for file in bundle.file_bytes if ".int8." in file]
    assert precision_of(open_bundle(tmp_path / "calibrated")) == "8 bits"
