"""A bundle becomes one of 8 bits, calibrated on real frames; bytes and entropy model stay the same.

    frames ─► what each graph of the bundle is given ─► 8-bit graphs ─► bundle, report.json, .png

Packets of both bundles are of one codec: only the networks around the entropy model are rounded.
Those of the entropy model are exact already.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dsin.calibration.equalisation import copied, replace_constant
from dsin.calibration.int8 import Quantised, quantise_graph
from dsin.calibration.qdq import Range, Target
from dsin.export.bundle_files import FRAME, copy_files, file_table, new_bundle
from dsin.export.calibration_frames import set_sha256
from dsin.export.channels_last import channels_last
from dsin.export.half_graph import read_graph
from dsin.export.int8_report import plot_report
from dsin.export.weights import save_graphs, store_as_half
from dsin.runtime.backends.session import open_session
from dsin.runtime.codec.bundle import FAITHFUL, Bundle, open_bundle
from dsin.runtime.codec.bundle import LEVELS as BYTES
from dsin.runtime.codec.decoder import Decoder
from dsin.runtime.codec.encoder import Encoder
from dsin.runtime.codec.families import family_of
from dsin.runtime.codec.layouts import for_network
from dsin.runtime.codec.precision import float_networks
from dsin.runtime.codec.side_search import CpuBlockSearch, FlowSearch
from dsin.runtime.errors import ExportError, FrameError
from dsin.runtime.evaluation.comparison import bd_rates
from dsin.runtime.evaluation.evaluate import curve, means_of_rates
from dsin.runtime.evaluation.pairs import Pair
from dsin.runtime.files import write_json
from dsin.runtime.gpu.device_tensor import on_host
from dsin.runtime.manifest import MANIFEST
from dsin.runtime.metrics import psnr_db
from dsin.runtime.pictures import Image, middle

Array = npt.NDArray[Any]

LEAST_FRAMES = 8
SIZE = (320, 640)
"""Height and width of the middles that are calibrated on, at most."""
GRAPHS = {"encoder": "encoder.weights", "x_decoder": "decoder.weights", "fusion": "decoder.weights"}
"""The graphs that become 8-bit, and the files of their weights."""
COUNTS = {
    # What z says wrongly costs hardly a bit of prediction; y is what is sent.
    "encoder": {"y": 1.0, "z": 0.01},
    "x_decoder": {"x_dec": 1.0, "features": 0.1},
    "fusion": {"x_hat": 1.0},
}
"""How much errors of each output count."""
LEVELS, DIFFERENCES = Range(0, 255), Range(-128, 127)
"""What 8 bits hold of pictures in whole levels, and of what is added to them."""
PICTURES: dict[str, dict[str, Range]] = {
    "encoder": {"x": LEVELS},
    "x_decoder": {"out": LEVELS},
    "fusion": {"pictures": DIFFERENCES, "out": DIFFERENCES},
}
"""Tensors of the graphs that are whole levels, or are rounded to them anyway."""
FACTORS = "feature_factors"
"""The note in x_decoder's graph that tells what its features are times, as a JSON list."""
REPORT, PLOT = "report.json", "report.png"


class Calibrated(NamedTuple):
    """The report that was written, and the bundle's size in bytes before and after."""

    report: dict[str, Any]
    bytes_before: int
    bytes_after: int


