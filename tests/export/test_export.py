"""Exported bundles compute what the model computes, whole and cut, at any size."""

import copy
import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

from dsin.export import graphs, patch_correlation_op
from dsin.export.bundle_files import manifest_of, new_bundle
from dsin.export.calibration_frames import read_frames
from dsin.export.cli import app, main
from dsin.export.paper import bundle as paper_bundle
from dsin.export.weights import WeightsFile
from dsin.export.write_bundle import write_bundle
from dsin.runtime import Decoder, Encoder
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import open_bundle
from dsin.runtime.errors import CheckpointError, ExportError, FrameError
from dsin.runtime.patch_correlation.definition import match, patch_correlation, synthesise
from dsin.runtime.patch_correlation.options import SearchOptions
from dsin.training.checkpoint import licence_of, load_checkpoint, save_checkpoint
from dsin.training.paper.model import Dsin
from dsin.training.presets import AutoencoderConfig, FusionConfig, Preset, Quirks

Array = np.ndarray[Any, Any]
QUIRKS = Quirks(tf_same_padding=True, truncate_to_uint8=True)
ORIGINAL = SearchOptions(stretched=True, off_centre=True)


def preset(**changes: Any) -> Preset:
    sizes = {
        "name": "tiny",
        "autoencoder": AutoencoderConfig(features=16, blocks=1),
        "fusion": FusionConfig(features=8, dilations=(1, 2, 1)),
    }
    return Preset(**{**sizes, **changes})


def frames(count: int = 2, height: int = 128, width: int = 200) -> list[Array]:
    """Blurred noise, each frame a little left of the one before."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 9, 3)).astype(np.uint8)
    scene = coarse.repeat(4, 0).repeat(4, 1)[:height]
    return [np.ascontiguousarray(scene[:, 4 * n : 4 * n + width]) for n in range(count)]


def lively(config: Preset) -> Dsin:
    """Random weights whose batch norms fit pictures, so that all symbols occur."""
    torch.manual_seed(1)
    model = Dsin(config)
    x = torch.from_numpy(frames()[0][:120, :192].transpose(2, 0, 1).copy()).float()[None]
    with torch.no_grad():
        for _ in range(30):
            model.code(x)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.normal_(0, 0.2)
    return model.eval()


def export(model: Dsin, out: Path, **options: Any) -> Path:
    small = [frame[:80, :96].copy() for frame in frames()]
    defaults = {"weights": "float32", "calibration_frames": small, "name": "tiny", "notes": {}}
    comparisons = paper_bundle.export_model(model, out, **{**defaults, **options})
    assert comparisons
    assert all(comparisons)
    return out


@pytest.fixture(scope="module")
def model() -> Dsin:
    return lively(preset())


@pytest.fixture(scope="module")
def bundle(model: Dsin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture
def ready_graphs(
    model: Dsin, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, onnx.ModelProto]:
    """The model's graphs, which are not traced anew."""
    names = {f"{name}_graph": name for name in ("encoder", "x_decoder", "fusion")}
    made = {graph: onnx.load(bundle / f"{name}.onnx") for graph, name in names.items()}
    for graph, proto in made.items():
        monkeypatch.setattr(graphs, graph, lambda _, proto=proto: copy.deepcopy(proto))
    return made


def side_images(height: int, width: int) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    pair = rng.uniform(0, 255, (2, 1, 3, height, width)).astype(np.float32)
    return {"y_dec": pair[0], "y": pair[1]}


def image(planes: Array) -> Array:
    return np.ascontiguousarray(planes[0].transpose(1, 2, 0))


@pytest.mark.parametrize("size", [(40, 24), (80, 96), (120, 192), (200, 48)])
def test_graphs_equal_torch_at_any_size(bundle: Path, model: Dsin, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 255, (1, 3, *size)).astype(np.float32)
    coded = model.code(torch.from_numpy(x))
    symbols = open_session(bundle / "encoder.onnx").run(x=x)["symbols"]
    assert symbols.dtype == np.uint8
    assert (symbols != coded.symbols.numpy()).mean() < 1e-4
    exact = coded.symbols.numpy().astype(np.uint8)
    x_dec = open_session(bundle / "x_decoder.onnx").run(symbols=exact)["x_dec"]
    np.testing.assert_allclose(x_dec, coded.x_dec.detach().numpy(), atol=0.01)
    x_hat = open_session(bundle / "fusion.onnx").run(x_dec=x_dec, y_syn=x)["x_hat"]
    expected = model.fusion(torch.from_numpy(x_dec), torch.from_numpy(x)).detach().clamp(0, 255)
    np.testing.assert_allclose(x_hat, expected.numpy(), atol=0.01)