def calibrate_bundle(
    source: Path | str | None,
    frames: Sequence[Image],
    out: Path,
    *,
    target: Target = "cpu",
    validation: Sequence[Pair] = (),
    crop: tuple[int, int] | None = None,
) -> Calibrated:
    """Write an 8-bit bundle. `frames` are RGB H×W×3 uint8, neighbours serve as pairs; `validation`
    pairs are coded at all rates with both bundles, for the BD-rate of the difference.

    Raises BundleError for what is not a bundle, FrameError for too few or unfit frames, ExportError
    for a bundle of the paper's model or one that is of 8 bits already, or where `out` is in the
    way; then nothing is left behind.
    """
    bundle = float_networks(open_bundle(source))
    if bundle.family != "edge":
        raise ExportError(
            f"bundle {bundle.path.name} has transposed convolutions, which have no 8-bit kernels "
            "on CPUs: calibrate an edge bundle"
        )
    if bundle.look != FAITHFUL:
        raise ExportError("name the bundle without a look: dsin-export look calibrates looks")
    if "calibration" in bundle.training:
        raise ExportError(
            f"bundle {bundle.path.name} already has 8-bit networks: give the float bundle"
        )
    require_frames(frames)
    runs = graph_inputs(bundle, frames)
    with new_bundle(out) as partial:
        graphs = quantised_graphs(bundle, runs, target)
        written = {bundle.graphs[name] for name in GRAPHS} | set(GRAPHS.values())
        copy_files(bundle, partial, but=written)
        models = {name: graph.model for name, graph in graphs.items()}
        _write_graphs(
            {name: integer_graph(model, target) for name, model in models.items()}, partial
        )
        note = calibration_note(target, frames)
        _write_manifest(bundle, partial, note)
        report = {
            **note,
            "bundle": bundle.path.name,
            "graphs": {name: _graph_report(graph) for name, graph in graphs.items()},
            **_before_and_after(bundle, open_bundle(partial), frames, validation, crop),
        }
        write_json(partial / REPORT, report)
        plot_report(report, partial / PLOT)
        _write_manifest(bundle, partial, note)
        after = sum(open_bundle(partial).file_bytes.values())
    return Calibrated(report, sum(bundle.file_bytes.values()), after)


def require_frames(frames: Sequence[Image]) -> None:
    """Raise FrameError for too few to calibrate on."""
    if len(frames) < LEAST_FRAMES:
        raise FrameError(f"calibration needs {LEAST_FRAMES} pictures or more, not {len(frames)}")


def calibration_note(target: Target, frames: Sequence[Image]) -> dict[str, Any]:
    """What a manifest says of 8-bit networks."""
    note = {"target": target, "frames": len(frames), "frames_sha256": set_sha256(frames)}
    return {**note, "pictures": BYTES} if target == "cpu" else note


def quantised_graphs(
    bundle: Bundle, runs: dict[str, list[dict[str, Array]]], target: Target
) -> dict[str, Quantised]:
    """The networks of a float bundle in 8 bits, calibrated on such runs (`graph_inputs`)."""
    floats = {name: read_graph(bundle.graph_path(name)) for name in GRAPHS}
    scaled = {"x_decoder": ["features"] if target == "cpu" else []}
    codec = {
        name: quantise_graph(
            floats[name], runs[name], target, COUNTS[name], _fixed(name, target),
            scaled.get(name, ()),
        )
        for name in ("encoder", "x_decoder")
    }  # fmt: skip
    features = features_of(codec["x_decoder"])
    if target == "cpu":
        _note_factors(codec["x_decoder"].model, features.factors)
    fusion = quantise_fusion(floats["fusion"], runs["fusion"], features, target)
    return {**codec, "fusion": fusion}


class Features8(NamedTuple):
    """How an 8-bit x_decoder yields its features: `factors` (features,) times those of the float
    one, in this range."""

    range: Range
    factors: npt.NDArray[np.float64]


def features_of(x_decoder: Quantised) -> Features8:
    """Of a graph that was just made."""
    factors = x_decoder.factors.get("features", np.ones(1))
    return Features8(x_decoder.ranges["features"], factors)


def features_in_bundle(path: Path) -> Features8:
    """Of an x_decoder with channels last that a bundle has."""
    graph = onnx.load(path, load_external_data=False)
    parts = {tensor.name: tensor for tensor in graph.graph.initializer}
    (rounding,) = (node for node in graph.graph.node if node.output[0] == "features")
    scale, zero = (float(numpy_helper.to_array(parts[name])) for name in rounding.input[1:3])
    notes = {note.key: note.value for note in graph.metadata_props}
    factors = np.array(json.loads(notes.get(FACTORS, "[1]")), np.float64)
    return Features8(Range(-zero * scale, (255 - zero) * scale), factors)


def _note_factors(x_decoder: onnx.ModelProto, factors: npt.NDArray[np.float64]) -> None:
    onnx.helper.set_model_props(x_decoder, {FACTORS: json.dumps(factors.tolist())})


def quantise_fusion(
    graph: onnx.ModelProto, runs: Sequence[dict[str, Array]], features: Features8, target: Target
) -> Quantised:
    """A fusion in 8 bits. `features` tells how x_decoder's graph yields them: with target cpu they
    come as its 8 bits, and the doubt beside them is scaled to have such a range."""
    if target != "cpu":
        return quantise_graph(graph, runs, target, COUNTS["fusion"])
    factors = features.factors.astype(np.float32)[:, None, None]
    given = [{**run, "features": run["features"] * factors} for run in runs]
    like = with_doubt_as_large(graph, features.range.high)
    _divide_kernel(like, features.factors)
    fixed = {**PICTURES["fusion"], "known": features.range}
    return quantise_graph(like, given, target, COUNTS["fusion"], fixed)


def _divide_kernel(fusion: onnx.ModelProto, factors: npt.NDArray[np.float64]) -> None:
    """Make a fusion take features that are times these factors, in place."""
    (kernel,) = (t for t in fusion.graph.initializer if t.name == "stem_features_weight")
    weight = numpy_helper.to_array(kernel).copy()
    weight[:, : _feature_count(fusion)] /= factors[:, None, None]
    replace_constant(kernel, weight)


def _feature_count(fusion: onnx.ModelProto) -> int:
    """How many of what the stem of a fusion reads are features; the rest are doubts."""
    (known,) = (value for value in fusion.graph.input if value.name == "features")
    return int(known.type.tensor_type.shape.dim[1].dim_value)


def with_doubt_as_large(graph: onnx.ModelProto, largest: float) -> onnx.ModelProto:
    """A copy of a fusion whose doubt reaches this value, with the inverse in the kernel."""
    out, constants = copied(graph)
    scale, kernel = constants["cost_scale"], constants["stem_features_weight"]
    reached = np.log(numpy_helper.to_array(constants["worst_cost"]).item() + 1)
    old = numpy_helper.to_array(scale)
    new = np.full_like(old, largest / reached)
    weight = numpy_helper.to_array(kernel).copy()
    weight[:, _feature_count(out) :] *= (old / new).item()
    for tensor, value in ((scale, new), (kernel, weight)):
        replace_constant(tensor, value)
    return out


def _fixed(name: str, target: Target) -> dict[str, Range]:
    return PICTURES[name] if target == "cpu" else {}