@pytest.mark.parametrize("size", [(40, 48), (120, 96)])
def test_the_whole_decoder_is_the_cut_one_around_the_search(
    bundle: Path, size: tuple[int, int]
) -> None:
    side = side_images(*size)
    symbols = np.random.default_rng(2).integers(0, 6, (1, 32, size[0] // 8, size[1] // 8))
    symbols = symbols.astype(np.uint8)
    whole = open_session(bundle / "decoder.onnx").run(symbols=symbols, **side)
    assert list(whole) == ["x_hat", "x_dec", "y_syn", "row", "col", "score"]
    x_dec = open_session(bundle / "x_decoder.onnx").run(symbols=symbols)["x_dec"]
    found = match(image(x_dec), image(side["y_dec"]))
    y_syn = synthesise(image(side["y"]), found).transpose(2, 0, 1)[None]
    x_hat = open_session(bundle / "fusion.onnx").run(x_dec=x_dec, y_syn=y_syn)["x_hat"]
    np.testing.assert_array_equal(whole["y_syn"], y_syn)
    np.testing.assert_array_equal(whole["row"][0], found.row)
    np.testing.assert_array_equal(whole["col"][0], found.col)
    np.testing.assert_allclose(whole["score"][0], found.score, atol=1e-5)
    np.testing.assert_allclose(whole["x_dec"], x_dec, atol=1e-3)
    np.testing.assert_allclose(whole["x_hat"], x_hat, atol=1e-3)


@pytest.mark.parametrize("name", ["bundle", "paper"])
def test_the_whole_decoder_says_what_it_takes_and_gives(bundle: Path, name: str) -> None:
    """As any runtime shows it; the shipped bundle's too."""
    path = (bundle if name == "bundle" else open_bundle(name).path) / "decoder.onnx"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    values = {value.name for value in (*session.get_inputs(), *session.get_outputs())}
    assert set(notes) == {*values, "padding"}
    assert notes["symbols"].startswith("indices of centers, 0 to 5; h and w are the height and")
    assert notes["y"] == "the side image, RGB planes of whole levels, 0 to 255"
    assert notes["row"].startswith("for each patch of 20x24 pixels (rows x columns) of x_dec, the")
    assert notes["padding"].startswith(
        "repeat the last row and column until the height is a multiple of 40 and the width one of "
        "24; crop"
    )


def test_one_node_keeps_its_attributes_and_has_a_body(bundle: Path) -> None:
    graph = onnx.load(bundle / "decoder.onnx", load_external_data=False)
    nodes = [node for node in graph.graph.node if node.domain == "dsin"]
    assert [node.op_type for node in nodes] == ["PatchCorrelation"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert attributes == {
        "patch_height": 20, "patch_width": 24, "prior": 1, "measure": b"pearson",
        "stretched": 0, "off_centre": 0, "plugin_namespace": b"dsin", "plugin_version": b"1",
    }  # fmt: skip
    assert "PatchCorrelation" in {f.name for f in graph.functions if f.domain == "dsin"}
    onnx.checker.check_model(str(bundle / "decoder.onnx"))


@pytest.mark.parametrize("measure", ["pearson", "l2"])
@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("kind", [SearchOptions(), ORIGINAL], ids=["plain", "original"])
def test_the_body_is_the_definition(measure: Any, prior: bool, kind: SearchOptions) -> None:
    search = replace(kind, measure=measure, prior=prior)
    model = patch_correlation_op.standalone(search)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x, y = (np.ascontiguousarray(f[:80, :144]).astype(np.float32) for f in frames())
    x = (x + np.random.default_rng(3).normal(0, 9, x.shape)).clip(0, 255).astype(np.float32)
    planes = [a.transpose(2, 0, 1)[None] for a in (x, y, y)]
    y_syn, row, col, score = session.run(
        None, dict(zip(("x_dec", "y_dec", "y"), planes, strict=True))
    )
    found = match(x, y, prior=prior, measure=measure, off_centre=kind.off_centre)
    np.testing.assert_array_equal(row[0], found.row)
    np.testing.assert_array_equal(col[0], found.col)
    np.testing.assert_allclose(
        score[0], found.score, rtol=1e-3 if measure == "l2" else 0, atol=5e-6
    )
    expected = synthesise(y, found, stretched=kind.stretched)
    np.testing.assert_allclose(image(y_syn), expected, atol=1e-3)


def test_a_flat_patch_stays_in_the_body_too() -> None:
    model = patch_correlation_op.standalone(SearchOptions())
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = side_images(80, 96)["y"]
    y = x.copy()
    x[:, :, 20:40, 48:72] = np.reshape(np.float32([93.704544, 98.282432, 94.846781]), (1, 3, 1, 1))
    _, row, col, score = session.run(None, {"x_dec": x, "y_dec": y, "y": y})
    assert (row[0, 1, 2], col[0, 1, 2]) == (20, 48)
    assert abs(score[0, 1, 2]) < 1e-6


@pytest.mark.parametrize("prior", [True, False])
def test_the_body_takes_batches_odd_sizes_and_any_number(prior: bool) -> None:
    model = patch_correlation_op.standalone(SearchOptions(prior=prior))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x, y = (np.ascontiguousarray(f[:71, :137]).astype(np.float32) for f in frames())
    x[3, 4:9, 1] = np.nan, np.inf, -np.inf, 1e30, -7
    y[60:70, 20:60] = 94, 98, 95
    views = (np.stack([a, a[::-1]]) for a in (x, y, y))
    planes = [view.transpose(0, 3, 1, 2) for view in views]
    found = session.run(None, dict(zip(("x_dec", "y_dec", "y"), planes, strict=True)))
    expected = patch_correlation(*(p.transpose(0, 2, 3, 1) for p in planes), prior=prior)
    np.testing.assert_array_equal(found[0].transpose(0, 2, 3, 1), expected.y_syn)
    for got, wanted in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "most"), [((160, 600), 350), pytest.param((320, 1224), 600, marks=pytest.mark.slow)]
)
def test_stock_onnxruntime_runs_the_whole_decoder_in_a_gigabyte(
    size: tuple[int, int], most: float
) -> None:
    """The shipped bundle's decoder, in a process of its own; MB."""
    program = """
import re, sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
h, w = int(sys.argv[2]), int(sys.argv[3])
side = np.random.default_rng(0).uniform(0, 255, (2, 1, 3, h, w)).astype(np.float32)
symbols = np.zeros((1, 32, h // 8, w // 8), np.uint8)
session.run(None, {"symbols": symbols, "y_dec": side[0], "y": side[1]})
# Not getrusage: that also counts what the parent had when it forked.
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""
    path = open_bundle("paper").graph_path("x_decoder").with_name("decoder.onnx")
    command = [sys.executable, "-c", program, path, *map(str, size)]
    run = subprocess.run(command, capture_output=True, check=True)
    assert float(run.stdout) < most


def test_quirks_and_float16_export(tmp_path: Path) -> None:
    out = export(lively(preset(quirks=QUIRKS, search=ORIGINAL)), tmp_path / "b", weights="float16")
    manifest = json.loads((out / "bundle.json").read_text())
    assert manifest["search"]["stretched_patches"] is True
    assert manifest["search"]["off_centre_prior"] is True
    _truncates(out)
    kernels = [
        t
        for name in ("encoder", "decoder")
        for t in onnx.load(out / f"{name}.onnx", load_external_data=False).graph.initializer
        if "weight" in t.name
    ]
    assert {t.data_type for t in kernels} == {onnx.TensorProto.FLOAT16}


def _truncates(out: Path) -> None:
    """Pictures of that bundle are what the graph computes, cut to whole levels."""
    x = frames()[0][:80, :96]
    with Encoder(out) as encoder, Decoder(out) as decoder:
        symbols = encoder.latent(x)
        shown = decoder.decode_latent(symbols, None, 80, 96).image
    x_dec = open_session(out / "x_decoder.onnx").run(symbols=symbols[None])["x_dec"]
    levels = image(x_dec).clip(0, 255)
    assert (np.floor(levels) != np.rint(levels)).mean() > 0.2
    np.testing.assert_array_equal(shown, np.floor(levels))


def test_weights_are_stored_once(bundle: Path) -> None:
    """decoder.onnx, x_decoder.onnx and fusion.onnx point at the same bytes."""

    def places(name: str) -> set[tuple[str, ...]]:
        graph = onnx.load(bundle / f"{name}.onnx", load_external_data=False)
        external = [t for t in graph.graph.initializer if t.external_data]
        return {tuple(e.value for e in t.external_data) for t in external}

    assert places("decoder") == places("x_decoder") | places("fusion")
    assert {place[0] for place in places("decoder")} == {"decoder.weights"}
    used = sum(int(length) for _, _, length in places("decoder"))
    assert used <= (bundle / "decoder.weights").stat().st_size < used + 64 * len(places("decoder"))
    graph_bytes = sum(path.stat().st_size for path in bundle.glob("*coder.onnx"))
    assert graph_bytes < 100_000


def test_equal_tensors_share_their_bytes(tmp_path: Path) -> None:
    tensor = np.arange(512, dtype=np.float32)
    model = onnx.parser.parse_model(
        "<ir_version: 10, opset_import: ['': 18]> g () => (float[512] y) { y = Add(a, b) }".replace(
            "'", '"'
        )
    )
    for name in "ab":
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor, name))
    store = WeightsFile("w")
    store.take(model)
    store.write(tmp_path)
    onnx.save(model, tmp_path / "m.onnx")
    assert (tmp_path / "w").stat().st_size == tensor.nbytes
    np.testing.assert_array_equal(open_session(tmp_path / "m.onnx").run()["y"], 2 * tensor)


def test_large_tensors_begin_at_multiples_of_64_bytes() -> None:
    tensors = [np.full(257, 1, np.float32), np.ones(255, np.float32), np.full(256, 2, np.float32)]
    model = onnx.ModelProto()
    for number, tensor in enumerate(tensors):
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor, str(number)))
    WeightsFile("w").take(model)
    places = [[entry.value for entry in t.external_data] for t in model.graph.initializer]
    assert places == [["w", "0", "1028"], [], ["w", "1088", "1024"]]


def test_the_manifest_lists_every_file(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    present = {path.name: path for path in bundle.iterdir() if path.name != "bundle.json"}
    assert set(manifest["files"]) == set(present)
    for name, entry in manifest["files"].items():
        data = present[name].read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.mark.parametrize(
    ("graph", "output"),
    [("encoder_graph", "encoder symbols"), ("x_decoder_graph", "x_decoder x_dec"),
     ("fusion_graph", "fusion x_hat")],
)  # fmt: skip
def test_a_wrong_graph_is_named_and_nothing_is_written(
    model: Dsin,
    tmp_path: Path,
    ready_graphs: dict[str, onnx.ModelProto],
    graph: str,
    output: str,
) -> None:
    initializers = ready_graphs[graph].graph.initializer
    kernel = [t for t in initializers if t.name.endswith("weight")][-1]
    larger = onnx.numpy_helper.to_array(kernel) * np.float32(1.5)
    kernel.CopyFrom(onnx.numpy_helper.from_array(larger, kernel.name))
    with pytest.raises(ExportError, match=output):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready_graphs")
def test_a_failed_export_leaves_the_old_bundle(
    model: Dsin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle.json").write_text("old")
    monkeypatch.setattr(paper_bundle, "verify", lambda *_: fail())
    with pytest.raises(ExportError, match="no"):
        export(model, tmp_path / "out")
    assert (tmp_path / "out" / "bundle.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def fail() -> None:
    raise ExportError("no")


def test_only_bundles_are_replaced(model: Dsin, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    for taken in (tmp_path, tmp_path / "precious"):
        with pytest.raises(ExportError, match="not a bundle"):
            export(model, taken)
    assert (tmp_path / "precious").read_text() == "data"


def test_a_bundle_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle.json").write_text("old")
    move = os.replace

    def fail_for_new(source: Path, target: Path) -> None:
        if source.suffix == ".partial":
            raise OSError("no")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail_for_new)
    with pytest.raises(ExportError, match="cannot write"), new_bundle(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "bundle.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_comments_on_an_export_are_kept_back_and_come_again_behind_it() -> None:
    loggers = [logging.getLogger(f"exporter.{name}") for name in "ab"]
    for logger, level in zip(loggers, (logging.DEBUG, logging.WARNING), strict=True):
        logger.setLevel(level)
    with graphs.quiet("exporter.a", "exporter.b"):
        warnings.warn("an error otherwise", UserWarning, stacklevel=1)
        assert [logger.level for logger in loggers] == [logging.ERROR, logging.ERROR]
    assert [logger.level for logger in loggers] == [logging.DEBUG, logging.WARNING]
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_what_only_training_knows_is_refused(tmp_path: Path) -> None:
    far = Dsin(preset(search=SearchOptions(measure="l2"), quirks=Quirks(l2_prefers_far=True)))
    with pytest.raises(ExportError, match="l2_prefers_far"):
        export(far, tmp_path / "out")
    many = Dsin(preset(autoencoder=AutoencoderConfig(features=16, blocks=1, centers=256)))
    with pytest.raises(ExportError, match="symbols are 8-bit: use at most 255 centers"):
        export(many, tmp_path / "out")
    big = Dsin(preset())
    with torch.no_grad():
        big.fusion.convs[0].weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ExportError, match=r"fusion\.convs\.0\.weight reaches 1e\+06"):
        export(big, tmp_path / "out", weights="float16")
    with pytest.raises(ExportError, match="the checkpoint's notes do not fit into JSON: "):
        manifest_of(big, tmp_path, "tiny", {"loss": float("nan")}, [], {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((39, 100, 3), np.uint8),
        np.zeros((80, 96), np.uint8),
        np.zeros((80, 96, 3), np.uint16),
    ],
    ids=["small", "grey", "16 bit"],
)
def test_unfit_calibration_frames_are_refused(model: Dsin, tmp_path: Path, frame: Array) -> None:
    with pytest.raises(FrameError):
        export(model, tmp_path / "out", calibration_frames=[frame])


def test_weights_that_were_trained_further_keep_their_licence(model: Dsin, tmp_path: Path) -> None:
    """Through two phases, of which neither says anything of it."""
    notes: dict[str, object] = {"weights_licence": "CC BY-NC-SA 3.0", "phase": "first"}
    for phase in ("second", "third"):
        save_checkpoint(tmp_path / "c.pt", model, notes={"phase": phase, "started_from": notes})
        notes = load_checkpoint(tmp_path / "c.pt")[1]
        assert notes["weights_licence"] == "CC BY-NC-SA 3.0"
    write_bundle(tmp_path / "c.pt", tmp_path / "out", calibration_frames=frames(2, 80, 96))
    assert open_bundle(tmp_path / "out").weights_licence == "CC BY-NC-SA 3.0"


@pytest.mark.parametrize(
    ("notes", "licence"),
    [
        ({}, None),
        ({"weights_licence": "unspecified"}, None),
        ({"weights_licence": "MIT", "started_from": {"weights_licence": "GPL"}}, "MIT"),
        ({"started_from": {"phase": "a", "started_from": {"weights_licence": "GPL"}}}, "GPL"),
        ({"licences": {"kitti": "CC BY-NC-SA 3.0", "own": "MIT"}},
         "kitti: CC BY-NC-SA 3.0; own: MIT"),
        ({"licences": {"own": "MIT"}, "started_from": {"weights_licence": "GPL"}}, "GPL; own: MIT"),
    ],
)  # fmt: skip
def test_the_licence_is_that_of_what_weights_come_from(
    notes: dict[str, object], licence: str | None
) -> None:
    assert licence_of(notes) == licence


def test_command_line(model: Dsin, tmp_path: Path) -> None:
    import cv2

    save_checkpoint(tmp_path / "c.pt", model, notes={"weights_licence": "MIT", "data": "noise"})
    for number, frame in enumerate(frames(height=80, width=96)):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), frame[:, :, ::-1])
    (tmp_path / "list.txt").write_text("0.png\n1.png\n")
    arguments = ["onnx", str(tmp_path / "c.pt"), "-o", str(tmp_path / "out"), "--name", "noisy"]
    result = CliRunner().invoke(app, [*arguments, "--frames", str(tmp_path / "list.txt")])
    assert result.exit_code == 0, result.output
    assert "decoder positions: ok" in result.output
    manifest = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert (manifest["model"], manifest["weights_licence"]) == ("noisy", "MIT")
    assert manifest["training"]["data"] == "noise"
    for one, other in zip(read_frames(tmp_path), frames(height=80, width=96), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_user_error_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "none.pt"
    monkeypatch.setattr(
        "sys.argv", ["dsin-export", "onnx", str(missing), "-o", str(tmp_path / "b")]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"dsin-export: there is no checkpoint {missing}"]
    with pytest.raises(CheckpointError):
        load_checkpoint(missing)