def graph_inputs(bundle: Bundle, frames: Sequence[Image]) -> dict[str, list[dict[str, Array]]]:
    """What the graphs of a bundle are given for these frames, at several rates, in their layout
    (`dsin.runtime.codec.layouts`). Frames are cut to their middles of one size. Raises FrameError
    for frames that are too small."""
    middles = [middle(frame, bundle.frame_multiple, SIZE, what=FRAME) for frame in frames]
    runs: dict[str, list[dict[str, Array]]] = {name: [] for name in GRAPHS}
    encoder, decoder = family_of(bundle).open_codecs(bundle, "cpu", None)
    for number in range(0, len(middles) - 1, 2):
        x, y = middles[number : number + 2]
        if y.shape != x.shape:
            y = np.roll(x, 5, 1)
        # Low and high rates in turn, so that the first few runs have seen both.
        rate = (1 + 5 * (number // 2)) % len(bundle.rate_points)
        index = {"rate": np.array([rate], np.int64)}
        decoded = []
        for view in (x, y):
            given = encoder.given(view)
            y_hat = encoder.latent(given, rate)
            runs["encoder"].append({"x": on_host(given), **index})
            runs["x_decoder"].append({"y_hat": y_hat[None], **index})
            x_dec, features = decoder.reconstruct(y_hat, rate)
            assert features is not None
            decoded.append((on_host(x_dec), on_host(features)))
        x_dec, features = decoded[0]
        pieces = _side_pieces(bundle, x_dec, y, decoded[1][0])
        runs["fusion"].append({"x_dec": x_dec, "features": features, **pieces, **index})
    return runs


def _side_pieces(bundle: Bundle, x_dec: Array, y: Image, y_dec: Array) -> dict[str, Array]:
    """What the bundle's fusion sees of y, by the names of its inputs."""
    if bundle.search.flow:
        flow = FlowSearch(bundle.search, None)
        planes = flow.find(x_dec, flow.prepare(y)).planes
    else:
        blocks = CpuBlockSearch(bundle.search, None)
        planes = blocks.find(x_dec, blocks.prepare(y, y_dec)).planes
    taken = for_network(planes, levels=bundle.has_level_pictures)
    return {name: on_host(tensor) for name, tensor in taken.items()}


def integer_graph(model: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    """A graph of 8 bits as it is stored for its runtime."""
    border = {value.name for value in (*model.graph.input, *model.graph.output)}
    stored = channels_last(model, border & {"features"}) if target == "cpu" else model
    # Kernels of layers that stay in float: what float16 loses is far below what 8 bits do.
    store_as_half(stored)
    return stored


def _write_graphs(graphs: dict[str, onnx.ModelProto], directory: Path) -> None:
    files: dict[str, dict[str, onnx.ModelProto]] = {file: {} for file in GRAPHS.values()}
    for name, graph in graphs.items():
        files[GRAPHS[name]][name] = graph
    save_graphs(directory, files)


def _write_manifest(bundle: Bundle, directory: Path, calibration: dict[str, Any]) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    for name in ("int8", "looks"):  # of the float networks
        manifest.pop(name, None)
    manifest["graphs"] = {**manifest["graphs"], **{name: f"{name}.onnx" for name in GRAPHS}}
    manifest["training"] = {**manifest.get("training", {}), "calibration": calibration}
    manifest["training"].pop("export", None)  # it compares other graphs
    manifest["training"].pop("metrics", None)
    (directory / MANIFEST).unlink(missing_ok=True)
    write_json(directory / MANIFEST, {**manifest, "files": file_table(directory)})


def _graph_report(graph: Quantised) -> dict[str, Any]:
    return {
        "relative_error_all_layers": graph.error_all,
        "relative_error": graph.error,
        "layers": [dataclasses.asdict(layer) for layer in graph.layers],
        "method": graph.method,
        "ranges": {name: list(range_) for name, range_ in graph.ranges.items()},
    }


def _before_and_after(
    before: Bundle, after: Bundle, frames: Sequence[Image], validation: Sequence[Pair],
    crop: tuple[int, int] | None,
) -> dict[str, Any]:  # fmt: skip
    """Bytes and PSNR of the first frame, speed of the graphs, and BD-rates if there are pairs."""
    x, y = (middle(frame, before.frame_multiple, SIZE, what=FRAME) for frame in frames[:2])
    found: dict[str, Any] = {
        "first_frame": {
            name: _one_frame(bundle, x, y if y.shape == x.shape else x)
            for name, bundle in (("float", before), ("int8", after))
        },
        "speed_ratio": _speed_ratios(before, after, frames),
    }
    if not validation:
        return {**found, "bd_rate_percent": None}
    curves = {
        name: curve(means_of_rates(bundle, list(validation), crop=crop))
        for name, bundle in (("float", before), ("int8", after))
    }
    rates = bd_rates(curves["int8"], curves["float"])
    points = {name: [p._asdict() for p in c] for name, c in curves.items()}
    return {**found, "bd_rate_percent": rates, "points": points}


def _one_frame(bundle: Bundle, x: Image, y: Image) -> dict[str, float]:
    with Encoder(bundle) as encoder, Decoder(bundle) as decoder:
        packet = encoder.encode(x)
        return {"bytes": len(packet), "psnr_db": psnr_db(decoder.decode(packet, y).image, x)}


def _speed_ratios(before: Bundle, after: Bundle, frames: Sequence[Image]) -> dict[str, float]:
    """Time of each float graph over that of its 8-bit one: medians, taken in turn."""
    import time

    bundles = before, after
    runs = [graph_inputs(bundle, frames[:2]) for bundle in bundles]
    ratios = {}
    for name in GRAPHS:
        sessions = [open_session(bundle.graph_path(name)) for bundle in bundles]
        times: list[list[float]] = [[], []]
        for _ in range(12):
            for session, given, kept in zip(sessions, runs, times, strict=True):
                start = time.perf_counter()
                session.run(**given[name][0])
                kept.append(time.perf_counter() - start)
        ratios[name] = float(np.median(times[0][2:]) / np.median(times[1][2:]))
    return ratios
